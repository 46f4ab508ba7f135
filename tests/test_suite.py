"""The rows of a suite's report."""

import dataclasses

import pytest
import tiny_config

from naturel_jax import config as c
from naturel_jax import suite
from tfds_naturel.errors import UserError


def runs(**names: str) -> dict[str, c.Config]:
    config = c.load(tiny_config.get_config())
    return {key: dataclasses.replace(config, name=name) for key, name in names.items()}


def test_runs_of_one_name_have_rows_of_their_own():
    assert suite.row_names(runs(a="CLIP", b="NegCLIP")) == {"a": "CLIP", "b": "NegCLIP"}
    assert suite.row_names(runs(a="CLIP", b="CLIP", c="SigLIP")) == {"a": "CLIP (a)", "b": "CLIP (b)", "c": "SigLIP"}


def test_rows_that_would_still_share_a_name_are_refused():
    with pytest.raises(UserError, match=r"runs b, c: their rows would all be called 'CLIP \(b\)'; change config.name"):
        suite.row_names(runs(a="CLIP", b="CLIP", c="CLIP (b)"))
