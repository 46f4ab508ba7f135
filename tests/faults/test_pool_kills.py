"""Processes that embed a pool are killed at random moments and started again: every part is whole, and written once."""

import json
import random
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

from naturel_jax.weights import export
from tests.helpers import record_files as records
from tests.helpers.model_files import tiny
from tests.helpers.processes import wait_until
from tests.helpers.worlds import ROOT


@pytest.mark.slow
def test_killed_processes_embed_each_image_once(tmp_path):
    export.save(tmp_path / "tiny", *tiny("tiny-clip"), form="hf")
    source, out, rng = records.write_webdataset(tmp_path), tmp_path / "out", random.Random(0)

    def start(share):
        flags = [f"--model={tmp_path}/tiny", f"--source={source}", f"--out={out}", "--rows=1", "--batch_size=1"]
        command = [sys.executable, "-m", "naturel_jax.embed", *flags, f"--share={share}/2"]
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    for _ in range(2):
        running = [start(0), start(1)]
        before = len(list(out.glob("done/*.json")))
        wait_until(lambda n=before: len(list(out.glob("done/*.json"))) > n)
        time.sleep(rng.uniform(0, 0.02))
        for process in running:
            process.kill()
            process.wait()
        for path in out.glob("done/*.json"):  # what is done is there
            stem = path.stem
            assert len(np.load(out / f"img_emb/img_emb_{stem}.npy")) == json.loads(path.read_text())["images"]
    for share in (0, 1):
        assert start(share).wait(timeout=300) == 0
    names = [
        name
        for path in sorted((out / "metadata").glob("*.parquet"))
        for name in pq.read_table(path)["image_path"].to_pylist()
    ]
    assert names == [f"set/{n:06}" for n in range(records.COUNT)]
    assert sum(len(np.load(path)) for path in out.glob("img_emb/*.npy")) == records.COUNT
