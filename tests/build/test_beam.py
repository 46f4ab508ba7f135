"""Mining by Apache Beam finds what one process does, byte for byte, and goes on where it was interrupted."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import apache_beam.options.pipeline_options as beam_options
import numpy as np
import pytest

from naturel_jax import mine
from naturel_jax.evaluators.pool import index, sharded
from naturel_jax.evaluators.pool.mining import open_dataset
from tests.helpers import open_images_files
from tests.helpers.pools import write_pool
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images import captions, mining
from tfds_naturel.hard_images.survey import Survey

BEAM = "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"
IMAGES, KINDS = 2000, {"Flat": 1 << 30, "HNSW32": 1 << 22, "IVF16,PQ4": 1 << 19}  # budgets in bytes


@pytest.fixture(scope="module")
def survey():
    """Every second image of a pool of 4,000 shows one or two of 60 triplets."""
    rng = np.random.default_rng(0)
    triplets = [Triplet(a, relation, b) for a in "ABCDE" for b in "VWXYZ" for relation in ("on", "under")]
    shown = [rng.choice(len(triplets), 1 + n % 2, replace=False).tolist() for n in range(IMAGES)]
    return Survey.from_images((str(2 * n), [triplets[t] for t in numbers]) for n, numbers in enumerate(shown))


def _file(tmp_path, mined, dropped) -> tuple[bytes, dict[str, int]]:
    mining.save(tmp_path / "mined.parquet", mined)
    return (tmp_path / "mined.parquet").read_bytes(), dict(dropped)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_what_one_process_finds_with_any_index(kind, survey, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "EXACT", 1 << 30 if kind == "Flat" else 100)
    monkeypatch.setattr(mining, "ROWS", 64), monkeypatch.setattr(sharded, "SHARD", 256)
    write_pool(tmp_path / "pool", 2 * IMAGES)
    margins, dropped, one_dropped = mining.Margins(relative_margin=0.05), Counter(), Counter()
    zimg_ND, search, about = open_dataset(tmp_path / "pool", survey.image_ids, KINDS[kind])
    assert about["kind"] == kind
    one = _file(tmp_path, mining.mine(survey, 3, 7, zimg_ND, search, margins, one_dropped), one_dropped)
    job = sharded.Job(tmp_path / "shards", tmp_path / "pool", KINDS[kind], 3, 7, margins)
    options = beam_options.PipelineOptions(["--runner=DirectRunner"])
    sharded.mine(job, survey, options)
    assert _file(tmp_path, sharded.mined(job, survey, dropped), dropped) == one
    assert len(one[0]) > 10_000 and min(one[1][name] for name in ("not_in_dataset", "relative_margin")) > 0
    shards = sorted(path for path in (tmp_path / "shards").iterdir() if path.name != "survey")
    assert len(shards) == 8
    times = [path.stat().st_mtime_ns for path in shards]
    shards[2].unlink()
    shards[5].write_bytes(shards[5].read_bytes()[:-1])
    again = Counter()
    sharded.mine(job, survey, options)
    assert _file(tmp_path, sharded.mined(job, survey, again), again) == one
    changed = [n for n, path in enumerate(shards) if path.stat().st_mtime_ns != times[n]]
    assert changed == [2, 5], "only what was missing or damaged is mined again"


def test_shards_are_what_one_process_finds_near_to_captions(survey, tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "ROWS", 64), monkeypatch.setattr(sharded, "SHARD", 256)
    z_ND, margins, dropped, one_dropped = (
        write_pool(tmp_path / "pool", 2 * IMAGES),
        mining.Margins(),
        Counter(),
        Counter(),
    )
    zimg_ND, _, _ = open_dataset(tmp_path / "pool", survey.image_ids, 1 << 30, by_image=False)
    queries = captions.queries(survey, zimg_ND, z_ND[1 : 2 * len(survey.triplets) : 2], margins.stop(3))
    mined = mining.mine(survey, 3, 7, zimg_ND, None, margins, one_dropped, queries=queries)
    one = _file(tmp_path, mined, one_dropped)
    job = sharded.make_job(tmp_path / "mined.parquet", "1", tmp_path / "pool", 1 << 30, 3, 7, margins, "tiny")
    sharded.mine(job, survey, beam_options.PipelineOptions(["--runner=DirectRunner"]), lambda: queries)
    assert _file(tmp_path, sharded.mined(job, survey, dropped), dropped) == one and len(one[0]) > 10_000


@pytest.mark.parametrize("with_pool", [False, True])
def test_command_with_two_worker_processes_writes_the_same_files(with_pool, tmp_path):
    dataset = open_images_files.build_dataset(open_images_files.write_world(tmp_path / "world"), tmp_path)
    command = ["--dataset", str(dataset), "--count", "4", "--out"]
    pool = ["--pool", str(tmp_path / "pool")] if with_pool else []
    if with_pool:
        write_pool(tmp_path / "pool", 90, names=[open_images_files.image_id(n) for n in range(90)])
    mine.main([*command, str(tmp_path / "one.parquet"), *pool])
    # Beam's workers re-import the main module, which must not be pytest.
    process = [sys.executable, "-m", "naturel_jax.mine", *command, str(tmp_path / "beam.parquet"), *pool]
    subprocess.run([*process, "--beam", BEAM], check=True, timeout=300, env=os.environ)
    for suffix in ("parquet", "parquet.json"):
        assert (tmp_path / f"beam.{suffix}").read_bytes() == (tmp_path / f"one.{suffix}").read_bytes()
    assert not Path(f"{tmp_path}/beam.parquet.shards").exists()
