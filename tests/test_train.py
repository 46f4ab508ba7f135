"""The step: gradient accumulation, moving average, freezing, the clamp, and what a loss that is not finite leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config
from worlds import data_dir

from naturel_jax import optim, train
from naturel_jax.data import datasets
from naturel_jax.data.augment import Augment
from naturel_jax.data.pipeline import Pipeline
from naturel_jax.data.planner import Part, Planner
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.data.recipes import recipe
from naturel_jax.models import presets
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.sharding import batch_sharding, batch_shards, make_mesh, shardings

PRESET = presets.preset("tiny-clip")


class Steps:
    """Three steps of the tiny softmax run under changed options; keeps the parameters and averages of every step."""

    def __init__(self, **options):
        config = tiny_config.get_config()
        # With an eps as large as the gradients, Adam does not turn their rounding into whole steps.
        config.update_from_flattened_dict({"optim.lr": 1e-2, "optim.eps": 1e-2, "optim.clip_norm": 0.0} | options)
        mesh, model = make_mesh(config.mesh), Model(PRESET, Compute("float32", "none", None))
        source = datasets.source(str(data_dir()), "naturel/tiny", "train")
        tokenizer = train_tokenizer("clip", source.items.texts, PRESET.text.vocab, PRESET.text.context)
        pixels = {"resize": "square", "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3}
        processor = Processor(tokenizer=tokenizer, context=PRESET.text.context, size=PRESET.image.size, **pixels)
        planner = Planner(
            [Part(source.items, recipe("single_pair"))],
            processor,
            batch_size=16,
            shards=batch_shards(mesh),
            seed=0,
            trim_eos=PRESET.text.eos_id,
            chunks=config.objective.chunks,
        )
        batches = Pipeline(planner, [source], Augment(PRESET.image.size, (0.9, 1.0)), batch_sharding(mesh))
        params = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))(jax.random.key(0))
        rate = optim.schedule(config.optim, 20, 0)
        tx = optim.make(config.optim, params, rate)
        state = train.make_state(params, tx, mesh, ema=bool(config.optim.ema))
        objective = train.make_objective(config.objective, mesh)
        frozen = optim.frozen(config.optim, params)
        loss = train.Loss(model, objective, processor, frozen=frozen, chunks=config.objective.chunks)
        step = train.make_step(loss, tx, rate, state, mesh, max_scale=PRESET.max_scale, ema=config.optim.ema)
        self.params, self.averages, self.metrics = [jax.device_get(params)], [], []
        for number, batch in enumerate(batches.batches(0, 3)):
            state, metrics = step(state, batch, np.int32(number))
            self.params.append(jax.device_get(state.params))
            self.averages.append(jax.device_get(state.ema))
            self.metrics.append(jax.device_get(metrics))


def named(params) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(params)}


@pytest.fixture(scope="module")
def plain() -> Steps:
    return Steps()


def test_four_chunks_train_as_one(plain):
    chunked = Steps(**{"objective.chunks": 4})
    start, expected, found = named(plain.params[0]), named(plain.params[3]), named(chunked.params[3])
    assert max(np.abs(expected[path] - start[path]).max() for path in start) > 1e-3
    for path in expected:
        np.testing.assert_allclose(found[path], expected[path], rtol=1e-5, atol=1e-5, err_msg=path)


def test_frozen_towers_stay_rates_follow_multipliers_and_the_average_trails():
    options = {"optim.lr_multipliers": (("image/.*", 0.0), ("text/embed", 0.0), ("text/.*", 0.5)), "optim.ema": 0.75}
    steps = Steps(**options)
    start, end = named(steps.params[0]), named(steps.params[3])
    for path in start:
        held = "image" in path or "embed" in path
        assert np.array_equal(start[path], end[path]) == held, path
    average = steps.params[0]
    for number in range(3):
        average = jax.tree.map(lambda a, p: 0.75 * a + 0.25 * p, average, steps.params[number + 1])
        for path, expected in named(average).items():
            found = named(steps.averages[number])[path]
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_a_step_that_is_not_finite_leaves_the_state_as_it_was():
    steps = Steps(**{"optim.lr": 1e30, "optim.lr_multipliers": (("logit_scale", 0.0),)})
    finite = [bool(metrics["finite"]) for metrics in steps.metrics]
    assert finite == [True, False, False]
    for path, kept in named(steps.params[1]).items():
        assert np.isfinite(kept).all()
        np.testing.assert_array_equal(named(steps.params[3])[path], kept, err_msg=path)


def test_the_logit_scale_is_kept_within_clips_bounds():
    """CLIP clips it to 100 after each step (arXiv 2103.00020, 2.5); exp(log 100) = 100."""
    steps = Steps(**{"optim.lr_multipliers": (("logit_scale", -1e6), (".*", 0.0))})
    scales = [float(jnp.exp(p["logit_scale"])) for p in steps.params]
    assert all(1 - 1e-6 <= scale <= 100 * (1 + 1e-6) for scale in scales)
    assert any(np.isclose(scale, bound, rtol=1e-6) for scale in scales for bound in (1, 100))
