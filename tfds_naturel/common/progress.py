"""Progress of long loops: a bar on a terminal, a line a minute in the log of a job."""

import io
import logging
import sys
from typing import Any

import tqdm

_LOG = logging.getLogger(__name__)
SECONDS = 60  # between lines
_LINE = "{desc}: {n_fmt} of {total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Progress(tqdm.tqdm):
    """``tqdm.tqdm`` with the same arguments. If stderr is not a terminal, carriage returns would pile up in one endless
    line, so it logs lines instead: one a minute, and one at the end."""

    def __init__(self, *arguments: Any, **options: Any):
        self._logs = not sys.stderr.isatty()
        if self._logs:
            options = {"mininterval": SECONDS, "maxinterval": SECONDS, "bar_format": _LINE} | options
            options["file"] = io.StringIO()  # for the line ends that tqdm writes itself
        super().__init__(*arguments, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draws the bar, or logs the line."""
        if not self._logs:
            super().display(msg, pos)
        elif self.n:
            _LOG.info("%s", str(self))
