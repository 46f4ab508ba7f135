"""The two exceptions that commands treat specially. See ``tfds_naturel.cli`` for the exit codes."""


class UserError(ValueError):
    """A mistake in what the user gave: a flag, a config field, a file, a name.

    The message is one line that names the file, key or field, what was found, what was expected, and the fix. Commands
    print it without a traceback and exit with ``cli.USER_ERROR``.
    """


class Stopped(Exception):
    """A run was asked to stop and has saved; started again, it continues. Commands exit with ``cli.STOPPED``."""
