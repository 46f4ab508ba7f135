"""Checkpoints of our own and big_vision's folders with mutated files; other files of models are in test_readers.py."""

from pathlib import Path

import pytest
from etils import epath

from naturel_jax import weights
from naturel_jax.checkpoints import manifest
from naturel_jax.weights import export, processor_files
from tests.helpers.fuzzing import every_count, fuzz
from tests.helpers.model_files import tiny
from tests.helpers.readers import find, use


@every_count
def test_big_vision(tmp_path, count):
    folder = tmp_path / "model"
    export.save(folder, *tiny("tiny-siglip"), form="big_vision")
    fuzz([folder / processor_files.OWN], lambda: find(folder), count)


RUN_FILES = ("meta/metadata", "params/_METADATA", "params/_sharding", "params/manifest.ocdbt", "_CHECKPOINT_METADATA")


@every_count
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's, after a restore that failed
def test_run(tmp_path, count):
    """A run from elsewhere, whose manifest fits its files."""
    export.save(tmp_path / "run", *tiny("tiny-clip"), form="run")
    step = epath.Path(tmp_path / "run/checkpoints/0")

    def read() -> None:
        manifest.write(step)
        use(weights.load(f"run:{tmp_path / 'run'}").processor)

    fuzz([Path(step) / name for name in RUN_FILES], read, count // 4)  # a second each
