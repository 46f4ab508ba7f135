"""What a training step of each method costs beside NegCLIP's: FLOPs and time.

    python -m perf.methods                         # ViT-B/32 with 4 images, then the demo's towers with 64
    python -m perf.methods --batches tiny-clip=64 --rounds 20

All rows begin with the same parameters and take their steps in turns, in one process. A time is the median over rounds
of the ratio to NegCLIP's step of the same round, with the lowest and the highest in brackets. Images are random,
captions are NatuRel's. Each image of NegCLIP's batch brings a mined one, with captions of its own; with ``two_pairs``,
each has two pairs of captions, and there are no hard images.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from naturel_jax.config import Config, Objective, Optim
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import batch_sharding, batch_shards, make_mesh, shardings
from naturel_jax.losses.batch import Batch
from naturel_jax.losses.terms import TERMS
from naturel_jax.models.presets import preset
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.training import optim, train
from naturel_jax.training.loss import Loss
from perf.objectives import make_processor, skewed_items, with_pixels
from tfds_naturel.common import cli

OPTIM = Optim(ema=0.9996)  # NegCLIP's; the average is that of base_distance's of_average


class Method(NamedTuple):
    """``batch``: a recipe, and where hard images come from, if there are any."""

    batch: str
    terms: Mapping[str, Mapping[str, Any]] = {}
    objective: str = "softmax"


MINED, TWO, EXCHANGED = "single_pair mined", "two_pairs", "single_pair exchanged"
FORMS = ("softmax", "focal", "sigmoid", "hinge", "adaptive_hinge")
METHODS = {
    "NegCLIP": Method(MINED),
    "sigmoid loss": Method(MINED, objective="sigmoid"),
    **{f"own_foils, {form}": Method(MINED, {"own_foils": {"form": form}}) for form in FORMS},
    "base_distance": Method(MINED, {"base_distance": {}}),
    "base_distance, similarity": Method(MINED, {"base_distance": {"similarity": 1.0}}),
    "base_distance, distillation": Method(MINED, {"base_distance": {"distillation": 1.0}}),
    "base_distance, of_average": Method(MINED, {"base_distance": {"of_average": True}}),
    "NegCLIP, two_pairs": Method(TWO),
    "text_contrast, two_pairs": Method(TWO, {"text_contrast": {}}),
    "text_distance, two_pairs": Method(TWO, {"text_distance": {}}),
    "further_positives, two_pairs": Method(TWO, {"further_positives": {}}),
    "further_positives, sigmoid, two_pairs": Method(TWO, {"further_positives": {"form": "sigmoid"}}),
    "softmax_each, two_pairs": Method(TWO, objective="softmax_each"),
    "TripletCLIP": Method(EXCHANGED, {"exchanged_images": {}}),
    "ConCLIP": Method(EXCHANGED, {"exchanged_images": {"form": "image_to_text"}}),
    "CLIC, joined": Method("clic", {"own_foils": {}, "text_distance": {"further": 1}}, "softmax_each"),
    "CLIC, plain": Method("positives", objective="softmax_each"),
}


class Result(NamedTuple):
    """FLOPs of a method's step and the times of its steps, each relative to NegCLIP's."""

    flops: float
    times: np.ndarray


def make_batch(kind: str, model: Model, size: int, shards: int) -> tuple[Processor, Batch]:
    """The first batch of a recipe, with random pixels."""
    name, _, hard = kind.partition(" ")
    items, config = skewed_items(50 * size, np.random.default_rng(0)), model.config
    mined = Ragged.from_rows(np.random.default_rng(1).integers(0, len(items), (len(items), 64)).tolist())
    part = MixturePart(items, recipe(name), hard_images=mined if hard else None, exchanged=hard == "exchanged")
    processor = make_processor(config, items.texts)
    plan = Planner([part], processor, batch_size=size, shards=shards, seed=0, trim_eos=config.text.eos_id).plan(0)
    return processor, with_pixels(plan, config.image.size)


def measure(preset_name: str, size: int, rounds: int) -> dict[str, Result]:
    """A result for each row of ``METHODS``. One state passes through the steps of all: each is as large as four
    models."""
    model, mesh = Model(preset(preset_name), Compute("float32")), make_mesh({"data": -1})
    params = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))(jax.random.key(0))
    tx = optim.make_optimizer(OPTIM, params, optax.constant_schedule(OPTIM.lr))
    state = train.make_state(params, tx, mesh, ema=True, base=True)

    def own_step(method: Method) -> tuple[jax.stages.Lowered, dict[str, None], Batch, float]:
        processor, batch = make_batch(method.batch, model, size, batch_shards(mesh))
        terms = {name: TERMS[name](**options) for name, options in method.terms.items()}
        options = Config(objective=Objective(name=method.objective, terms=terms), optim=OPTIM)
        loss = Loss(options, model, (processor.mean, processor.std), params, mesh)
        unused = {"ema": None} if not loss.of_average else {}
        unused |= {"base": None} if loss.of_average or not loss.needs_base else {}
        own = state._replace(**unused)
        step = train.make_step(loss, tx, own, mesh, max_scale=model.config.max_scale, options=OPTIM)
        batch = jax.device_put(batch, batch_sharding(mesh))
        return step.lower(own, batch), unused, batch, loss.step_flops(batch).model

    lowered, unused, batches, flops = zip(*map(own_step, METHODS.values()), strict=True)
    with ThreadPoolExecutor(2) as pool:  # XLA compiles each on one core
        compiled = list(pool.map(jax.stages.Lowered.compile, lowered))

    def seconds(n: int) -> float:
        nonlocal state
        start = time.perf_counter()
        new, metrics = compiled[n](state._replace(**unused[n]), batches[n])
        assert metrics["finite"], list(METHODS)[n]
        passed = time.perf_counter() - start
        state = new._replace(**{name: getattr(state, name) for name in unused[n]})
        return passed

    times = np.array([[seconds(n) for n in range(len(METHODS))] for _ in range(1 + rounds)])[1:]  # the first warms up
    ratios = times / times[:, :1]
    print(f"{preset_name}, {size} images: NegCLIP's step takes {np.median(times[:, 0]):.3f} s", flush=True)
    return {name: Result(flops[n] / flops[0], ratios[:, n]) for n, name in enumerate(METHODS)}


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ["clip-b32=4", "tiny-clip=64"]
    parser.add_argument("--batches", nargs="+", default=default, metavar="PRESET=IMAGES", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    sizes = [text.partition("=") for text in args.batches]
    found = {name: measure(name, int(size), args.rounds) for name, _, size in sizes}
    head = [f"{name}, {what}" for name in found for what in ("FLOPs", "time")]
    print(f"\n| step | {' | '.join(head)} |\n|{'---|' * (1 + len(head))}")
    for row in METHODS:
        cells = []
        for results in found.values():
            low, middle, high = np.quantile(results[row].times, (0, 0.5, 1))
            cells += [f"{results[row].flops:.2f}", f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    cli.run(main)
