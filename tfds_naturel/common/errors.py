"""The exceptions that commands handle. See ``tfds_naturel.common.cli`` for the exit codes."""

import re


class UserError(ValueError):
    """A mistake in the user's input: a flag, a config field, a file, a name.

    The message is one line with the file, key or field, what was found, what was expected, and the fix. Commands print
    it without a traceback and exit with ``cli.USER_ERROR``. Line breaks and control characters are shown as
    escapes, and addresses in memory, which libraries put into their messages, are left out.
    """

    def __str__(self) -> str:
        text = re.sub(r" at 0x[0-9a-f]{6,}", "", super().__str__())
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Stopped(Exception):
    """A run was asked to stop and saved its state; the same command continues it. Exit code: ``cli.STOPPED``."""


class Unavailable(OSError):
    """An object store kept failing until the time limit; saved data is intact, and the same command continues from
    there. Exit code: ``cli.STOPPED``."""
