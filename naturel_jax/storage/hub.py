"""Snapshots of repositories on the Hugging Face hub, through ``huggingface_hub`` with its cache, resumption, tokens and
offline mode (``HF_HUB_OFFLINE=1``).

``huggingface_hub`` waits forever for the answer to some requests and retries others for minutes. Here every request has
a timeout, the larger of ``HF_HUB_ETAG_TIMEOUT`` and ``HF_HUB_DOWNLOAD_TIMEOUT`` (10 s by default), and is retried only
once.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError

from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)


def snapshot(repository: str, patterns: Sequence[str], *, revision: str = "", dataset: bool = False) -> Path:
    """The local folder of a repository with the files that match ``patterns``, downloaded unless they are in the cache.

    Raises UserError, in one line, if that fails.
    """
    _LOG.info("%s: fetching %s from %s", repository, ", ".join(patterns), constants.ENDPOINT)
    hooks = huggingface_hub.get_session().event_hooks
    huggingface_hub.set_client_factory(lambda: _ImpatientClient(event_hooks=hooks, follow_redirects=True))
    try:
        path = huggingface_hub.snapshot_download(
            repository,
            repo_type="dataset" if dataset else "model",
            revision=revision or None,
            allow_patterns=list(patterns),
        )
    except (httpx.HTTPError, HFValidationError, OSError, _Silent) as error:  # the hub's errors are OSErrors
        detail = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{repository} on {constants.ENDPOINT}: {detail}") from error
    return Path(path)


class _Silent(Exception):
    """A retried request was not answered either. Not a ``TimeoutException``, which would be retried again."""


class _ImpatientClient(httpx.Client):
    """``huggingface_hub``'s client, which stops waiting for a server that accepts requests but does not answer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unanswered: set[tuple[str, httpx.URL]] = set()

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Raises _Silent for a request that has timed out before."""
        limit = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        given: dict[str, float | None] = request.extensions["timeout"]
        timeout = {name: min(seconds or limit, limit) for name, seconds in given.items()}
        request.extensions = {**request.extensions, "timeout": timeout}
        try:
            return super().send(request, **options)
        except httpx.TimeoutException as error:
            key = request.method, request.url
            if key in self._unanswered:
                raise _Silent(f"no answer to {request.method} {request.url} in {limit} s, twice") from error
            self._unanswered.add(key)
            raise
