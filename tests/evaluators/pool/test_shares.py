"""Processes that mine a share of the shards each find what one process does, and the first waits for the others."""

import os
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest

from naturel_jax import mine
from naturel_jax.data import datasets
from naturel_jax.devices.processes import Share
from naturel_jax.evaluators.pool import sharded
from naturel_jax.evaluators.pool.mining import open_dataset
from tests.helpers.pools import write_pool
from tests.helpers.worlds import ROOT, data_dir
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images import captions, mining
from tfds_naturel.hard_images.survey import Survey

IMAGES = 600


def test_shares_are_what_one_process_mines_and_hold_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(mining, "ROWS", 32), monkeypatch.setattr(sharded, "SHARD", 64)
    z_ND = write_pool(tmp_path / "pool", IMAGES)
    shown = [Triplet(a, "on", b) for a in "ABC" for b in "XYZ"]
    survey = Survey.from_images((str(n), [shown[n % 9]]) for n in range(IMAGES))
    expected_dropped, dropped = Counter(), Counter()
    zimg_ND, search, _ = open_dataset(tmp_path / "pool", survey.image_ids, 1 << 30)
    expected = list(mining.mine(survey, 3, 0, zimg_ND, search, dropped=expected_dropped))
    job = sharded.make_job(tmp_path / "out.parquet", "1", tmp_path / "pool", 1 << 30, 3, 0, mining.Margins())

    first = threading.Thread(target=sharded.mine_share, args=(job, survey, Share(0, 3)))
    first.start()
    sharded.mine_share(job, survey, Share(2, 3))
    assert first.is_alive(), "the first waits for the second"
    sharded.mine_share(job, survey, Share(1, 3))
    first.join(60)
    assert not first.is_alive()
    assert list(sharded.mined(job, survey, dropped)) == expected and dropped == expected_dropped
    assert len([path for path in job.folder.iterdir() if path.name != "survey"]) == -(-IMAGES // 64)

    cosines = z_ND @ z_ND.T
    cosines[cosines >= mining.COPY] = -np.inf
    for n, (_, _, names, kinds) in enumerate(expected):
        others = [m for m in np.argsort(-cosines[n], kind="stable") if m % 9 != n % 9][:3]
        assert kinds == ["nearest"] * 3
        np.testing.assert_allclose(cosines[n, list(map(int, names))], cosines[n, others], atol=1e-3)


def test_shares_read_the_queries_that_one_of_them_has_found(tmp_path, monkeypatch):
    """So equal bits are compared, whichever machine a share is on. No index is made."""
    monkeypatch.setattr(mining, "ROWS", 32), monkeypatch.setattr(sharded, "SHARD", 64)
    write_pool(tmp_path / "pool", IMAGES)
    shown = [Triplet("A", "under", "X"), *(Triplet(a, "on", b) for a in "ABC" for b in "XYZ")]
    survey = Survey.from_images((str(n), [shown[n % 10]]) for n in range(IMAGES))
    zimg_ND, search, about = open_dataset(tmp_path / "pool", survey.image_ids, 1 << 30, by_image=False)
    assert search is None and not about and not list((tmp_path / "pool").glob("*.index"))
    queries = captions.queries(survey, zimg_ND, zimg_ND[:10] + zimg_ND[100:110], 12)
    margins, dropped, expected_dropped = mining.Margins(absolute_margin=0.01), Counter(), Counter()
    expected = list(mining.mine(survey, 3, 0, zimg_ND, None, margins, expected_dropped, queries=queries))
    what = "1", tmp_path / "pool", 1 << 30, 3, 0, margins
    job = sharded.make_job(tmp_path / "out.parquet", *what, model="tiny")
    found = []
    for share in (Share(2, 3), Share(1, 3), Share(0, 3)):
        sharded.mine_share(job, survey, share, lambda: found.append(queries) or queries)
    assert len(found) == 1 and list(sharded.mined(job, survey, dropped)) == expected and dropped == expected_dropped
    assert {kind for *_, kinds in expected for kind in kinds} == {"relation", "nearest"} and len(expected) > 100
    assert sharded.make_job(tmp_path / "out.parquet", *what, model="other").folder != job.folder


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--share=2/2", "--pool=pool"], r"--share 2/2: expected INDEX/COUNT"),
        (["--share=0/2", "--model=tiny"], "--share needs --pool in place of --model"),
    ],
)
def test_shares_that_do_not_fit_are_refused(flags, match, tmp_path):
    with pytest.raises(UserError, match=match):
        mine.main(["--dataset", str(tmp_path), f"--out={tmp_path / 'x.parquet'}", *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_share_that_waits_ends_by_a_signal_as_what_may_be_started_again(tmp_path):
    """A cluster starts tasks again that end with 75."""
    dataset, out = os.fspath(datasets.directory(os.fspath(data_dir()), "naturel/tiny")), tmp_path / "out.parquet"
    code = (
        "from naturel_jax import mine; from naturel_jax.evaluators.pool import sharded\n"
        "from tfds_naturel.common import cli; from tfds_naturel.hard_images import mining\n"
        "mining.ROWS = sharded.SHARD = 64; cli.run(mine.main)"
    )
    command = [sys.executable, "-c", code, "--dataset", dataset, "--out", str(out), "--share=0/2"]
    waiting = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while len(shards := [*tmp_path.glob("out.parquet.shards/*/0*")]) < 2 and waiting.poll() is None:
        time.sleep(0.05)
    waiting.terminate()
    output = waiting.communicate(timeout=60)[1]
    assert waiting.returncode == 75 and "run the same command again to continue" in output, output
    assert len(shards) == 2 and not out.exists()
