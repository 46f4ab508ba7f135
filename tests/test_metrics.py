"""What a run writes about itself, and what a continued run drops."""

import json

import pytest

from naturel_jax.metrics import Metrics, drop_lines, read_lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def metrics(tmp_path, start=0, log_every=2) -> Metrics:
    return Metrics(str(tmp_path), start=start, total=5, log_every=log_every, images=8, name="run", tensorboard=False)


def test_every_logged_step_the_last_and_evaluations_are_lines(tmp_path, path):
    run = metrics(tmp_path)
    for step in range(1, 6):
        run.train(step, {"loss": 1 / step})
    run.write(5, {"naturel/simple": 0.5})
    run.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line.get("train/loss")) for line in lines] == [(2, 1 / 2), (4, 1 / 4), (5, 1 / 5), (5, None)]
    assert lines[-1] == {"step": 5, "naturel/simple": 0.5}
    assert all(line["train/images_per_s"] > 0 for line in lines[:-1])


def test_a_continued_run_drops_the_lines_after_its_checkpoint_and_a_torn_one(tmp_path, path):
    path.write_text('{"step": 2, "a": 1}\n{"step": 4, "a": 2}\n{"step": 6, "a": 3}\n{"step": 8, "a"')
    assert [line["step"] for line in read_lines(str(path))] == [2, 4, 6]
    run = metrics(tmp_path, start=4)
    run.write(6, {"a": 4})
    run.close()
    assert read_lines(str(path)) == [{"step": 2, "a": 1}, {"step": 4, "a": 2}, {"step": 6, "a": 4}]


def test_a_run_that_starts_anew_keeps_no_line(tmp_path, path):
    path.write_text('{"step": 0, "a": 1}\n{"step": 1, "a": 2}\n')
    drop_lines(str(path), 0)
    assert [line["step"] for line in read_lines(str(path))] == [0]
    drop_lines(str(tmp_path / "none.jsonl"), 0)
    assert not (tmp_path / "none.jsonl").exists()


def test_numbers_reach_tensorboard(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    run = Metrics(str(tmp_path), start=0, total=1, log_every=1, images=8, name="run")
    run.write(1, {"naturel/simple": 0.25})
    run.close()
    data = next((tmp_path / "tensorboard").iterdir()).read_bytes()
    values = {}
    while data:  # records of TFRecord: length (8 bytes), its checksum (4), data, its checksum (4)
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        values |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
        data = data[16 + length :]
    assert values == {("naturel/simple", 1): 0.25}
