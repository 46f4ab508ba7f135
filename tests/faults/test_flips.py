"""Flipped bits in all that a run keeps, its workdir and its caches: each is found, which is said in one line, or
repaired with a warning, or without effect on any number."""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.data.items import index_writer
from naturel_jax.devices import preemption
from naturel_jax.storage import object_folders, read_json_lines, staging
from naturel_jax.training import run
from tests.helpers import record_files, tiny_config
from tests.helpers.worlds import parameters
from tfds_naturel.common.errors import Stopped, UserError

KINDS = ("processor.json", "texts.uint8", "images.bin", "07.jpg")

pytestmark = pytest.mark.usefixtures("quick_compilation")


class Kept:
    """A run in the middle, on records whose index and image copies are kept, and on records and a benchmark of which
    copies from a store are; images are decoded once if ``cache`` says so."""

    def __init__(self, folder: Path, url: str, cache: str):
        self.now, self.before = folder / "now", folder / "before"
        (self.now / "data").mkdir(parents=True)
        raw = tiny_config.get_config()
        for name, prefix, place in (("main", "parquet", self.now / "data"), ("staged", "csv", folder / "store")):
            dataset, fields = record_files.written(prefix, place)
            raw.data.mixture[name] = c.part(dataset.replace(str(place), url), "one_pair", fields=fields)
        raw.data.mixture.main.dataset = f"parquet:{self.now}/data/part-*.parquet"
        rows = [
            {
                "image": f"photos/{n:02}.jpg",
                "caption": record_files.positives(n),
                "negatives": record_files.negatives(n),
            }
            for n in range(8)
        ]
        (folder / "store/my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        object_folders.upload(object_folders.files_in(folder / "store"), folder / "store", epath.Path(url))
        raw.data.dir, raw.data.cache, raw.data.cache_dir = str(self.now / "data"), cache, str(self.now / "cache")
        raw.data.batch_size, raw.duration, raw.optim.warmup = 8, "6 steps", "0 steps"
        raw.checkpoint.every = "2 steps"
        raw.eval.benchmarks, raw.eval.during = (f"pairs:{url}/my.jsonl",), {"my": "2 steps"}
        self.config = c.load(raw)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(preemption, "stop_requested", lambda: len(self.losses()) >= 3)
            run.run(self.config, self.now / "run")
        self.now.rename(self.before)
        self.expected = self.continued()

    def losses(self) -> list[tuple[int, dict[str, float]]]:
        """Losses and scores of each step."""
        lines = read_json_lines(epath.Path(self.now / "run" / "metrics.jsonl"))
        chosen = ("train/loss", "my/accuracy")
        return [(line["step"], {name: line[name] for name in chosen if name in line}) for line in lines]

    def files(self) -> list[Path]:
        """All but the records on the disk, which are the user's."""
        found = [path.relative_to(self.before) for path in self.before.rglob("*") if path.is_file()]
        kept = [path for path in found if path.parts[0] != "data" or ".cache" in path.parts]
        return sorted(path for path in kept if (self.before / path).stat().st_size)

    def continued(self, flipped: Path | None = None, draw: random.Random | None = None) -> tuple | str:
        """Losses, scores and parameters of the continued run, or what it was refused with."""
        shutil.rmtree(self.now, ignore_errors=True)
        shutil.copytree(self.before, self.now)
        if flipped and draw:
            flip(self.now / flipped, draw)
        index_writer._checked.clear()
        staging._checked.clear()
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


@pytest.fixture(scope="module", params=["", pytest.param("decoded", marks=pytest.mark.proof)])
def kept(request, stores, tmp_path_factory) -> Iterator[Kept]:
    cache = request.param
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("home")))
        yield Kept(tmp_path_factory.mktemp("kept"), f"{stores['gs'].url}/flips/{cache or 'read'}", cache)


def check(kept: Kept, flipped: Path, seed: int) -> str:
    """Flips a bit, and continues the run: what came of it."""
    found = kept.continued(flipped, random.Random(seed))
    if isinstance(found, str):
        return "refused"
    assert found[0] == kept.expected[0], f"{flipped}, seed {seed}"
    for path, value in kept.expected[1].items():
        np.testing.assert_array_equal(found[1][path], value, err_msg=f"{flipped}, seed {seed}: {path}")
    return "same"


@pytest.mark.slow
def test_flipped_bits_never_change_a_number(kept):
    """One in some kinds of files that numbers come from."""
    kinds = {path.name if "0000" not in path.name else path.suffix: path for path in kept.files()}
    found = {name: check(kept, kinds[name], seed=len(name)) for name in KINDS}
    assert found["07.jpg"] == "same", found


@pytest.mark.proof
def test_50_flipped_bits_never_change_a_number(kept):
    """In a run with decoded images and in one without."""
    draw, outcomes = random.Random(0), Counter[str]()
    files = kept.files()
    for seed in range(50):
        outcomes[check(kept, draw.choice(files), seed)] += 1
    print(f"seen: {len(files)} files: {dict(outcomes)}")
    assert outcomes["refused"] < 50
