"""``naturel_jax.evaluate --watch`` on a run whose checkpoints are written by the test."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest
from etils import epath

from naturel_jax.benchmarks import registry
from naturel_jax.checkpoints import checkpoint, checkpoint_meta
from naturel_jax.data.seen.trained_on import FOLDER, from_used
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.evaluators.watch import watch
from naturel_jax.weights import runs
from tests.helpers import benchmark_files as files
from tests.helpers.processes import LIMIT_S, wait_until
from tests.helpers.tiny_models import tiny
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def params_of(step: int):
    return tiny()[0].init(jax.random.key(step))


def save(workdir: Path, *steps: int, used: Sequence[str] = ("0",), seed: int = 0) -> None:
    """Saves checkpoints of a run that was trained on these items of Winoground."""
    model, _, processor = tiny()
    trained_on = from_used({"winoground": used})
    trained_on.save(epath.Path(workdir) / FOLDER)
    meta = checkpoint_meta.make_meta({}, model.config, processor, trained_on.meta())
    checkpoints = checkpoint.Checkpoints(workdir, keep=10)
    for step in steps:
        checkpoints.save(step, {"params": params_of(seed + step)}, meta, wait=True)
    checkpoints.close()


def start(workdir: Path, root: Path, log: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "naturel_jax.evaluate", "--watch", str(workdir), "--benchmarks", "winoground"]
    command += ["--benchmarks_dir", str(root), "--batch_size", "8"]
    with open(log, "w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_checkpoints_are_evaluated_as_they_appear(tmp_path):
    root, workdir, log = tmp_path / "files", tmp_path / "run", tmp_path / "log"
    files.winoground(root, items=6)
    save(workdir, 1)
    process = start(workdir, root, log)
    for further in ((2, 3), (4,)):
        last = workdir / f"evaluations/{further[0] - 1}.json"
        wait_until(lambda last=last: last.exists() or process.poll() is not None)
        assert process.poll() is None, f"it waits for more checkpoints: {log.read_text()}"
        save(workdir, *further)
    (workdir / "scores.json").write_text("{}")
    assert process.wait(LIMIT_S) == 0, log.read_text()

    model, _, processor = tiny()
    held_out = registry.read(["winoground"], files=root)[0].held_out({"0"})
    evaluator = Evaluator(model, processor, [held_out], batch_size=8)
    lines = [line for line in log.read_text().splitlines() if line.startswith("step ")]
    for step, line in zip((1, 2, 3, 4), lines, strict=True):
        saved = json.loads((workdir / f"evaluations/{step}.json").read_text())
        assert saved["version"] == 5 and saved["step"] == step and saved["benchmarks"] == ["winoground"]
        assert saved["left_out"] == {"winoground": 1}
        assert saved["scores"] == evaluator.scores(params_of(step))
        assert line.startswith(f"step {step}: winoground/text {saved['scores']['winoground/text']:.4f}, ")
    assert {path.name for path in (workdir / "evaluations").iterdir()} == {f"{step}.json" for step in (1, 2, 3, 4)}

    written = {path: path.stat().st_mtime_ns for path in (workdir / "evaluations").iterdir()}
    assert start(workdir, root, log).wait(LIMIT_S) == 0
    assert log.read_text().count("already done") == 4
    assert {path: path.stat().st_mtime_ns for path in (workdir / "evaluations").iterdir()} == written


@pytest.fixture
def ended(tmp_path):
    """A finished run with two checkpoints, and two benchmarks."""
    files.winoground(tmp_path, items=3)
    files.visual_genome(tmp_path, items=3)
    save(tmp_path / "run", 1, 2)
    (tmp_path / "run/scores.json").write_text("{}")
    return epath.Path(tmp_path / "run"), registry.read(["winoground", "vg_relation"], files=tmp_path)


def test_vanished_checkpoint_is_skipped(ended, tmp_path, monkeypatch, capsys):
    workdir, benchmarks = ended
    load_run = runs.load_run

    def vanishing(name, **others):
        if name == f"{workdir}@1":
            shutil.rmtree(workdir / "checkpoints" / "1")
        return load_run(name, **others)

    monkeypatch.setattr(runs, "load_run", vanishing)
    watch(workdir, benchmarks[:1], epath.Path(tmp_path / "out"), batch_size=8, dtype="float32")
    printed = capsys.readouterr().out
    assert "step 1: the run removed this checkpoint before it was read; skipped\nstep 2: winoground/text" in printed
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["2.json"]


def test_scores_of_another_benchmark_are_added(ended, tmp_path):
    workdir, benchmarks = ended
    out = epath.Path(tmp_path / "out")
    watch(workdir, benchmarks[:1], out, batch_size=8, dtype="float32")
    first = json.loads((out / "1.json").read_text())
    watch(workdir, benchmarks, out, batch_size=8, dtype="float32")
    both = json.loads((out / "1.json").read_text())
    assert both["benchmarks"] == ["winoground", "vg_relation"] and "vg_relation/macro" in both["scores"]
    assert first["scores"].items() <= both["scores"].items()
    with pytest.raises(UserError, match=r"1\.json: holds scores of .*/run, not of .*/other; choose another --out"):
        watch(epath.Path(shutil.copytree(workdir, tmp_path / "other")), benchmarks, out, batch_size=8, dtype="float32")


def test_scores_of_what_was_there_before_are_not_kept(ended, tmp_path, capsys):
    """Of items before they were edited, of another dtype, and of the run that was in the folder before."""
    workdir, benchmarks = ended
    out = epath.Path(tmp_path / "out")

    def evaluate(chosen, dtype="float32"):
        watch(workdir, chosen, out, batch_size=8, dtype=dtype)
        return capsys.readouterr().out, json.loads((out / "1.json").read_text())

    _, first = evaluate(benchmarks)
    assert evaluate(benchmarks)[0].count("already done") == 2
    files.winoground(tmp_path, items=2)
    printed, second = evaluate(registry.read(["winoground"], files=tmp_path))
    assert "already done" not in printed and second["benchmarks"] == ["vg_relation", "winoground"]
    assert second["scores"]["vg_relation/macro"] == first["scores"]["vg_relation/macro"]
    assert "already done" not in evaluate(registry.read(["winoground"], files=tmp_path), "bfloat16")[0]

    shutil.rmtree(workdir / "checkpoints")
    save(Path(workdir), 1, seed=6)  # the same metadata
    printed, third = evaluate(benchmarks[1:])
    assert "already done" not in printed and third["benchmarks"] == ["vg_relation"]
    assert all(name.startswith("vg_relation/") for name in third["scores"])


def test_benchmarks_of_two_processes_are_kept(ended, tmp_path, monkeypatch):
    workdir, benchmarks = ended
    out = epath.Path(tmp_path / "out")
    scores = Evaluator.scores

    def beside(self, params, names):
        if list(names) == ["winoground"]:
            watch(workdir, benchmarks[1:], out, batch_size=8, dtype="float32")
        return scores(self, params, names)

    monkeypatch.setattr(Evaluator, "scores", beside)
    watch(workdir, benchmarks[:1], out, batch_size=8, dtype="float32")
    assert json.loads((out / "1.json").read_text())["benchmarks"] == ["vg_relation", "winoground"]
