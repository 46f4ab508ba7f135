"""Flipped bits in all that a run keeps, its workdir and its caches: each is found, which is said in one line, or
repaired with a warning, or without effect on any number."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.data.items import index_writer
from naturel_jax.devices import preemption
from naturel_jax.storage import read_json_lines
from naturel_jax.training import run
from tests.helpers import record_files, tiny_config
from tests.helpers.worlds import parameters
from tfds_naturel.common.errors import Stopped, UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Kept:
    """A run in the middle, on records whose index, image copies and decoded images are kept."""

    def __init__(self, folder: Path):
        self.now, self.before = folder / "now", folder / "before"
        (self.now / "data").mkdir(parents=True)
        raw = tiny_config.get_config()
        name, fields = record_files.written("parquet", self.now / "data")
        raw.data.mixture = {"main": c.part(name, "one_pair", fields=fields)}
        raw.data.dir, raw.data.cache, raw.data.cache_dir = str(self.now / "data"), "decoded", str(self.now / "cache")
        raw.data.batch_size, raw.duration, raw.optim.warmup = 8, "6 steps", "0 steps"
        raw.checkpoint.every = "2 steps"
        raw.eval.benchmarks, raw.eval.during = (), {}
        self.config = c.load(raw)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(preemption, "stop_requested", lambda: len(self.losses()) >= 3)
            run.run(self.config, self.now / "run")
        self.now.rename(self.before)
        self.expected = self.continued()

    def losses(self) -> list[tuple[int, float]]:
        lines = read_json_lines(epath.Path(self.now / "run" / "metrics.jsonl"))
        return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]

    def files(self) -> list[Path]:
        """All but the records themselves, which are the user's."""
        found = [path.relative_to(self.before) for path in self.before.rglob("*") if path.is_file()]
        return sorted(path for path in found if path.suffix != ".parquet" and (self.before / path).stat().st_size)

    def continued(self, flipped: Path | None = None, draw: random.Random | None = None) -> tuple | str:
        """Losses and parameters of the continued run, or what it was refused with."""
        shutil.rmtree(self.now, ignore_errors=True)
        shutil.copytree(self.before, self.now)
        if flipped and draw:
            flip(self.now / flipped, draw)
        index_writer._checked.clear()
        try:
            run.run(self.config, self.now / "run")
        except (UserError, OSError) as error:
            assert "\n" not in str(error)
            return str(error)
        return self.losses(), parameters(self.now / "run")


def flip(path: Path, draw: random.Random) -> None:
    """Flips a random bit of a file, whose times stay as they are."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


def check(kept: Kept, flipped: Path, seed: int) -> str:
    found = kept.continued(flipped, random.Random(seed))
    if isinstance(found, str):
        return "refused"
    assert found[0] == kept.expected[0], f"{flipped}, seed {seed}"
    for path, value in kept.expected[1].items():
        np.testing.assert_array_equal(found[1][path], value, err_msg=f"{flipped}, seed {seed}: {path}")
    return "same"


@pytest.mark.slow
def test_flipped_bits_never_change_a_number(kept):
    """One in each kind of file that numbers come from."""
    kinds = {path.name if "0000" not in path.name else path.suffix: path for path in kept.files()}
    for name in ("processor.json", "texts.uint8", "images.bin"):
        check(kept, kinds[name], seed=len(name))


@pytest.mark.proof
def test_100_flipped_bits_never_change_a_number(kept):
    draw, outcomes = random.Random(0), []
    for seed in range(100):
        outcomes.append(check(kept, draw.choice(kept.files()), seed))
    assert outcomes.count("refused") < 100
