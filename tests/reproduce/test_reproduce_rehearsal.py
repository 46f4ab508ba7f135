"""The command on loopback servers with files of the true formats: killed in a stage and started again; and a proof of
the whole."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import processes, rehearsal
from tests.helpers.documents import ROOT

PHOTOS = 60
DOWNLOADS = ("--stage", "annotations,photos,coco,benchmarks")  # the rest would ask for 16 GB of disk


def start(world: rehearsal.World, workdir: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "naturel_jax.reproduce", "--workdir", str(workdir), *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, "--budget", f"photos={PHOTOS}"], env=world.environment, cwd=ROOT, **pipes)


@pytest.mark.slow
def test_killed_in_a_stage_the_same_command_continues(tmp_path):
    """Downloads only, with a hub that has no Winoground and a mirror that breaks off among the photos."""
    with rehearsal.serve(tmp_path / "world", PHOTOS) as world:
        del world.hub.repositories["facebook/winoground"]
        workdir = tmp_path / "work"
        shutil.copytree(world.by_hand, workdir, symlinks=True)
        photos = workdir / "open_images/images/train"
        killed = start(world, workdir, *DOWNLOADS)
        processes.wait_until(lambda: [*photos.glob("*.jpg")] or killed.poll() is not None)
        assert killed.poll() is None, killed.communicate()[0][-3000:]
        killed.send_signal(signal.SIGKILL)
        killed.communicate(timeout=60)  # until its child has ended too, which writes to the same pipe
        first = json.loads((workdir / "state.json").read_text())
        assert list(first["stages"]) == ["annotations"], "killed among the photos"

        before = list(world.requested)
        again = start(world, workdir, *DOWNLOADS)
        output = again.communicate(timeout=300)[0]
        assert again.returncode == 3, output[-3000:]
        assert len(list(photos.glob("*.jpg"))) == PHOTOS
        fetched = [path for path in world.requested[len(before) :] if "/open-images-dataset" in path]
        assert len(fetched) == len(set(fetched)) and not any(".csv" in path for path in world.requested[len(before) :])
        stages = json.loads((workdir / "state.json").read_text())["stages"]
        assert {name: len(one["gaps"]) for name, one in stages.items()} == {
            **dict.fromkeys(("annotations", "photos", "coco"), 0),
            "benchmarks": 1,
        }
        assert "NegCLIP-AP, which trains on half of it" in stages["benchmarks"]["gaps"][0]
        assert (workdir / "files/aro/vgr_excluded_relations.json").exists()


@pytest.mark.proof
def test_rehearsal_of_all_stages(tmp_path):
    script = [sys.executable, ROOT / "proofs" / "rehearse.py", "--folder", tmp_path / "rehearsal"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
