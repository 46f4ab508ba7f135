"""What a training step needs on devices that only the compiler knows: memory, FLOPs, transfers, time and money."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath
from jax.sharding import Mesh

from naturel_jax.config import Config
from naturel_jax.data import datasets
from naturel_jax.data.items.items import Source
from naturel_jax.devices.sharding import batch_shards, hosts, make_mesh, shardings
from naturel_jax.losses.batch import Batch
from naturel_jax.planning import compiled, products
from naturel_jax.training import exchange, memory, run, stand_in
from naturel_jax.training.choices import make_model
from naturel_jax.training.start import Start, model_sizes, new_adapter, trained_sizes
from naturel_jax.weights import Adapter
from tfds_naturel.common.errors import UserError


def make_training(
    config: Config, devices: Sequence[jax.Device], processes: int, tokens: int, examples: int
) -> run.Training:
    """What ``run.make_training`` makes for a run of ``config`` on ``devices``; parameters and state are shapes.

    Captions are trimmed to ``tokens`` where the text tower allows it. Training data that is not prepared here is
    replaced by ``examples`` images whose captions all differ. Raises UserError if ``processes``, batch and mesh do not
    divide evenly, and for a config without training.
    """
    if not config.data.mixture:
        raise UserError(f"config.data.mixture is empty: {config.name} trains nothing, so there is no step to plan")
    mesh = make_mesh(dataclasses.asdict(config.mesh), devices)
    for what, count in (("devices", len(devices)), ("blocks of a batch (config.mesh)", batch_shards(mesh))):
        if count % processes:
            raise UserError(f"--processes is {processes}, which does not divide the {count} {what}")
    sizes, new_bias = trained_sizes(config, model_sizes(config, epath.Path()))
    model = make_model(config, sizes, mesh)
    shapes = model.shapes()
    params = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, shardings(shapes, mesh)
    )
    adapter = Adapter(new_adapter(config, params, mesh), config.adapter, "", "") if config.adapter.rank else None
    start = Start(model, params, stand_in.processor(sizes, tokens, config.data.max_patches), new_bias, adapter)
    return run.make_training(config, start, training_data(config, examples), mesh)


def training_data(config: Config, examples: int) -> list[Source]:
    """The sources of ``config.data.mixture`` if all are prepared, else stand-ins with ``examples`` images in total."""
    if _prepared(config):
        return datasets.open_sources(config.data)
    return [
        stand_in.source(name, max(examples // len(config.data.mixture), config.data.batch_size))
        for name in config.data.mixture
    ]


def _prepared(config: Config) -> bool:
    folder = Path(config.data.dir)
    return all(":" in part.dataset or (folder / part.dataset).is_dir() for part in config.data.mixture.values())


def plan(config: Config, training: run.Training, price: float | None) -> dict[str, Any]:
    """Compiles the step and returns what ``--json`` prints; sizes are in bytes, times in seconds. ``price``: per hour
    of a TPU chip or GPU."""
    model, batch, state = training.loss.model, training.pipeline.shapes(0), training.state
    mesh = training.pipeline.sharding.mesh
    assert isinstance(mesh, Mesh)  # the step is placed on devices
    step, kind = training.loss.step_flops(batch), mesh.devices.flat[0].device_kind
    needs = {
        "parameters": memory.per_device(state.params),
        "optimizer": memory.per_device(state.opt_state),
        "moving average": memory.per_device(state.ema),
        "base": memory.per_device(state.base),
        "batch": memory.per_device(batch),
    }
    result = _before(config, training, batch, mesh) | {"model_flops": step.model}
    started = time.monotonic()
    traced = training.step.trace(state, batch)
    result["products"] = products.count(traced.jaxpr)._asdict()
    try:
        program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if (needed := compiled.refused(str(error))) is None:
            raise
        needs["temporaries"] = needed - sum(needs.values())
        return result | {"memory": needs, "needed": sum(needs.values()), "fits": False}
    sizes: Any = program.memory_analysis()
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes  # without those in the memory of donated arguments
    needs |= {
        "temporaries": compiled.temporaries(sizes, mesh.devices.flat[0].platform),
        "results": results,
        "program": sizes.generated_code_size_in_bytes,
    }
    needed = sum(needs.values())
    result |= {
        "compile_seconds": time.monotonic() - started,
        "memory": needs,
        "needed": needed,
        "fits": result["usable"] is None or needed <= result["usable"],
        "compiler_flops": (program.cost_analysis() or {}).get("flops"),
    }
    found = compiled.collectives(program.as_text() or "", mesh.size // hosts(mesh))
    result["collectives"] = [one._asdict() for one in found]
    device_flops = step.computed(model.compute.remat, config.objective.chunks) / mesh.size
    traffic = sizes.argument_size_in_bytes + memory.per_device(state) + 2 * needs["temporaries"]
    if bound := compiled.roofline(kind, model.compute.dtype, device_flops, traffic, found):
        result["at_least"] = bound._asdict() | {"step": bound.step}
        result["images_per_second"] = config.data.batch_size / bound.step
        result["hours"] = training.schedule.total * bound.step / 3600
        if price is not None:
            chips = len({tuple(device.coords) for device in mesh.devices.flat})
            result["cost"] = result["hours"] * chips * price
    return result


def _before(config: Config, training: run.Training, batch: Batch, mesh: Mesh) -> dict[str, Any]:
    """What is known of a step before it is compiled."""
    model, state, device = training.loss.model, training.state, mesh.devices.flat[0]
    exchanged, width = training.loss.layout.exchange, model.config.embed_dim
    captions, tokens = batch.captions_to_embed
    rows = {"images": batch.images_to_embed, "captions": captions, "tokens": tokens}
    rows |= {"patches": patches} if (patches := batch.patches_to_embed) else {}
    return {
        "devices": mesh.size,
        "device": device.device_kind,
        "data": "prepared" if _prepared(config) else "stand-in: all captions of a batch differ",
        "rows": rows,
        "dtype": model.compute.dtype,
        "remat": model.compute.remat,
        "attention": model.compute.attention,
        "exchange": exchanged,
        "steps": training.schedule.total,
        "usable": memory.usable(device.device_kind),
        "gpu_share": memory.gpu_share() if device.platform == "gpu" else None,
        "estimate": {
            **memory.estimate(model, state.params, batch, mesh, config.objective.chunks, state.base)._asdict(),
            "loss": exchange.memory_of(exchanged, exchange.sizes(mesh, batch, width, config.objective.tile)),
        },
    }


# ---- Text ------------------------------------------------------------------------------------------------------------


def to_text(result: Mapping[str, Any]) -> str:
    """The result of ``plan`` as text."""
    rows, devices, estimate = result["rows"], result["devices"], result["estimate"]
    towers, made = estimate["gradients"] + estimate["activations"], result["products"]
    flops = result.get("compiler_flops")
    patches = f" of {rows['patches']} patches" if "patches" in rows else ""
    attention = f"attention {result['attention']!r}, " if result["attention"] else ""
    lines = [
        f"{result['name']} on {result['topology']}: {devices} x {result['device']}, {result['dtype']}, "
        f"remat {result['remat']!r}, {attention}exchange {result['exchange']!r}",
        f"a step: {rows['images']:,} images{patches}, {rows['captions']:,} captions of {rows['tokens']} tokens "
        f"(data {result['data']}); model FLOPs {result['model_flops']:.3g}",
        "",
        "memory of each device (GiB)",
        *(f"  {kind:16}{size / memory.GIB:8.3f}" for kind, size in result["memory"].items() if size >= 2**20),
        f"  {'total':16}{result['needed'] / memory.GIB:8.3f}",
        verdict(result) + share_note(result),
        f"temporaries are {result['memory']['temporaries'] / towers:.2f} times as large as the estimate, "
        f"{towers / memory.GIB:.2f} GiB",
        *(f"  {kind:16}{size / memory.GIB:8.3f}" for kind, size in estimate.items()),
        f"matrix products {made['flops']:.3g} FLOPs, {made['bfloat16'] / made['flops']:.1%} of them of bfloat16 factors"
        + (f"; the compiler counts {flops:.3g} on each device, bodies of loops once" if flops else ""),
    ]
    if "collectives" in result:
        large = [one for one in result["collectives"] if one["bytes"] >= 2**10]
        lines += ["", "transfers between devices in a step (of 1 KiB or more)", *map(_collective_line, large)]
        lines += ["", f"compiled in {result['compile_seconds']:.0f} s"]
    if "at_least" in result:
        lines += time_lines(result)
    return "\n".join(lines)


def verdict(result: Mapping[str, Any]) -> str:
    """Whether the step fits, by how much, and if not, the fields to change."""
    needed, limit = result["needed"] / memory.GIB, result["usable"]
    if limit is None:
        return f"the memory of a {result['device']} is not known"
    limit /= memory.GIB
    if result["fits"]:
        return f"fits: {limit - needed:.2f} of {limit:.2f} GiB are left"
    fields = ["config.data.batch_size (smaller)", "config.objective.chunks (larger)", "config.mesh.fsdp (larger)"]
    if result["remat"] != "full":
        fields.insert(0, f"config.compute.remat ({'dots or full' if result['remat'] == 'none' else 'full'})")
    return f"does not fit: needs {needed:.2f} of {limit:.2f} GiB. Change {', '.join(fields)}"


def share_note(result: Mapping[str, Any]) -> str:
    """How much of a GPU's memory JAX may use; empty for other devices."""
    if result["gpu_share"] is None:
        return ""
    return f" (JAX takes {result['gpu_share']:g} of the card's memory, or XLA_CLIENT_MEM_FRACTION)"


def _collective_line(one: Mapping[str, Any]) -> str:
    size = one["bytes"] / 2**20
    how = "asynchronous" if one["asynchronous"] else "synchronous"
    among = f"among {one['devices']}" if one["devices"] else f"from {one['way']} and so on" if one["way"] else ""
    among += f" on {one['hosts']} hosts" if one["hosts"] > 1 else ""
    return f"  {one['runs']:4} x {one['kind']:20}{size:10.3f} MiB  {how:13} {among}".rstrip()


def time_lines(result: Mapping[str, Any]) -> list[str]:
    """The bound on time, and what follows from it for the run."""
    bound = {name: 1e3 * seconds for name, seconds in result["at_least"].items()}
    lines = [
        f"a step takes at least {bound['step']:.1f} ms: matrix units {bound['matrix']:.1f}, memory "
        f"{bound['memory']:.1f}, links {bound['links']:.1f} ({bound['waiting']:.1f} of it waiting); at most "
        f"{result['images_per_second']:,.0f} images/s",
        f"{result['steps']:,} steps: at least {result['hours']:.3g} hours",
    ]
    if "cost" in result:
        lines[-1] += f", {result['cost']:,.2f} at the given price"
    return lines
