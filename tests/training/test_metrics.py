"""The metrics that a run writes, and which of them a continued run drops."""

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
import termios
import time
import types

import numpy as np
import pytest
from etils import epath
from PIL import Image

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.checkpoints import recorded
from naturel_jax.evaluators.examples import Example
from naturel_jax.storage import read_json_lines
from naturel_jax.training import cards, mistakes
from naturel_jax.training.metrics import Metrics
from naturel_jax.training.writers import drop_lines
from tests.helpers import benchmark_files as files
from tests.helpers import tiny_config
from tests.helpers.worlds import ROOT
from tfds_naturel.common.pages import data_uri


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path) / "metrics.jsonl"


def metrics(tmp_path, start=0, log_every=2, **changes) -> contextlib.closing[Metrics]:
    """A run's metrics, which are closed at the end of a ``with`` block."""
    config = dataclasses.replace(c.load(tiny_config.get_config()), **changes)
    return contextlib.closing(Metrics(config, epath.Path(tmp_path), start=start, total=5, log_every=log_every))


def without_times(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "wall_time"} for line in lines]


def test_logged_steps_last_step_and_evaluations_are_written(tmp_path, path):
    began = time.time() - 0.001  # a line's time is rounded
    with metrics(tmp_path) as run:
        for step in range(1, 6):
            run.train(step, {"loss": 1 / step, "flops": 0.0})
        run.write(5, {"naturel/simple": 0.5})
    lines = read_json_lines(path)
    assert [(line["step"], line.get("train/loss")) for line in lines] == [(2, 1 / 2), (4, 1 / 4), (5, 1 / 5), (5, None)]
    assert without_times(lines)[-1] == {"step": 5, "naturel/simple": 0.5}
    assert all(began <= line["wall_time"] <= time.time() + 0.001 for line in lines)
    assert all(line["train/images_per_s"] > 0 for line in lines[:-1])


def test_a_step_that_is_left_out_is_logged_whenever_it_comes(tmp_path, path, caplog):
    with metrics(tmp_path, log_every=5) as run:
        for step in range(1, 6):
            norms = {"grad_norm": 9.0 * step, "grad_norm/usual": 2.0}
            run.train(step, {"loss": 1.0, "flops": 0.0, "taken": step != 3, **norms})
    assert "step 3 left out: gradient norm 27, usually 2 (config.optim.skip_above)" in caplog.text
    assert caplog.text.count("left out") == 1 and "train/taken" not in read_json_lines(path)[0]


def test_continued_run_drops_lines_after_its_checkpoint_and_partial_lines(tmp_path, path):
    rows = ({"step": 2, "a": 1}, {"step": 4, "a": 2}, {"step": 6, "a": 3}, {"step": 8, "a": 4})
    path.write_text("\n".join(map(storage.sealed, rows))[:-30])
    assert [line["step"] for line in read_json_lines(path)] == [2, 4, 6]
    with metrics(tmp_path, start=4) as run:
        run.write(6, {"a": 4})
    assert without_times(read_json_lines(path)) == [{"step": 2, "a": 1}, {"step": 4, "a": 2}, {"step": 6, "a": 4}]


def test_run_that_starts_over_drops_all_lines(tmp_path, path):
    path.write_text("".join(storage.sealed({"step": step, "a": 1}) + "\n" for step in (0, 1)))
    drop_lines(path, 0)
    assert [line["step"] for line in read_json_lines(path)] == [0]
    drop_lines(epath.Path(tmp_path) / "none.jsonl", 0)
    assert not (tmp_path / "none.jsonl").exists()


PNG = files.png(0, (40, 30))
MISTAKE = Example("winoground", "7", False, (data_uri("png", PNG),) * 2, ("a|b", "c"), (0.1, 0.2, 0.3, 0.4), 1)


def test_all_that_a_run_shows_reaches_tensorboard(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    began = time.time()
    with metrics(tmp_path, tensorboard=True) as run:
        run.image(0, "first_batch", PNG, "the first batch")
        scores = {"naturel/simple": 0.25, "naturel/simple/on": 1.0}
        run.final(5, scores, {"naturel/simple": (0.125, 0.5)}, lambda: [MISTAKE])
        run.write(5, {"naturel/simple": 0.25})
    data = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    found, times = {}, []
    while data:  # TFRecord: length (8 bytes), its checksum (4), data, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found |= {(value.tag, event.step): value for value in event.summary.value}
        times.append(event.wall_time)
        data = data[16 + length :]
    assert began <= min(times) and max(times) <= time.time()
    image, text = (lambda *key: found[key].image), (lambda *key: found[key].tensor.string_val[0].decode())
    assert found["naturel/simple", 5].simple_value == 0.25
    first, mistakes = image("first_batch", 0), image("mistakes", 5)
    assert (first.encoded_image_string, first.width, first.height) == (PNG, 40, 30)
    assert found["mistakes", 5].metadata.summary_description == "winoground 7: a|b / c"
    with Image.open(io.BytesIO(mistakes.encoded_image_string)) as sheet:
        assert sheet.size == (mistakes.width, mistakes.height) and sheet.width > 2 * 160
    assert text("scores/text_summary", 5).splitlines()[2:] == ["| naturel/simple | 0.2500 | 0.1250 | 0.5000 |"]
    assert '"name": "tiny softmax"' in text("config/text_summary", 0)
    plugin = found["_hparams_/session_start_info", 0].metadata.plugin_data.content
    hparams = HParamsPluginData.FromString(plugin).session_start_info.hparams
    assert hparams["data.batch_size"].number_value == 16 and hparams["name"].string_value == "tiny softmax"


def test_mistakes_are_drawn_with_their_captions_and_cosines():
    head, true, false = mistakes.lines(MISTAKE)
    assert (head[0], true[0], false[0]) == ("winoground 7", "0.100, 0.300  a|b", "0.200, 0.400  c")
    assert (true[1], false[1]) == (cards.POSITIVE, cards.NEGATIVE)
    unknown = MISTAKE._replace(true_captions=0)
    assert {colour for _, colour, _ in mistakes.lines(unknown)} == {cards.INK}, "nobody knows which is true"


def test_evaluation_is_written_once_even_if_the_run_was_killed(tmp_path, path):
    with metrics(tmp_path) as run:
        run.evaluation(0, {"naturel/simple": 0.5, "naturel/simple/relation/on": 0.25})
    with metrics(tmp_path) as again:  # as if killed before its first checkpoint, so it starts at 0 again
        assert again.evaluated == {"naturel"}
        new = {"winoground/text": 0.1, "zeroshot/birds/top1": 0.3}
        again.evaluation(0, {"naturel/simple": 0.5, "winoground/text/Object": 0.2, **new})
    lines = without_times(read_json_lines(path))
    assert lines == [{"step": 0, "naturel/simple": 0.5}, {"step": 0, **new}]
    found = recorded.read(epath.Path(tmp_path))
    assert found.history == [(0, {"naturel/simple": 0.5}), (0, new)] and found.losses == []


def test_a_score_that_is_another_when_evaluated_again_has_a_further_line(tmp_path, path):
    """A finished run's, whose benchmark has other fields or files now."""
    nan = float("nan")
    for scores in ({"my/accuracy": 0.95, "my/none": nan}, {"my/accuracy": 0.55, "my/none": nan}):
        with metrics(tmp_path, start=5) as run:
            run.evaluation(5, scores)
    lines = without_times(read_json_lines(path))
    assert [line.get("my/accuracy") for line in lines] == [0.95, 0.55] and "my/none" not in lines[1]
    assert recorded.by_step(epath.Path(tmp_path)) == {5: {"my/accuracy": 0.55}}


def test_without_a_terminal_logs_lines_instead_of_a_bar(tmp_path, caplog, capfd):
    with caplog.at_level("INFO", "naturel_jax"), metrics(tmp_path) as run:
        run.train(2, {"loss": 0.25, "flops": 0.0})
        run.evaluation(2, {"naturel/simple": 0.5})
    assert re.search(r"step 2 of 5: loss 0\.2500, [\d,]+ images/s", caplog.text)
    assert "step 2: naturel/simple 0.500" in caplog.text
    assert "\r" not in capfd.readouterr().err


def test_a_line_of_the_log_has_few_of_many_scores(tmp_path, caplog, path):
    """The first of each benchmark before others; and of a step's, the same five in one order."""
    scores = {f"{name}/{n}": n / 10 for name in ("mine", "other") for n in range(9)} | {"naturel/complex": 0.75}
    values = {f"term/{n}": 1.0 for n in range(30)} | {"lr": 1e-5, "grad_norm": 2.5, "loss": 0.25, "flops": 0.0}
    with caplog.at_level("INFO", "naturel_jax"), metrics(tmp_path) as run:
        run.train(2, dict(values))
        run.evaluation(2, scores)
    assert re.search(r"step 2 of 5: loss 0\.2500, gradient norm 2\.5, lr 1e-05, [\d,]+ images/s$", caplog.text, re.M)
    shown = "mine/0 0.000, other/0 0.000, naturel/complex 0.750, mine/1 0.100, mine/2 0.200, mine/3 0.300"
    assert f"step 2: {shown}; 13 more in metrics.jsonl" in caplog.text
    step, evaluation = without_times(read_json_lines(path))
    assert evaluation == {"step": 2, **scores}
    assert step.keys() == {"step", "train/images_per_s", *(f"train/{name}" for name in values if name != "flops")}


ON_A_TERMINAL = """
import sys
from etils import epath
from tests.helpers import tiny_config
from naturel_jax import config as c
from naturel_jax.training.metrics import Metrics
from tfds_naturel.common import cli

def main(arguments):
    run = Metrics(c.load(tiny_config.get_config()), epath.Path(sys.argv[1]), start=0, total=4, log_every=1)
    for step in range(1, 4):
        run.train(step, {"loss": 1 / step, "flops": 0.0})
    run.evaluation(3, {"naturel/simple": 0.5})
    run.train(4, {"loss": 0.25, "flops": 0.0})
    run.close()

cli.run(main)
"""


def test_on_a_terminal_scores_stand_above_the_bar(tmp_path):
    """A process on a pseudo-terminal: the bar is redrawn in place, and the scores have a line of their own."""
    primary, secondary = os.openpty()
    termios.tcsetwinsize(primary, (24, 100))
    command = [sys.executable, "-c", ON_A_TERMINAL, os.fspath(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=secondary, stdout=secondary, stderr=secondary)
    os.close(secondary)
    shown = b""
    with contextlib.suppress(OSError):  # how a terminal says that no process writes to it any more
        while data := os.read(primary, 4096):
            shown += data
    os.close(primary)
    assert process.wait() == 0, shown
    lines = [line.rsplit("\r", 1)[-1] for line in shown.decode().replace("\r\n", "\n").split("\n")]
    (scores,) = [line for line in lines if "naturel/simple" in line]
    assert re.fullmatch(r"\d\d:\d\d:\d\d tiny softmax step 3: naturel/simple 0\.500", scores)
    assert "100%" in lines[-2] and "loss 0.2500" in lines[-2] and "images/s" in lines[-2]
    assert b"step 4 of 4" not in shown, "a bar, not lines"


class FakeWandb(types.ModuleType):
    """The library's interface; records how runs are initialised, and what they log."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.logged = [], []

    def init(self, **options):
        self.runs.append(options)
        return types.SimpleNamespace(log=lambda values, step: self.logged.append((step, values)), finish=lambda: None)

    def Image(self, image, caption):
        return np.asarray(image), caption

    def Table(self, columns, data):
        return columns, data


def test_all_that_a_run_shows_reaches_wandb(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    with metrics(tmp_path, wandb="project") as run:
        run.image(0, "first_batch", PNG, "the first batch")
        other = MISTAKE._replace(id="8", images=(data_uri("png", files.png(1, (40, 30))),) * 2)
        run.final(5, {"naturel/simple": 0.25}, {}, lambda: [MISTAKE, other])
        run.write(5, {"naturel/simple": 0.25})
    assert fake.runs[0]["config"]["data"]["batch_size"] == 16
    (_, first), scores, (_, mistakes), last = fake.logged
    table = (["score", "value", "low (95%)", "high (95%)"], [["naturel/simple", 0.25, None, None]])
    assert [step for step, _ in fake.logged] == [0, 5, 5, 5]
    assert scores[1] == {"scores": table} and last[1] == {"naturel/simple": 0.25}
    photos = [np.asarray(Image.open(io.BytesIO(files.png(n, (40, 30)))).convert("RGB")) for n in range(2)]
    assert first["first_batch"][1] == "the first batch" and (first["first_batch"][0] == photos[0]).all()
    sheet, caption = mistakes["mistakes"]
    assert caption == "winoground 7: a|b / c; winoground 8: a|b / c"
    for photo, part in zip(photos, np.split(sheet, 2, axis=1), strict=True):
        assert (part[16:136:4, 16:336:4] == np.tile(photo, (1, 2, 1))).all(), "both images, four times as large"


def test_runs_in_wandb_are_one_only_if_they_are_one_workdir(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    for number, folder in enumerate(("a", "b", "a", "moved", "a")):  # the last: the same path on another machine
        if folder == "moved":
            (tmp_path / "a").rename(tmp_path / folder)
        (tmp_path / folder / "negclip").mkdir(parents=True, exist_ok=True)
        with metrics(tmp_path / folder / "negclip", wandb="project"):
            assert len(fake.runs) == number + 1
    first, other, continued, moved, elsewhere = (run["id"] for run in fake.runs)
    assert first == continued == moved and len({first, other, elsewhere}) == 3
    assert all(run["name"] == "tiny softmax" and run["resume"] == "allow" for run in fake.runs)


def test_evaluation_time_is_not_counted_as_training_time(tmp_path, path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with metrics(tmp_path, log_every=1) as run:
        now[0] = 2.0
        with run.paused():
            now[0] = 100.0
        run.train(1, {"loss": 1.0, "flops": 0.0})
    assert read_json_lines(path)[0]["train/images_per_s"] == pytest.approx(16 / 2)


def test_utilization_is_logged(tmp_path, path, monkeypatch):
    """An H100 does 989e12 bfloat16 FLOP/s: half of that for two seconds is a utilization of 0.5."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    card = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")
    monkeypatch.setattr("jax.devices", lambda: [card])
    bfloat16 = dataclasses.replace(c.Compute(), dtype="bfloat16")
    with metrics(tmp_path, log_every=2, compute=bfloat16) as run:
        run.train(1, {"loss": 1.0, "flops": 989e12 / 2})
        now[0] = 2.0
        run.train(2, {"loss": 1.0, "flops": 989e12 / 2})
    assert read_json_lines(path)[0]["train/mfu"] == pytest.approx(0.5)
