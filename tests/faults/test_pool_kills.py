"""Processes that embed a pool are killed at some moment and started again: every part is whole, and written once."""

import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

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
    source, out = records.write_webdataset(tmp_path), tmp_path / "out"

    def start(share):
        flags = [f"--model={tmp_path}/tiny", f"--source={source}", f"--out={out}", "--rows=1", "--batch_size=1"]
        command = [sys.executable, "-m", "naturel_jax.embed", *flags, f"--share={share}/2"]
        return subprocess.Popen(command, cwd=ROOT)  # pytest shows what it writes if the test fails

    def written() -> dict[Path, int]:
        """Every file of the parts that are done, and when it was written."""
        parts = {path.stem for path in out.glob("done/*.json")}
        files = [path for path in out.glob("*/*") if re.sub(r"^[a-z_]+_", "", path.stem) in parts]
        return {path: path.stat().st_mtime_ns for path in files}

    running = [start(0), start(1)]
    wait_until(lambda: [*out.glob("done/*.json")])
    time.sleep(random.uniform(0, 0.02))
    for process in running:
        process.kill()
        process.wait()
    done = written()
    for path in out.glob("done/*.json"):  # what is done is there
        stem = path.stem
        assert len(np.load(out / f"img_emb/img_emb_{stem}.npy")) == json.loads(path.read_text())["images"]
    assert [process.wait(300) for process in [start(0), start(1)]] == [0, 0]
    assert done.items() <= written().items(), "a part that was done is written again"
    names = [
        name
        for path in sorted((out / "metadata").glob("*.parquet"))
        for name in pq.read_table(path)["image_path"].to_pylist()
    ]
    assert names == [f"set/{n:06}" for n in range(records.COUNT)]
    assert sum(len(np.load(path)) for path in out.glob("img_emb/*.npy")) == records.COUNT
