"""The exceptions that commands handle. See ``tfds_naturel.common.cli`` for the exit codes."""

import re

_HEAD, _TAIL = 1000, 500  # characters of a message: the file and what was found, and the fix


def shortened(message: str) -> str:
    """``message`` without the middle of a long one, which quotes what a file may hold any amount of."""
    more = len(message) - _HEAD - _TAIL
    return message if more <= 0 else f"{message[:_HEAD]} [{more:,} more characters] {message[-_TAIL:]}"


class UserError(ValueError):
    """A mistake in the user's input: a flag, a config field, a file, a name.

    The message is one line with the file, key or field, what was found, what was expected, and the fix. Commands print
    it without a traceback and exit with ``cli.USER_ERROR``. Line breaks and control characters are shown as
    escapes, and addresses in memory, which libraries put into their messages, are left out; so is the middle of a long
    message (``shortened``).
    """

    def __str__(self) -> str:
        text = re.sub(r" at 0x[0-9a-f]{6,}", "", super().__str__())
        text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
        return shortened(text)


class Stopped(Exception):
    """A run was asked to stop and saved its state; the same command continues it. Exit code: ``cli.STOPPED``."""


class Unavailable(OSError):
    """An object store kept failing until the time limit; saved data is intact, and the same command continues from
    there. Exit code: ``cli.STOPPED``."""
