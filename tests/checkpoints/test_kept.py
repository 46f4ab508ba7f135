"""Which checkpoints are kept."""

import contextlib

import jax.numpy as jnp
import pytest

from naturel_jax.checkpoints import checkpoint
from naturel_jax.checkpoints.kept import Kept


@pytest.mark.parametrize(
    ("kept", "steps", "expected"),
    [
        (Kept(2), [4, 8, 12], [8, 12]),
        (Kept(1, [4]), [4, 6, 8], [4, 8]),  # a run that was stopped at step 6 trains up to 8 with what is mined from 0
        (Kept(1, [4]), [4, 6, 8, 9], [8, 9]),  # at 9, it has what is mined from 4
        (Kept(1, [4]), [4, 5, 6, 7], [4, 7]),  # however often it was stopped
        (Kept(1, [4, 6]), [4, 6, 8, 10, 12], [6, 8, 12]),
        (Kept(5, [4]), [4, 8, 12], [4, 8, 12]),
    ],
    ids=str,
)
def test_the_newest_are_kept_and_those_that_are_worked_from(kept, steps, expected):
    assert kept.steps(steps) == expected


def test_a_run_keeps_on_disk_what_is_mined_from(tmp_path):
    with contextlib.closing(checkpoint.Checkpoints(tmp_path, keep=1, every=[4])) as checkpoints:
        found = []
        for step in (2, 4, 6, 8, 10):
            checkpoints.save(step, {"params": {"a": jnp.zeros(1)}}, {}, wait=True)
            found.append(checkpoint.saved_steps(tmp_path))
    assert found == [[2], [4], [4, 6], [4, 8], [8, 10]]
