"""Flipped bits in all that is kept: a run's workdir and its caches, results and what reports are made of, pools of
images and their index. Each is found, which is said in one line, or repaired with a warning, or without effect on any
number."""

import itertools
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from naturel_jax import config as c
from naturel_jax.cli.sweeps import grids, runs, table
from naturel_jax.config import Fields
from naturel_jax.data.items import index_writer
from naturel_jax.devices import preemption
from naturel_jax.evaluators.pool import embedded, files, images, index
from naturel_jax.storage import object_folders, read_json_lines, staging
from naturel_jax.training import run
from tests.helpers import record_files, tiny_config
from tests.helpers.worlds import parameters
from tfds_naturel.common.errors import Stopped, UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

KINDS = ("processor.json", "texts.uint8", "images.bin", "07.jpg")
PARTS = 4  # of a run's files: each takes minutes
Numbers = Any  # of a subject: arrays, numbers and texts


class Subject:
    """What is kept in a folder, and ``read``: the numbers that are made of it, in that folder."""

    def __init__(self, folder: Path, read: Callable[[], Numbers]):
        self.now, self.before, self._read = folder, folder.with_name("before"), read
        folder.rename(self.before)
        self.expected = self.outcome()

    def files(self) -> list[Path]:
        """All but the records on the disk, which are the user's."""
        found = [path.relative_to(self.before) for path in self.before.rglob("*") if path.is_file()]
        kept = [path for path in found if path.parts[0] != "data" or ".cache" in path.parts]
        return sorted(path for path in kept if (self.before / path).stat().st_size)

    def outcome(self, flipped: Path | None = None, draw: random.Random | None = None) -> Numbers | str:
        """The numbers, or what they were refused with; with a random bit of the file ``flipped``."""
        shutil.rmtree(self.now, ignore_errors=True)
        shutil.copytree(self.before, self.now)
        if flipped and draw:
            flip(self.now / flipped, draw)
        index_writer._checked.clear()
        staging._checked.clear()
        try:
            return self._read()
        except (UserError, OSError) as error:
            assert "\n" not in str(error)
            return f"refused: {error}"


def flip(path: Path, draw: random.Random) -> None:
    """Flips a random bit of a file, whose times stay as they are."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def check(subject: Subject, flipped: Path, seed: int) -> str:
    """Flips a bit, and reads the numbers: what came of it."""
    found = subject.outcome(flipped, random.Random(seed))
    if isinstance(found, str):
        return "refused"
    np.testing.assert_equal(found, subject.expected, err_msg=f"{flipped}, seed {seed}")
    return "same"


def check_all(subject: Subject, files: list[Path], more: int = 0) -> None:
    """Flips a bit of each of ``files``, and ``more`` of any."""
    draw = random.Random(0)
    chosen = files + [draw.choice(files) for _ in range(more)]
    outcomes = Counter[str]()
    for seed, path in enumerate(chosen):
        outcomes[outcome := check(subject, path, seed)] += 1
        print(f"{path}: {outcome}", flush=True)
    print(f"seen: {len(files)} files: {dict(outcomes)}")
    assert outcomes["refused"] < len(chosen)


# ---- Subjects --------------------------------------------------------------------------------------------------------


def config_of(folder: Path, store: Path, url: str, cache: str = "") -> Any:
    """The config of a run of six steps on records of which an index and image copies are kept, and on records and a
    benchmark of which copies from a store are."""
    (folder / "data").mkdir(parents=True)
    raw = tiny_config.get_config()
    for name, prefix, place in (("main", "parquet", folder / "data"), ("staged", "csv", store)):
        dataset, fields = record_files.written(prefix, place)
        raw.data.mixture[name] = c.part(dataset.replace(str(place), url), "one_pair", fields=fields)
    raw.data.mixture.main.dataset = f"parquet:{folder}/data/part-*.parquet"
    rows = []
    for n in range(8):
        (store / f"photos/shown_{n}.jpg").write_bytes(record_files.image(100 + n))
        texts = {"caption": record_files.positives(n), "negatives": record_files.negatives(n)}
        rows.append({"image": f"photos/shown_{n}.jpg", **texts})
    (store / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    object_folders.upload(object_folders.files_in(store), store, epath.Path(url))
    raw.data.dir, raw.data.cache, raw.data.cache_dir = str(folder / "data"), cache, str(folder / "cache")
    raw.data.batch_size, raw.duration, raw.optim.warmup = 8, "6 steps", "0 steps"
    raw.checkpoint.every = "2 steps"
    raw.eval.benchmarks, raw.eval.during = (f"pairs:{url}/my.jsonl",), {"my": "2 steps"}
    return raw


def steps(workdir: Path) -> list[tuple[int, dict[str, float]]]:
    """Losses and scores of each step."""
    lines, chosen = read_json_lines(epath.Path(workdir / "metrics.jsonl")), ("train/loss", "my/pairs")
    return [(line["step"], {name: line[name] for name in chosen if name in line}) for line in lines]


def interrupted(folder: Path, url: str, cache: str) -> Subject:
    """A run in the middle, which is continued."""
    now = folder / "now"
    config = c.load(config_of(now, folder / "store", url, cache))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(preemption, "stop_requested", lambda: len(steps(now / "run")) >= 4)
        run.run(config, now / "run")

    def read() -> Numbers:
        run.run(config, now / "run")
        return steps(now / "run"), parameters(now / "run")

    return Subject(now, read)


def finished(folder: Path, url: str) -> Subject:
    """A sweep of a run with adapters, one with a curve, one that was pruned and one that failed: its tables, and the
    models."""
    now = folder / "now"
    raw = config_of(now, folder / "store", url)
    run.run(c.load(raw), now / "base")
    raw.preset, raw.init, raw.duration = "", f"run:{now}/base", "2 steps"
    raw.eval.interpolate, raw.eval.interpolate_by = (0.5, 1.0), "my/pairs"
    curved = c.load(raw)
    raw.eval.interpolate, raw.eval.interpolate_by, raw.adapter.rank = (), "", 2
    planned = [
        grids.Planned(key, key, 0, config, "command")
        for key, config in (("adapted", c.load(raw)), ("curved", curved), ("pruned", curved), ("failed", curved))
    ]
    for one in planned[:2]:
        runs.train(one, now)
    for one, error in zip(planned[2:], (runs.Pruned(2, 0.25), UserError("why")), strict=True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "run", lambda *_, error=error: (_ for _ in ()).throw(error))
            (now / one.key).mkdir()
            runs.train(one, now)

    def read() -> Numbers:
        text = table.write(now, planned, "my/pairs", "adapted")
        written = [(now / name).read_text() for name in ("differences.csv", "runs.csv", "scores.csv")]
        models = [parameters(now / name) for name in ("adapted", "curved@interpolated:best")]
        return text, written, models, steps(now / "curved")

    return Subject(now, read)


def pool(folder: Path) -> Subject:
    """A pool and its index: names, neighbours and cosines; without the time of the index's last change, by which any
    flip would be found."""
    now = folder / "now"
    now.mkdir()
    (folder / "records").mkdir()
    opened = images.open_pool(record_files.write_jsonl(folder / "records"), "data", "train", Fields(), 5)
    output, draw = files.Output(epath.Path(now), opened, {"model": "tiny"}), np.random.default_rng(0)
    for number, start in enumerate(range(0, record_files.COUNT, 5)):
        names = [f"{n}.jpg" for n in range(start, min(start + 5, record_files.COUNT))]
        arrays = {name: draw.normal(size=(len(names), 8)).astype(np.float16) for name in ("img_emb", "text_emb")}
        output.write(images.Part(0, number), {"image_path": names, "caption": names}, arrays, [])
    made_from = index._made_from

    def read() -> Numbers:
        found = embedded.EmbeddedPool(now)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "_made_from", lambda *places: {**made_from(*places), "written": []})
            rows, cosines = index.load_or_build(found, 1 << 30).search(found[np.arange(len(found))], 5)
        return list(found.names()), rows, cosines

    read()
    return Subject(now, read)


@pytest.fixture(scope="module")
def compiled(quick_compilation, tmp_path_factory) -> Iterator[None]:
    """Each program is compiled once, indexes are made in this process, and each copy from a store lies in a folder of
    this module."""
    folder = tmp_path_factory.mktemp("home")
    options = {"jax_compilation_cache_dir": str(folder / "xla"), "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in options}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        patch.setattr(index_writer, "parallel", lambda function, jobs, workers: itertools.starmap(function, jobs))
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module", params=["", pytest.param("decoded", marks=pytest.mark.proof)])
def continued(request, compiled, stores, tmp_path_factory) -> Subject:
    cache = request.param
    return interrupted(tmp_path_factory.mktemp("kept"), f"{stores['gs'].url}/flips/{cache or 'read'}", cache)


# ---- Flips -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_flipped_bits_never_change_a_number(continued):
    """One in some kinds of files that numbers come from."""
    kinds = {path.name if "0000" not in path.name else path.suffix: path for path in continued.files()}
    found = {name: check(continued, kinds[name], seed=len(name)) for name in KINDS}
    assert found["07.jpg"] == "same", found


@pytest.mark.proof
@pytest.mark.parametrize("part", range(PARTS))
def test_a_bit_of_each_file_of_a_run_changes_no_number(part, continued):
    """In a run with decoded images and in one without."""
    check_all(continued, continued.files()[part::PARTS])


@pytest.mark.proof
def test_bits_of_results_change_no_number(compiled, stores, tmp_path):
    subject = finished(tmp_path, f"{stores['gs'].url}/flips/finished")
    of_runs = [path for path in subject.files() if path.parts[0] not in ("base", "cache", "data")]
    check_all(subject, [path for path in of_runs if "checkpoints" not in path.parts], more=30)
    check_all(subject, [path for path in of_runs if "checkpoints" in path.parts][::5])


@pytest.mark.slow
def test_bits_of_a_pool_change_no_neighbour(tmp_path):
    subject = pool(tmp_path)
    check_all(subject, subject.files(), more=20)
