"""Runs and evaluations whose data, workdir and outputs are in an object store, as a user starts them."""

import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import evaluate, storage
from naturel_jax.checkpoints import checkpoint
from naturel_jax.report import compare
from naturel_jax.storage import object_folders
from naturel_jax.storage.object_stores import Location
from tests.helpers import benchmark_files as files
from tests.helpers import sky_task
from tests.helpers.model_files import save_hf as write_model
from tests.helpers.stub_commands import stub
from tests.helpers.worlds import ROOT, SPEED, Run, free_address, parameters, wait_for
from tfds_naturel.scenes.scene import VERSION

LAST = 6  # steps of store_config


def start(folder: Path, name: str, data: str, workdir: str) -> Run:
    """A run on a host of its own: it has copied nothing yet."""
    env = {"XDG_CACHE_HOME": str(folder / name / "cache")}
    return Run(folder / name / "run", f"--workdir={workdir}", config=f"store_config.py:{data}", env=env)


def outcome(workdir: epath.Path) -> tuple[list[dict], dict]:
    """Its metrics but for speed, and its scores."""
    rows = storage.read_json_lines(workdir / "metrics.jsonl")
    metrics = [{name: value for name, value in row.items() if name not in SPEED} for row in rows]
    return metrics, storage.read_json(workdir / "scores.json")["scores"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """The same run on a disk, uninterrupted."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "disk").mkdir()
    start(folder, "disk", f"{folder}/data", f"{folder}/disk/run").finish()
    return folder / "disk" / "run"


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs", pytest.param("s3", marks=pytest.mark.proof)], indirect=True)
def test_run_killed_while_it_saves_continues_exactly(server, reference, tmp_path):
    workdir = epath.Path(server.url) / "runs" / "killed"
    data = f"{server.url}/data"
    (tmp_path / "first").mkdir(), (tmp_path / "second").mkdir()
    first = start(tmp_path, "first", data, str(workdir))

    server.faults.append(lambda method, path: 2.0 if method in ("POST", "PUT") and "/checkpoints/4/" in path else None)
    wait_for(first, Location(workdir / "checkpoints" / "4").objects)
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    server.faults.clear()
    assert checkpoint.saved_steps(workdir) == [2], "the checkpoint of step 4 is not complete"

    second = start(tmp_path, "second", data, str(workdir))
    output = second.finish()
    assert "continuing tiny softmax from step 2" in output
    assert outcome(workdir) == outcome(epath.Path(reference))
    expected, actual = parameters(reference), parameters(workdir)
    assert expected.keys() == actual.keys()
    for path in expected:
        np.testing.assert_array_equal(actual[path], expected[path], err_msg=path)
    names = set(Location(workdir).objects())
    assert {"config.json", "processor.json", "first_batch.png", "report.md"} <= names and "lease.json" not in names
    assert any(name.startswith("tensorboard/events") for name in names)
    prepared = epath.Path(data) / "naturel" / "few" / VERSION
    assert storage.exists(prepared / "dataset_info.json"), "drawn by the first run"

    benchmark = ["--benchmarks", "naturel", "--naturel", str(prepared), "--batch_size", "8"]
    evaluate.main(["--watch", str(workdir), *benchmark])
    assert storage.names(workdir / "evaluations") == ["2.json", "4.json", "6.json"]


# ---- Evaluation -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs", pytest.param("s3", marks=pytest.mark.proof)], indirect=True)
def test_results_are_shared_through_a_store(server, tmp_path, capsys):
    files.winoground(tmp_path / "files", items=4)
    for seed, name in enumerate(("one", "two")):
        write_model(tmp_path / name, "tiny-clip", seed)
    object_folders.upload(
        object_folders.files_in(tmp_path / "files"), tmp_path / "files", epath.Path(server.url) / "files"
    )
    out = epath.Path(server.url) / "results"

    def run_on_new_host(model: str, benchmarks_dir: object, out: object) -> str:
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        flags = ["--models", f"{model}={tmp_path}/{model}", "--benchmarks", "winoground", "--batch_size", "8"]
        evaluate.main([*flags, "--benchmarks_dir", str(benchmarks_dir), "--out", str(out)])
        return capsys.readouterr().out

    for model in ("one", "two"):
        run_on_new_host(model, tmp_path / "files", tmp_path / "out")
        assert "winoground: 4" in run_on_new_host(model, f"{server.url}/files", out)
    assert "one on winoground: already done" in run_on_new_host("one", f"{server.url}/files", out)
    for model in ("one", "two"):
        expected = json.loads((tmp_path / "out" / model / "winoground" / "scores.json").read_text())
        found = storage.read_json(out / model / "winoground" / "scores.json")
        assert found["scores"] == expected["scores"] and found["items"] == 4
    assert storage.read(out / "report.md") == (tmp_path / "out" / "report.md").read_text(), "with both models"
    names = Location(out).objects()
    assert len({name.split("/")[1] for name in names if name.startswith("embeddings/")}) == 2, "one of each model"
    assert not [name for name in names if ".lock" in name]

    flags = ["--benchmark", "winoground", "--outcome", "text", "--benchmarks_dir", f"{server.url}/files"]
    compare.main(["one", "two", "--out", str(out), *flags])
    page = out / "compare" / "one+two+winoground+text.html"
    assert storage.exists(page) and f"gallery: {page}" in capsys.readouterr().out


def test_launchers_command_reaches_the_store(stores, tmp_path):
    """What launch/tpu.sky.yaml runs on a host, as far as the error of a missing dataset."""
    (tmp_path / "sky_workdir" / ".venv").mkdir(parents=True)
    stub(tmp_path / "sky_workdir" / ".venv" / "bin", "python", f'exec {sys.executable} "$@"')
    host = f"--coordinator {free_address()} --processes 1 --process 0"  # which JAX finds on Cloud TPU
    environment = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    done = sky_task.execute("run", tmp_path, FLAGS=host, **environment)
    assert done.returncode == 2, done.stderr
    assert "is not prepared under gs://bucket/data (config.data.dir): no gs://bucket/data/naturel/" in done.stderr
