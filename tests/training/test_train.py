"""The training step and loop: chunks, moving average, freezing, clamping, nonfinite losses, schedules."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax.checkpoints.checkpoint import Checkpoints
from naturel_jax.config import versions
from naturel_jax.data import datasets
from naturel_jax.data.random import draws
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import PRESETS
from naturel_jax.training import loop, outliers, run, train
from naturel_jax.training.calibration import calibrated
from naturel_jax.training.start import make_start
from tests.helpers import tiny_config
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import Stopped

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_training(folder: str, multipliers: tuple = (), **options) -> tuple[c.Config, run.Training]:
    """A tiny softmax run with changed options."""
    raw = tiny_config.get_config()
    # With eps as large as the gradients, Adam does not amplify their rounding errors to full steps.
    defaults = {"optim.lr": 1e-2, "optim.eps": 1e-2, "optim.clip_norm": 0.0, "optim.warmup": "0 steps"}
    raw.update_from_flattened_dict(defaults | options)
    config = c.load(raw)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr_multipliers=multipliers))
    mesh = make_mesh(dataclasses.asdict(config.mesh))
    sources = [datasets.open_source("naturel/tiny", os.fspath(data_dir()), "train")]
    start = make_start(config, "", epath.Path(folder), sources, mesh)
    return config, run.make_training(config, start, sources, mesh)


def test_a_model_from_scratch_pools_at_the_end_token_of_its_own_tokenizer(tmp_path, monkeypatch):
    """A published model's sizes have that of OpenAI's tokenizer, which no text would have."""
    tiny = PRESETS["tiny-clip"]
    text = dataclasses.replace(tiny.text, eos_id=tiny.text.vocab - 1)
    monkeypatch.setitem(PRESETS, "tiny-clip", dataclasses.replace(tiny, text=text))
    config = c.load(tiny_config.get_config())
    mesh = make_mesh(dataclasses.asdict(config.mesh))
    sources = [datasets.open_source("naturel/tiny", os.fspath(data_dir()), "train")]
    start = make_start(config, "", epath.Path(tmp_path), sources, mesh)
    assert start.model.config == tiny
    start.processor.check_ids(start.model.config.text)


class Steps:
    """Three of its steps; records parameters and averages after every one."""

    def __init__(self, folder: str, multipliers: tuple = (), **options):
        _, training = make_training(folder, multipliers, **options)
        state = training.state
        self.params, self.averages, self.metrics = [jax.device_get(state.params)], [], []
        for batch in training.pipeline.batches(0, 3):
            state, metrics = training.step(state, batch)
            self.params.append(jax.device_get(state.params))
            self.averages.append(jax.device_get(state.ema))
            self.metrics.append(jax.device_get(metrics))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """The folder with the tokenizer that all runs share."""
    return os.fspath(tmp_path_factory.mktemp("steps"))


@pytest.mark.slow
def test_a_new_bias_with_an_average_of_the_optimizers_own(folder, caplog):
    """All copies of the bias are calibrated, and what is evaluated is the schedule-free average."""
    _, training = make_training(folder, **{"objective.name": "sigmoid", "optim.name": "schedule_free_adamw"})
    batch = next(training.pipeline.batches(0, 1))
    state = calibrated(training.state, training.loss, batch)
    z = state.opt_state[0].z
    assert state.params["logit_bias"] == state.ema["logit_bias"] == z["logit_bias"] < -1
    state, _ = jax.device_get(training.step(state, batch))
    z = named(state.opt_state[0].z)
    for path, expected in named(state.evaluated).items():
        np.testing.assert_allclose(0.9 * expected + 0.1 * z[path], named(state.params)[path], atol=1e-6, err_msg=path)
    assert "transformers cannot hold this model as it is" in caplog.text and "--drop_bias" in caplog.text


def named(params) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


@pytest.fixture(scope="module")
def plain(folder) -> Steps:
    return Steps(folder)


def test_four_chunks_match_one(plain, folder):
    chunked = Steps(folder, **{"objective.chunks": 4})
    start, expected, actual = named(plain.params[0]), named(plain.params[3]), named(chunked.params[3])
    assert max(np.abs(expected[path] - start[path]).max() for path in start) > 1e-3
    for path in expected:
        np.testing.assert_allclose(actual[path], expected[path], rtol=1e-5, atol=1e-5, err_msg=path)


def test_freezing_multipliers_and_moving_average(folder):
    """Only the last block of the image tower is trained."""
    last = (("image/transformer/blocks/3/.*", 1.0), ("image/.*", 0.0))
    multipliers = (*last, ("text/embed", 0.0), ("text/.*", 0.5))
    steps = Steps(folder, multipliers, **{"optim.ema": 0.75})
    start, end = named(steps.params[0]), named(steps.params[3])
    for path in start:
        frozen, trained = (start[path], end[path]), None
        if "image" in path and "blocks" in path:
            frozen, trained = (start[path][:3], end[path][:3]), (start[path][3], end[path][3])
        assert np.array_equal(*frozen) == ("image" in path or "embed" in path), path
        assert trained is None or not np.array_equal(*trained), path
    average = steps.params[0]
    for number in range(3):
        average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, average, steps.params[number + 1])
        for path, expected in named(average).items():
            actual = named(steps.averages[number])[path]
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_nonfinite_step_leaves_the_state_unchanged(folder):
    steps = Steps(folder, (("logit_scale", 0.0),), **{"optim.lr": 1e30})
    finite = [bool(metrics["finite"]) for metrics in steps.metrics]
    assert finite == [True, False, False]
    kept = named(steps.params[1])
    assert all(np.isfinite(x).all() for x in kept.values())
    np.testing.assert_equal(named(steps.params[3]), kept)


@pytest.mark.slow
def test_step_with_a_large_gradient_is_left_out_exactly(folder):
    """Then only the running mean, the count and the learning rate's schedule change."""
    _, training = make_training(folder, **{"optim.skip_above": 3.0, "optim.ema": 0.5})
    batch, start = next(training.pipeline.batches(0, 1)), training.state

    def is_schedule(node) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def stepped(mean: float, steps: int):
        norms = outliers.Norms(jnp.float32(mean), jnp.int32(steps), jnp.int32(4))
        placed = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), norms, start.norms)
        state, metrics = jax.device_get(training.step(jax.tree.map(jnp.copy, start)._replace(norms=placed), batch))
        nodes, kept = (jax.tree.leaves(x[:3], is_leaf=is_schedule) for x in (state, start))
        pairs = [pair for pair in zip(kept, nodes, strict=True) if not is_schedule(pair[1])]
        assert [int(node.count) for node in nodes if is_schedule(node)] == [1]
        assert metrics["skipped"] == state.norms.skipped and state.norms.steps == steps + 1 and metrics["finite"]
        assert metrics["logit_scale"] == np.exp(state.params["logit_scale"])
        return [np.array_equal(*pair) for pair in pairs], metrics["skipped"], state.norms.mean, metrics["grad_norm"]

    same, skipped, mean, norm = stepped(1e-3, 50)
    assert all(same) and skipped == 5 and norm > 3e-3
    np.testing.assert_allclose(mean, 1e-3 + 2e-3 / 51, rtol=1e-6)
    for usual, steps in ((1e-3, 9), (norm / 2, 50)):  # too early to tell; usual
        same, skipped, mean, _ = stepped(usual, steps)
        assert not any(same) and skipped == 4
        np.testing.assert_allclose(mean, usual + (norm - usual) / (steps + 1), rtol=1e-5)


def test_a_run_without_gradients_so_far_takes_the_first():
    norms = outliers.none_yet()
    for norm in [0.0] * 12 + [1.0]:
        norms, usual = outliers.judge(norms, jnp.float32(norm), jnp.bool_(True), 3.0)
    assert usual and norms.mean > 0 and norms.skipped == 0


def test_gradients_that_have_grown_for_good_are_usual_again():
    """Ten steps of norm 1 whatever comes; then three times the mean at most counts, until that is enough."""
    norms, taken = outliers.none_yet(), []
    for norm in [1.0] * 10 + [100.0] * 60:
        norms, usual = outliers.judge(norms, jnp.float32(norm), jnp.bool_(True), 3.0)
        taken.append(bool(usual))
    first = taken.index(False)
    again = taken.index(True, first)
    mean, steps = 1.0, 10
    while 3 * mean < 100:
        steps += 1
        mean += 2 * mean / steps
    assert (first, again) == (10, steps) and all(taken[again:]) and int(norms.skipped) == again - first


@pytest.mark.parametrize("name", ["adamw", "schedule_free_adamw"])
def test_logit_scale_is_clamped_to_clips_bounds(name, folder):
    """CLIP clips the scale to 100 after each step (arXiv 2103.00020, section 2.5)."""
    steps = Steps(folder, (("logit_scale", -1e6), (".*", 0.0)), **{"optim.name": name})
    scales = [float(jnp.exp(p["logit_scale"])) for p in (*steps.params, *filter(None, steps.averages))]
    assert all(1 - 1e-6 <= scale <= 100 * (1 + 1e-6) for scale in scales)
    assert any(np.isclose(scale, bound, rtol=1e-6) for scale in scales for bound in (1, 100))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adafactor", "muon", "prodigy", "schedule_free_adamw"])
def test_optimizers_train_parameters_that_are_split(name, folder):
    """Those whose states are not just arrays like the parameters."""
    mesh = {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}
    rate = {"optim.lr": 1.0, "optim.weight_decay": 0.0} if name == "prodigy" else {"optim.lr": 1e-3}
    steps = Steps(folder, **{"optim.name": name, **rate, **mesh})
    assert all(metrics["finite"] for metrics in steps.metrics)
    start, end = named(steps.params[0]), named(steps.params[3])
    assert all(not np.array_equal(start[path], end[path]) for path in start if "kernel" in path)


def test_restored_state_takes_the_place_of_the_initial_one(folder, tmp_path):
    """Both together may not fit into the memory of the devices."""
    config, training = make_training(folder, **{"optim.skip_above": 3.0})
    saved = jax.device_get(training.state)
    checkpoints = Checkpoints(tmp_path, keep=1)
    meta = {"config": versions.to_json(config), "streams": draws.VERSION, "init_digest": "", "processor": {}}
    checkpoints.save(2, training.state.arrays(), meta, wait=True)
    step, state = run.restore_or_start(config, epath.Path(tmp_path), checkpoints, training)
    checkpoints.close()
    assert step == 2 and all(x.is_deleted() for x in jax.tree.leaves(training.state))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), saved)


SCHEDULE = train.Schedule(total=6, log_every=1, checkpoint_every=4, evaluate_every={"a": 2, "b": 3, "c": 0}, profile=0)


FINITE = {"loss": np.float32(0), "grad_norm": np.float32(1), "finite": np.bool_(True)}


def looped(step, batches=range(SCHEDULE.total), state=0, **options):
    """What the loop returns; what is not in ``options`` does nothing."""
    none = dict.fromkeys(("save", "evaluate", "log"), lambda *_: None)
    none |= {"start": 0, "schedule": SCHEDULE, "flops": lambda batch: 0.0, "stop_requested": lambda: False}
    return loop.loop(step, state, iter(batches), **(none | options))


def recorded(start: int, stop_after: int | None = None, finite: int = 99) -> tuple[list, bool]:
    """The calls made by the loop, with a step that only counts, and its result."""
    events: list[tuple] = []
    done = [start]

    def step(state, batch):
        done[0] += 1
        return state + 1, FINITE | {"finite": np.bool_(batch < finite)}

    end = looped(
        step,
        range(start, SCHEDULE.total),
        start,
        start=start,
        save=lambda number, state, wait: events.append(("save", number, state, wait)),
        evaluate=lambda number, state, names: events.append(("evaluate", number, state, names)),
        stop_requested=lambda: stop_after is not None and done[0] >= stop_after,
    )
    return events, end


def test_benchmarks_have_their_own_schedules_and_the_last_step_is_only_saved():
    events, end = recorded(0)
    assert events == [
        ("evaluate", 2, 2, ["a"]),
        ("evaluate", 3, 3, ["b"]),
        ("save", 4, 4, False),
        ("evaluate", 4, 4, ["a"]),
        ("save", 6, 6, True),
    ]
    assert end == (6, True)


def test_implicit_host_transfer_in_a_step_is_an_error():
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        looped(lambda state, batch: (state, {"loss": jnp.float32(batch)}))


def test_on_the_cpu_each_step_is_logged_when_it_is_done():
    """Logged after the next one, a step would have the time of both, and the last before a save none."""
    order = []

    def step(state, batch):
        order.append(f"step {batch + 1}")
        return state, FINITE

    save, log = (lambda number, *_, what=what: order.append(f"{what} {number}") for what in ("save", "log"))
    looped(step, save=save, log=log)
    expected = [f"{what} {n}" for n in range(1, 7) for what in ("step", "log")]
    assert [event for event in order if "save" not in event] == expected
    assert order[order.index("save 4") - 1] == "log 4"


def test_stop_request_saves_and_ends_the_loop():
    events, end = recorded(0, stop_after=3)
    assert events == [("evaluate", 2, 2, ["a"]), ("save", 3, 3, True)] and end == (3, False)
    assert recorded(0, stop_after=6)[1] == (6, True)


@pytest.mark.parametrize(("compiles", "saved"), [(0, []), (3, [(3, 3, True)])])
def test_stop_while_a_step_compiles_saves_the_steps_before_it(compiles, saved):
    events = []

    def prepare(state, batch):
        if len(batch) == 2:
            raise Stopped

    end = looped(
        lambda state, batch: (state + 1, FINITE),
        [np.zeros(2 if n == compiles else 1) for n in range(6)],
        schedule=SCHEDULE._replace(evaluate_every={}),
        save=lambda *arguments: events.append(arguments),
        prepare=prepare,
    )
    assert end == (compiles, False) and events == saved


def test_nonfinite_loss_error_has_the_step():
    with pytest.raises(loop.NotFinite) as error:
        recorded(0, finite=1)
    assert error.value.step == 1


def test_train_does_not_import_heavy_libraries():
    """The training core must run on an accelerator machine without the data libraries."""
    heavy = ("grain", "cv2", "tokenizers", "sentencepiece", "orbax", "tensorflow_datasets", "transformers", "torch")
    program = f"import sys, naturel_jax.training.train; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
