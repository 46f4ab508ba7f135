"""Commands that only parse their arguments."""

import argparse

import pytest


class Parsed(Exception):
    """Raised once a command's arguments are parsed, before it does anything."""


def stop_once_parsed(patch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise Parsed

    patch.setattr(argparse.ArgumentParser, "parse_args", stop)
