"""Runs on user-defined records and benchmarks, some of whose images they train on."""

import json
import os
import shutil
from pathlib import Path

import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import evaluate, storage
from naturel_jax.data import datasets
from naturel_jax.data.seen import training_images
from naturel_jax.evaluators import results
from naturel_jax.report import compare
from naturel_jax.training import run
from naturel_jax.weights import runs
from tests.helpers import benchmark_files as files
from tests.helpers import tiny_config
from tests.helpers.caption_groups import jpeg
from tests.helpers.worlds import Run, two_processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Records 0 to 15, and a benchmark of images 12 to 19, of which it trains on the first four."""
    root = tmp_path_factory.mktemp("records")
    for n in range(20):
        files.write(root / f"train/{n}.jpg", jpeg(n, 64, 48))
        files.write(root / f"test/{n:04}.jpg", jpeg(n, 64, 48))  # another name

    for name, numbers in (("my", range(16)), ("later", [16, 17] * 8)):
        write(root / f"train/{name}.jsonl", [{"image": f"{n}.jpg", "caption": "a red cup on a table"} for n in numbers])
    rows = [{"photo": f"{n:04}.jpg", "caption": "a red cup", "negatives": "a blue cup"} for n in range(12, 20)]
    write(root / "test/mine.jsonl", rows)
    return root


def write(path: Path, rows: list[dict[str, str]]) -> None:
    files.write(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def config(folder: Path, records: str = "my") -> c.Config:
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(folder / "data")
    raw.data.mixture.main = c.part(f"jsonl:{folder}/train/{records}.jsonl", "order_shuffles")
    raw.eval.benchmarks = (f"pairs:{folder}/test/mine.jsonl",)
    raw.eval.fields = {"mine": {"image": "photo"}}
    raw.eval.during = {"mine": "2 steps"}
    raw.duration, raw.checkpoint.every, raw.optim.warmup = "4 steps", "2 steps", "1 steps"
    return c.load(raw)


def scores(workdir: Path) -> dict[int, float]:
    lines = storage.read_json_lines(epath.Path(workdir) / "metrics.jsonl")
    return {line["step"]: line["mine/accuracy"] for line in lines if "mine/accuracy" in line}


@pytest.mark.proof
def test_own_benchmark_during_training_and_afterwards(folder, tmp_path, monkeypatch, capsys):
    """Scored on the schedule, evaluated and compared; a run that starts from another leaves out what both saw."""
    monkeypatch.chdir(tmp_path)
    first = run.run(config(folder), "first").scores
    assert scores(tmp_path / "first").keys() == {0, 2, 4} and first.keys() == {"mine/accuracy"}
    assert json.loads(Path("first/scores.json").read_text())["left_out"] == {"mine": 4}
    raw = config(folder, "later")
    with_base = c.base()
    with_base.update({"name": "second", "init": "run:first", "duration": "2 steps"})
    with_base.data.mixture.main = c.part(raw.data.mixture["main"].dataset, "order_shuffles")
    with_base.data.update({"dir": raw.data.dir, "batch_size": 16})
    with_base.eval.benchmarks, with_base.eval.during = (), {}
    with_base.optim.warmup = "0 steps"
    run.run(c.load(with_base), "second")
    assert (runs.trained_on("first").images, runs.trained_on("second").images) == (16, 32)

    flags = ["--fields", "mine.image=photo", "--out", "out"]
    own = f"pairs:{folder}/test/mine.jsonl"
    evaluate.main(["--models", "A=run:first", "B=run:second", "--benchmarks", own, *flags])
    a, b = results.load(Path("out"))
    assert [(r.benchmark, r.items, r.left_out) for r in (a, b)] == [("mine", 4, 4), ("mine", 2, 6)]
    score, saved = a.scores["mine/accuracy"], json.loads(Path("first/scores.json").read_text())
    bounds = saved["intervals"]["mine/accuracy"]
    assert score["value"] == first["mine/accuracy"] and [score["low"], score["high"]] == bounds
    assert a.found["bytes"] == 4 and saved["found"] == {"mine": {"items": 4, **a.found}}
    assert "Further benchmarks: mine" in Path("out/report.md").read_text()
    capsys.readouterr()
    compare.main(["A", "B", "--benchmark", own, *flags])
    assert "B against A on mine" in (printed := capsys.readouterr().out) and "2 items: " in printed


@pytest.mark.proof
def test_the_same_images_are_left_out_on_two_processes_and_after_a_resume(folder, tmp_path):
    rows = [{"image": f"{n:04}.jpg", "caption": "a red cup", "negatives": "a blue cup"} for n in range(12, 20)]
    write(folder / "test/usual.jsonl", rows)
    fields = {"data.dir": tmp_path, "data.mixture.main.dataset": f"jsonl:{folder}/train/my.jsonl"}
    fields |= {"data.mixture.main.recipe": "order_shuffles", "eval.during": {}, "duration": "4 steps"}
    fields |= {"eval.benchmarks": (f"pairs:{folder}/test/usual.jsonl",), "optim.warmup": "1 steps"}
    flags = [f"--config.{name}={value}" for name, value in (fields | {"checkpoint.every": "2 steps"}).items()]
    workdir = tmp_path / "run"
    for process in two_processes(workdir, *flags, devices=1):
        process.finish()
    source = datasets.open_source(f"jsonl:{folder}/train/my.jsonl", os.fspath(tmp_path / "own"), "train")
    assert runs.trained_on(workdir).checksum() == training_images.of_source(source).checksum()
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (workdir / "trained_on").iterdir()}
    finished = json.loads((workdir / "scores.json").read_text())
    assert finished["left_out"] == {"usual": 4}

    (workdir / "scores.json").unlink()
    shutil.rmtree(workdir / "checkpoints/4")
    assert "continuing tiny softmax from step 2" in Run(workdir, *flags).finish()
    assert json.loads((workdir / "scores.json").read_text())["left_out"] == {"usual": 4}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
