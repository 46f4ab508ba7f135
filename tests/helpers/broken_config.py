"""A config file that raises, as users' files sometimes do, in several lines and through a function of a library."""

import functools


def _raise(*_):
    try:
        return {}["nothing"]
    except KeyError as error:
        # ml_collections wraps it in an error with the whole traceback in its message
        raise ValueError("first\nsecond") from error


def get_config():
    return functools.reduce(_raise, [1, 2])
