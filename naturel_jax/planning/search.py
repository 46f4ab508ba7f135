"""``naturel-plan --search``: finds the fastest way to compute a training step that fits.

Recomputation, chunks, the exchange and sharded parameters change a step only by rounding. Every candidate is estimated;
the compiler decides between the few that matter.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from naturel_jax import config as config_lib
from naturel_jax.config import Config
from naturel_jax.devices import hardware
from naturel_jax.devices.sharding import hosts, make_mesh
from naturel_jax.models.two_tower import Params
from naturel_jax.planning import compiled, estimate
from naturel_jax.planning.compiled import Collective
from naturel_jax.training import exchange, memory
from naturel_jax.training.run import Training
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

COMPILATIONS = 6  # at most this many, since each takes minutes
LEAST = 0.4  # share of its estimated temporaries that a step needs at least; measured: 0.43 or more
_CHUNKS = (1, 2, 4, 8)

_ALWAYS = ("compute.remat", "objective.chunks", "objective.exchange", "mesh.fsdp")
_IF_CHANGED = ("mesh.data", "mesh.tensor")

Make = Callable[[Config], Training]  # ``estimate.make_training`` with everything but the config


class Candidate(NamedTuple):
    """A config, and what its step is estimated to need: bytes per device for arguments and for temporaries, and
    seconds."""

    config: Config
    arguments: int
    temporaries: int
    seconds: float

    def needed(self, ratio: float = 1) -> float:
        """Bytes per device if the compiler's temporaries are ``ratio`` times the estimated ones."""
        return self.arguments + ratio * self.temporaries


class Tried(NamedTuple):
    """A candidate, and the ``estimate.plan`` of its compiled step."""

    candidate: Candidate
    plan: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """Time of the compiled step; infinite if it does not fit."""
        return self.plan["at_least"]["step"] if self.plan["fits"] else math.inf


# ---- Candidates ------------------------------------------------------------------------------------------------------


def candidates(config: Config, devices: Sequence[jax.Device], make: Make) -> list[Candidate]:
    """Every candidate with its estimates. Raises UserError if the speed or memory of the devices is not known, and what
    ``make`` raises."""
    tensor = make_mesh(asdict(config.mesh), devices).shape["tensor"]
    shards = len(devices) // tensor
    splits = [size for size in range(1, shards + 1) if shards % size == 0]
    found = []
    for chunks, fsdp in itertools.product(_CHUNKS, splits):
        if chunks > 1 and chunks * shards > config.data.batch_size:  # a chunk takes an image from every device
            continue
        mesh = config_lib.Mesh(data=-1, fsdp=fsdp, tensor=tensor)
        base = _with(config, "none", chunks, "ring", mesh)
        found += list(_estimates(base, make(base)))
    return found


def _with(config: Config, remat: str, chunks: int, exchange_name: str, mesh: config_lib.Mesh) -> Config:
    return replace(
        config,
        compute=replace(config.compute, remat=remat),
        objective=replace(config.objective, chunks=chunks, exchange=exchange_name),
        mesh=mesh,
    )


def _estimates(config: Config, training: Training) -> Iterator[Candidate]:
    """A candidate for each policy of ``memory.AUTO``, with the exchange that ``auto`` would become."""
    state, batch, chunks = training.state, training.pipeline.shapes(0), config.objective.chunks
    mesh, model = training.pipeline.sharding.mesh, training.loss.model
    assert isinstance(mesh, Mesh)  # the step is placed on devices
    kind, dtype = mesh.devices.flat[0].device_kind, model.compute.dtype
    sizes = exchange.sizes(mesh, batch, model.config.embed_dim, config.objective.tile)
    known, limit = exchange.costs(kind, sizes), memory.usable(kind)
    if known is None or limit is None or hardware.peak(kind, dtype) is None:
        raise UserError(
            f"--search: speed or memory of {kind} in {dtype} is not known; expected one of "
            f"{', '.join(hardware.SPEED_KNOWN)}, in bfloat16 (config.compute.dtype)"
        )
    name = exchange.best(known, limit)
    step = training.loss.step_flops(batch)
    arguments = memory.per_device((state, batch))
    found = transfers(training.start.params, mesh, dtype, chunks)
    for remat in memory.AUTO:
        estimate = memory.estimate(memory.with_remat(model, remat), state.params, batch, mesh, chunks, state.base)
        temporaries = sum(estimate) + known[name].memory
        traffic = arguments + memory.per_device(state) + 2 * temporaries
        device_flops = step.computed(remat, chunks) / mesh.size
        bound = compiled.roofline(kind, dtype, device_flops, traffic, found)
        assert bound is not None  # speed and peak are known
        chosen = _with(config, remat, chunks, name, config.mesh)
        yield Candidate(chosen, arguments, temporaries, bound.step + known[name].waiting)


def transfers(params: Params, mesh: Mesh, dtype: str, chunks: int) -> list[Collective]:
    """What a step sends for its parameters, if possible while it computes: gradients are summed over the data axis; if
    parameters are split over the fsdp axis, they are gathered in each pass, and the summed gradients scattered."""
    data, fsdp, tensor = mesh.devices.shape
    size = sum(x.size for x in jax.tree.leaves(params)) * jnp.dtype(dtype).itemsize // tensor
    gathers = 2 * chunks + (chunks if chunks > 1 else 0)  # forward and backward; chunks go forward twice
    along_data, along_fsdp = hosts(mesh, ("data",)), hosts(mesh, ("fsdp",))
    found = [
        Collective("all-reduce", data, size // fsdp, chunks, True, "", along_data),
        Collective("all-gather", fsdp, size, gathers, True, "", along_fsdp),
        Collective("reduce-scatter", fsdp, size // fsdp, chunks, True, "", along_fsdp),
    ]
    return [one for one in found if one.devices > 1]


# ---- Search ----------------------------------------------------------------------------------------------------------


def search(
    found: Sequence[Candidate], limit: float, compile_step: Callable[[Config], Mapping[str, Any]]
) -> list[Tried]:
    """Compiles candidates in the order of their estimated time, at most ``COMPILATIONS``, until no other is estimated
    to be faster than the fastest compiled one that fits into ``limit`` bytes.

    Candidates that do not fit by the estimate are skipped; the first compiled step with the same recomputation corrects
    their estimated temporaries. If nothing has fitted, the last one compiled is the one that needs the least memory.
    """
    left, tried = sorted(found, key=lambda one: one.seconds), list[Tried]()
    ratios: dict[str, float] = {}
    while len(tried) < COMPILATIONS:
        fastest = min((one.seconds for one in tried), default=math.inf)
        left = [
            one
            for one in left
            if one.needed(ratios.get(one.config.compute.remat, LEAST)) <= limit and one.seconds < fastest
        ]
        if not left:
            break
        is_last_chance = len(tried) == COMPILATIONS - 1 and fastest == math.inf
        chosen = min(left, key=Candidate.needed) if is_last_chance else left[0]
        left = [one for one in left if one is not chosen]
        _LOG.info("compiling %s (%d of at most %d)", " ".join(flags(chosen.config)), len(tried) + 1, COMPILATIONS)
        plan, remat = compile_step(chosen.config), chosen.config.compute.remat
        ratio = plan["memory"]["temporaries"] / chosen.temporaries
        ratios[remat] = min(ratio, ratios.get(remat, math.inf))
        tried.append(Tried(chosen, plan))
    return tried


def flags(config: Config, before: Config | None = None) -> list[str]:
    """``--config.x=y`` for the fields that the search chose; for others that it set, only if ``before`` has another
    value."""
    changed = [name for name in _IF_CHANGED if before and _value(config, name) != _value(before, name)]
    return [f"--config.{name}={_value(config, name)}" for name in (*changed, *_ALWAYS)]


def _value(config: Config, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), config)


# ---- Report ----------------------------------------------------------------------------------------------------------


def report(config: Config, devices: Sequence[jax.Device], make: Make, price: float | None) -> dict[str, Any]:
    """Searches, and returns what ``--json`` prints: sizes are in bytes, times in seconds; ``fastest`` is an index
    into ``tried``, or None if nothing fits."""
    found, kind = candidates(config, devices, make), devices[0].device_kind
    limit = memory.usable(kind)
    assert limit is not None  # ``candidates`` has checked it
    tried = search(found, limit, lambda one: estimate.plan(one, make(one), price))
    fits = [n for n, one in enumerate(tried) if one.plan["fits"]]
    return {
        "device": kind,
        "devices": len(devices),
        "usable": limit,
        "gpu_share": memory.gpu_share() if devices[0].platform == "gpu" else None,
        "candidates": len(found),
        "may_fit": sum(one.needed(LEAST) <= limit for one in found),
        "least_needed": round(min(one.needed() for one in found)),
        "fastest": min(fits, key=lambda n: tried[n].seconds, default=None),
        "tried": [
            {
                "flags": flags(one.candidate.config, config),
                "batch_size": one.candidate.config.data.batch_size,
                "chunks": one.candidate.config.objective.chunks,
                "fsdp": one.candidate.config.mesh.fsdp,
                **one.plan,
                "estimate": one.plan["estimate"] | {"needed": one.candidate.needed(), "step": one.candidate.seconds},
            }
            for one in tried
        ],
    }


def to_text(result: Mapping[str, Any]) -> str:
    """The result of ``report`` as text, with the name of the config and the topology."""
    tried, limit = result["tried"], result["usable"] / memory.GIB
    lines = [
        f"{result['name']} on {result['topology']}: {result['devices']} x {result['device']}",
        f"memory of each: {limit:.2f} GiB{estimate.share_note(result)}",
        f"{result['candidates']} candidates, {result['may_fit']} may fit, {len(tried)} compiled",
    ]
    if tried:
        lines += ["", f"{'':46}{'estimate':>16}{'compiled':>16}", _row(*_COLUMNS)]
    for number, one in enumerate(tried):
        settings = f"{one['batch_size']:,}", one["remat"], str(one["chunks"]), str(one["fsdp"]), one["exchange"]
        estimated = f"{one['estimate']['needed'] / memory.GIB:.2f}", f"{1e3 * one['estimate']['step']:.1f}"
        step = one.get("at_least", {}).get("step")
        found = f"{one['needed'] / memory.GIB:.2f}", f"{1e3 * step:.1f}" if step else "-"
        note = "fastest" if number == result["fastest"] else "" if one["fits"] else "does not fit"
        lines.append(_row(*settings, *estimated, *found, note))
    if result["fastest"] is None:
        least = result["least_needed"] / memory.GIB
        lines += ["", f"nothing fits: the least that a candidate is estimated to need is {least:.2f} GiB"]
        lines[-1] += f" of {limit:.2f}. Take more devices, or a smaller config.data.batch_size"
    else:
        fastest = tried[result["fastest"]]
        lines += ["", *estimate.time_lines(fastest), " ".join(fastest["flags"])]
    return "\n".join(lines)


_COLUMNS = ("batch", "remat", "chunks", "fsdp", "exchange", "GiB", "ms", "GiB", "ms", "")


def _row(*cells: str) -> str:
    widths = (">9", "<6", ">6", ">6", "<13", ">8", ">8", ">8", ">8", "<13")
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
