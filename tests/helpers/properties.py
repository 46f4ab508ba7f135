"""Hypothesis, with the same inputs in every run, however long a busy machine takes for one, and files kept nowhere."""

import tempfile
from pathlib import Path

from hypothesis import configuration, given, settings
from hypothesis import strategies as st

__all__ = ["given", "settings", "st"]

configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.load_profile("suite")
