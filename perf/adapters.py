"""Step time and memory of LoRA beside full tuning: one batch, steps in turns, in one process.

    python -m perf.adapters --preset clip-b32 --batch 16 --rank 16

Parameters are random: time and memory do not depend on them. Times are medians; memory is what the state holds, what a
checkpoint has of it, and the temporaries of the compiled step.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax

from naturel_jax.config import Adapter, Config
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import batch_sharding, batch_shards, make_mesh, shardings
from naturel_jax.losses.batch import Batch
from naturel_jax.models.presets import PRESETS, preset
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model
from naturel_jax.training import memory, optim, train
from naturel_jax.training.loss import Loss
from naturel_jax.training.start import new_adapter
from perf.objectives import in_turns, planned, with_pixels
from tfds_naturel.common import cli


class Measured(NamedTuple):
    """``flops``: of the model in a step; sizes in bytes."""

    step: Callable[[], object]
    flops: float
    state: int
    saved: int
    temporaries: int


def measure(model: Model, options: Config, processor: Processor, batch: Batch) -> Measured:
    """A compiled step of ``options`` on all devices."""
    mesh = make_mesh({"data": -1})
    params = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))(jax.random.key(0))
    trained = new_adapter(options, params, mesh) if options.adapter.rank else params
    tx = optim.make_optimizer(options.optim, trained, optax.constant_schedule(options.optim.lr))
    state = train.make_state(trained, tx, mesh, ema=False)
    state = state._replace(base=params) if options.adapter.rank else state
    loss = Loss(options, model, (processor.mean, processor.std), trained, mesh)
    batch = jax.device_put(batch, batch_sharding(mesh))
    step = train.make_step(loss, tx, state, mesh, max_scale=model.config.max_scale, options=options.optim)
    sizes = [memory.per_device(tree) for tree in (state, state.arrays())]
    program = step.lower(state, batch).compile()

    def run() -> object:
        nonlocal state
        state, metrics = program(state, batch)
        return jax.block_until_ready(metrics["loss"])

    return Measured(run, loss.step_flops(batch).model, *sizes, program.memory_analysis().temp_size_in_bytes)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="clip-b32", choices=sorted(PRESETS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(arguments)
    model = Model(preset(args.preset), Compute("float32" if jax.default_backend() == "cpu" else "bfloat16"))
    processor, plan, _ = planned(model.config, args.batch, "sentinel", batch_shards(make_mesh({"data": -1})))
    batch = with_pixels(plan, model.config.image.size)
    targets = {"attention": (".*/attn/(query|key|value|out)",), "all layers": (".*",)}
    configs = {"full tuning": Config()} | {
        f"LoRA of {name}": Config(init="base", adapter=Adapter(rank=args.rank, targets=patterns))
        for name, patterns in targets.items()
    }
    measured = {name: measure(model, config, processor, batch) for name, config in configs.items()}
    seconds = np.median(in_turns([one.step for one in measured.values()], args.repeats), axis=0)
    full = next(iter(measured.values()))
    print(
        f"{args.preset}, rank {args.rank}, {args.batch} items: {model.compute.dtype} on {jax.devices()[0].device_kind}"
    )
    print(
        f"{'':20}{'ms':>8}{'ratio':>7}{'FLOPs':>10}{'ratio':>7}{'state MB':>10}{'saved MB':>10}{'temporaries MB':>16}"
    )
    for (name, one), took in zip(measured.items(), seconds, strict=True):
        sizes = f"{one.state / 1e6:>10.1f}{one.saved / 1e6:>10.1f}{one.temporaries / 1e6:>16.1f}"
        work = f"{one.flops:>10.2e}{one.flops / full.flops:>7.2f}"
        print(f"{name:20}{1e3 * took:>8.0f}{took / seconds[0]:>7.2f}{work}{sizes}")


if __name__ == "__main__":
    cli.run(main)
