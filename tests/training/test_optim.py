"""Schedules computed by hand, optimizers against PyTorch and Optax, multipliers and freezing."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from flax import traverse_util

from naturel_jax.config import Optim
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.training import optim
from tfds_naturel.common.errors import UserError

torch.set_num_threads(1)  # on a busy machine, more threads wait for the slowest


@pytest.mark.parametrize(
    ("shape", "expected"),
    # 4 warmup steps to 8, then 8 steps of decay, checked at 1/4, 1/2 and the end
    [
        ("cosine", {0: 2, 1: 4, 3: 8, 4: 8, 6: 4 * (1 + 0.5**0.5), 8: 4, 12: 0, 99: 0}),
        ("linear", {0: 2, 3: 8, 4: 8, 6: 6, 8: 4, 12: 0, 99: 0}),
        ("constant", {0: 2, 2: 6, 3: 8, 4: 8, 12: 8}),
    ],
)
def test_schedules(shape, expected):
    rate = optim.make_learning_rate(Optim(lr=8.0, schedule=shape), total_steps=12, warmup_steps=4)
    for step, value in expected.items():
        np.testing.assert_allclose(float(rate(step)), value, rtol=1e-6, atol=1e-6, err_msg=str(step))


def test_schedule_without_warmup_starts_at_the_peak():
    assert float(optim.make_learning_rate(Optim(lr=0.5), 10, 0)(0)) == 0.5


def test_warmup_longer_than_the_run_is_rejected():
    with pytest.raises(UserError, match=r"config\.optim\.warmup is 50 steps; the run has 10"):
        optim.make_learning_rate(Optim(), 10, 50)
    optim.make_learning_rate(Optim(), 0, 50)  # a run that evaluates only


def tree(seed: int):
    """Parameters named as in a tower; kernels and embeddings are decayed, norms, biases and the scale are not."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    return {
        "image": {"patch": {"kernel": draw(3, 4), "bias": draw(4)}, "class_token": draw(4), "norm": {"scale": draw(4)}},
        "text": {"embed": draw(5, 4), "position": draw(2, 4)},
        "logit_scale": draw(),
    }


DECAYED = {"image/patch/kernel", "text/embed", "text/position"}


def flat(params) -> dict[str, np.ndarray]:
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(params, sep="/").items()}


def trained(options, steps: int = 3, tree=tree) -> dict[str, np.ndarray]:
    """The parameters ``tree(0)`` after ``steps`` updates with the gradients ``tree(1)``, ``tree(2)``, ..."""
    params = tree(0)
    tx = optim.make_optimizer(options, params, optim.make_learning_rate(options, 10, 2))
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(tree(1 + step), state, params)
        params = optax.apply_updates(params, updates)
    return flat(params)


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_adamw_matches_pytorch(clip_norm):
    """With OpenCLIP's groups: no decay for norms, biases and the scale. lr: two warmup steps, then the peak."""
    options = Optim(lr=0.1, b1=0.8, b2=0.9, eps=1e-3, weight_decay=0.3, clip_norm=clip_norm)
    theirs = {path: torch.nn.Parameter(torch.tensor(x)) for path, x in flat(tree(0)).items()}
    groups = [
        {"params": [x for path, x in theirs.items() if path in DECAYED], "weight_decay": 0.3},
        {"params": [x for path, x in theirs.items() if path not in DECAYED], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-3)
    for rate in given_gradients(theirs):
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.step()
    check_alike(trained(options), theirs)


def given_gradients(theirs: dict[str, torch.nn.Parameter]) -> Iterator[float]:
    """Gives PyTorch's parameters the gradients of each of three steps, and yields its rate."""
    for step, rate in enumerate((0.05, 0.1, 0.1)):
        for path, gradient in flat(tree(1 + step)).items():
            theirs[path].grad = torch.tensor(gradient)
        yield rate


def check_alike(ours: dict[str, np.ndarray], theirs: dict[str, torch.nn.Parameter]) -> None:
    for path, expected in theirs.items():
        np.testing.assert_allclose(ours[path], expected.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=path)


def test_sgd_matches_pytorch():
    """With momentum 0.7 and decoupled weight decay, applied in PyTorch by decaying the weights before the step."""
    options = Optim(name="sgd", lr=0.1, b1=0.7, weight_decay=0.3)
    theirs = {path: torch.nn.Parameter(torch.tensor(x)) for path, x in flat(tree(0)).items()}
    sgd = torch.optim.SGD(theirs.values(), momentum=0.7)
    for rate in given_gradients(theirs):
        for path in DECAYED:
            theirs[path].data *= 1 - rate * 0.3
        sgd.param_groups[0]["lr"] = rate
        sgd.step()
    check_alike(trained(options), theirs)


def test_first_lion_step_is_the_learning_rate_times_the_sign():
    """arXiv 2302.06675, algorithm 2: the first update is sign((1 - b1) g), whatever the magnitude of the gradient."""
    start = flat(tree(0))
    after = trained(Optim(name="lion", lr=0.1, b1=0.9, b2=0.99, weight_decay=0.0), steps=1)
    for path, gradient in flat(tree(1)).items():
        np.testing.assert_allclose(after[path], start[path] - 0.05 * np.sign(gradient), rtol=1e-5, err_msg=path)


def test_adafactor_matches_optax_at_the_scheduled_rate():
    """arXiv 1804.04235, with update clipping at 1, and without momentum or parameter scaling."""
    options = Optim(name="adafactor", lr=0.1, weight_decay=0.0)
    params = tree(0)
    rate = optim.make_learning_rate(options, 10, 2)
    theirs = optax.adafactor(rate, multiply_by_parameter_scale=False, clipping_threshold=1.0, weight_decay_rate=None)
    state = theirs.init(params)
    for step in range(3):
        updates, state = theirs.update(tree(1 + step), state, params)
        params = optax.apply_updates(params, updates)
    ours = trained(options)
    for path, expected in flat(params).items():
        np.testing.assert_allclose(ours[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("name", ["schedule_free_adamw", "prodigy"])
def test_contributed_optimizers_match_optax(name):
    """At a constant rate, and with the parameters that a schedule-free one evaluates."""
    options, params = Optim(name=name, lr=0.1, b2=0.9, eps=1e-3, weight_decay=0.0), tree(0)
    betas = {"b1": 0.9, "b2": 0.9} if name != "prodigy" else {"betas": (0.9, 0.9), "safeguard_warmup": True}
    # Prodigy's updates are proportional to its rate, which is 1 here, and multiplied by the schedule's afterwards.
    theirs = getattr(optax.contrib, name)(1.0 if name == "prodigy" else 0.1, eps=1e-3, **betas)
    ours = optim.make_optimizer(options, params, lambda step: 1.0 if name == "prodigy" else 0.1)
    states, both = [ours.init(params), theirs.init(params)], [params, params]
    for step in range(3):
        for n, tx in enumerate((ours, theirs)):
            updates, states[n] = tx.update(tree(1 + step), states[n], both[n])
            both[n] = optax.apply_updates(both[n], updates)
    if name in optim.AVERAGING:
        evaluated = optax.contrib.schedule_free_eval_params(states[1], both[1])
        both = [optim.averaged(options, None, both[0], states[0]), evaluated]
    for path, expected in flat(both[1]).items():
        np.testing.assert_allclose(flat(both[0])[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)
        assert not np.array_equal(expected, flat(tree(0))[path])


def test_muon_matches_pytorch():
    """torch.optim.Muon has one matrix for each of query, key and value of a block, and heads side by side."""
    rng = np.random.default_rng(0)
    depth, width, heads, size = 2, 12, 2, 6
    shapes = {"qkv": (depth, width, 3, heads, size), "out": (depth, heads, size, width)}
    start, gradient = ({name: rng.standard_normal(shape).astype("f4") for name, shape in shapes.items()} for _ in "12")

    def wrapped(tree):
        kernels = {name: {"kernel": jnp.asarray(x)} for name, x in tree.items()}
        return {"image": {"transformer": {"blocks": {"attn": kernels}}}}

    def matrices(tree):  # as torch has them: [out, in]
        qkv = tree["qkv"].transpose(0, 2, 3, 4, 1).reshape(-1, heads * size, width)
        return [*qkv, *tree["out"].reshape(depth, -1, width).transpose(0, 2, 1)]

    theirs = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in matrices(start)]
    rates = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    muon = torch.optim.Muon(theirs, **rates)
    params = wrapped(start)
    tx = optim.make_optimizer(Optim(name="muon", weight_decay=0.0), params, lambda step: 0.1)
    updates, _ = tx.update(wrapped(gradient), tx.init(params), params)
    params = optax.apply_updates(params, updates)
    for parameter, g in zip(theirs, matrices(gradient), strict=True):
        parameter.grad = torch.from_numpy(g.copy())
    muon.step()
    kernels = params["image"]["transformer"]["blocks"]["attn"]
    found = matrices({name: np.asarray(kernels[name]["kernel"]) for name in shapes})
    for ours, parameter, first in zip(found, theirs, matrices(start), strict=True):
        moved = parameter.detach().numpy() - first  # PyTorch orthogonalizes in bfloat16
        assert np.linalg.norm(ours - first - moved) < 0.05 * np.linalg.norm(moved)


def test_adafactor_clips_each_block_of_a_tower_by_itself():
    """transformers' Adafactor, which has one parameter for each block, over steps in which the gradients of one block
    grow."""
    rng = np.random.default_rng(0)
    blocks, shape = 3, (128, 160)
    start = rng.standard_normal((blocks, *shape)).astype(np.float32)
    params = {"image": {"transformer": {"blocks": {"kernel": jnp.asarray(start)}}}}
    theirs = [torch.nn.Parameter(torch.from_numpy(block.copy())) for block in start]
    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False, "weight_decay": 0.0}
    adafactor = transformers.Adafactor(theirs, lr=0.1, **fixed)
    tx = optim.make_optimizer(Optim(name="adafactor", weight_decay=0.0), params, lambda step: 0.1)
    state = tx.init(params)
    for step in range(3):
        gradients = rng.standard_normal((blocks, *shape)).astype(np.float32)
        gradients[1] *= 4.0**step
        updates, state = tx.update({"image": {"transformer": {"blocks": {"kernel": gradients}}}}, state, params)
        params = optax.apply_updates(params, updates)
        for block, gradient in zip(theirs, gradients, strict=True):
            block.grad = torch.from_numpy(gradient)
        adafactor.step()
    expected = np.stack([block.detach().numpy() for block in theirs])
    np.testing.assert_allclose(params["image"]["transformer"]["blocks"]["kernel"], expected, rtol=1e-5, atol=1e-5)


def test_multiplier_scales_the_update_and_the_first_match_wins():
    start, plain = flat(tree(0)), trained(Optim(lr=0.1), steps=1)
    scaled = trained(Optim(lr=0.1, lr_multipliers=(("image/norm/.*", 2.0), ("image/.*", 0.5))), steps=1)
    for path in start:
        factor = 2.0 if path.startswith("image/norm") else 0.5 if path.startswith("image/") else 1.0
        expected = start[path] + factor * (plain[path] - start[path])
        np.testing.assert_allclose(scaled[path], expected, rtol=1e-5, atol=1e-6, err_msg=path)


def test_frozen_parameters_do_not_change_and_have_no_moments():
    options = Optim(lr=0.1, clip_norm=1.0, lr_multipliers=(("image/.*", 0),))
    start, after = flat(tree(0)), trained(options)
    for path in start:
        assert np.array_equal(after[path], start[path]) == path.startswith("image/"), path
    state = optim.make_optimizer(options, tree(0), lambda step: 0.1).init(tree(0))
    count = sum(x.size for path, x in start.items() if not path.startswith("image/"))
    assert sum(x.size for x in jax.tree.leaves(state) if x.dtype == jnp.float32) == 2 * count


def tower(seed: int) -> dict:
    """A tree with four stacked blocks in the image tower."""
    kernel = jnp.asarray(np.random.default_rng(seed).standard_normal((4, 2, 3)), jnp.float32)
    below = {"patch": jnp.ones(3), "position": jnp.ones((2, 3))}
    return {"image": {**below, "transformer": {"blocks": {"mlp": {"kernel": kernel}}}, "post_norm": jnp.ones(3)}}


def test_multipliers_of_single_blocks():
    """A path with a number is of that block, one without of all; for each block, the first match wins."""
    rules = (("image/transformer/blocks/0/.*", 0.0), ("image/transformer/blocks/[02]/mlp/kernel", 0.5))
    rules += (("image/transformer/blocks/mlp/kernel", 2.0),)
    start, plain = flat(tower(0)), trained(Optim(lr=0.1), 1, tower)
    scaled = trained(Optim(lr=0.1, lr_multipliers=rules), 1, tower)
    kernel = "image/transformer/blocks/mlp/kernel"
    np.testing.assert_array_equal(scaled[kernel][0], start[kernel][0])
    expected = start[kernel] + np.array([0, 2, 0.5, 2])[:, None, None] * (plain[kernel] - start[kernel])
    np.testing.assert_allclose(scaled[kernel], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(scaled["image/patch"], plain["image/patch"])


def test_layer_decay_is_that_of_beit():
    """0.5 to the number of layers above: three blocks' for the first of four, five for embeddings, none at the end."""
    params = {**tower(0), "logit_scale": jnp.ones(())}
    found = optim.multipliers(Optim(layer_decay=0.5, lr_multipliers=(("image/patch", 8.0), ("logit.*", 3.0))), params)
    kernel = found["image"].pop("transformer")["blocks"]["mlp"]["kernel"]
    np.testing.assert_allclose(kernel, [1 / 16, 1 / 8, 1 / 4, 1 / 2])
    assert found == {"image": {"patch": 8 / 32, "position": 1 / 32, "post_norm": 1.0}, "logit_scale": 3.0}


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_frozen_blocks_keep_their_bits(name):
    options = Optim(name=name, lr=0.1, lr_multipliers=(("image/transformer/blocks/[01]/.*", 0.0),))
    start, after = flat(tower(0)), trained(options, tree=tower)
    kernel = "image/transformer/blocks/mlp/kernel"
    assert (start[kernel] == after[kernel]).all(axis=(1, 2)).tolist() == [True, True, False, False]


def test_frozen_blocks_keep_their_bits_in_an_optimizers_own_average():
    options = Optim(name="schedule_free_adamw", lr=0.1, lr_multipliers=(("image/transformer/blocks/[01]/.*", 0.0),))
    params, kernel = tower(0), "image/transformer/blocks/mlp/kernel"
    tx = optim.make_optimizer(options, params, lambda step: 0.1)
    updates, state = tx.update(tower(1), tx.init(params), params)
    average = flat(optim.averaged(options, params, optax.apply_updates(params, updates), state))[kernel]
    assert (flat(params)[kernel] == average).all(axis=(1, 2)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("rules", "blocks"),
    [
        ((), 0),
        ((("image/.*", 0.0),), 4),
        ((("image/post_norm", 1.0), ("image/.*", 0.0)), 4),
        ((("image/transformer/blocks/[23]/.*", 1.0), ("image/.*", 0.0)), 2),
        ((("image/transformer/blocks/[013]/.*", 0.0), ("image/p.*", 0.0)), 2),
        ((("image/transformer/blocks/[1-3]/.*", 0.0), ("image/p.*", 0.0)), 0),
        ((("image/transformer/blocks/.*", 0.0), ("image/patch", 0.0)), 0),  # positions are trained
    ],
)
def test_lowest_frozen_blocks(rules, blocks):
    """Blocks without a trained parameter in or below them."""
    model = Model(preset("tiny-clip"))  # has four blocks, too
    params = {**model.shapes(), **tower(0)}
    frozen = optim.frozen_blocks(Optim(lr_multipliers=rules), model.config, params)
    assert frozen == {"image": blocks, "text": 0}


def test_multiplier_that_matches_nothing_is_rejected():
    with pytest.raises(UserError, match=r"blocks/4/\.\*' matches no parameter"):
        optim.multipliers(Optim(lr_multipliers=(("image/transformer/blocks/4/.*", 0.0),)), tower(0))
    with pytest.raises(UserError, match=r"lr_multipliers: 'vision/\.\*' matches no parameter; paths look like 'image/"):
        optim.make_optimizer(Optim(lr_multipliers=(("vision/.*", 0.1),)), tree(0), lambda step: 0.1)
