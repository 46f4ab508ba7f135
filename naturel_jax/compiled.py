"""What a compiled program says about itself: its memory, its collectives, and the least time it takes on a chip."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from naturel_jax.models import flops

# ---- Memory ----------------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Bytes on each device. ``results`` do not count those that take the place of donated arguments."""

    arguments: int
    results: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """What the program occupies while it runs."""
        return sum(self)


def memory(compiled: jax.stages.Compiled) -> Memory:
    """The memory of a compiled program."""
    sizes: Any = compiled.memory_analysis()
    return Memory(
        sizes.argument_size_in_bytes,
        sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        sizes.temp_size_in_bytes,
        sizes.generated_code_size_in_bytes,
    )


_REFUSAL = re.compile(r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([KMGT])\) exceeds available HBM", re.DOTALL)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def refused(message: str) -> int | None:
    """Bytes of temporaries for which the TPU compiler refused a program; None if it failed for another reason."""
    match = _REFUSAL.search(message)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


# ---- Collectives -----------------------------------------------------------------------------------------------------


class Collective(NamedTuple):
    """A collective of a compiled program: ``kind`` as HLO spells it, devices that take part in it together (0: in
    pairs), bytes of its result on one device, how often a run of the program executes it (loops multiplied out),
    whether the device may compute meanwhile, and of a permute, its first source and target."""

    kind: str
    devices: int
    bytes: int
    runs: int
    asynchronous: bool
    way: str = ""


_BITS = {"pred": 8, "bf16": 16, **{f"{kind}{bits}": bits for kind in "fsu" for bits in (4, 8, 16, 32, 64)}}
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_COLLECTIVE = re.compile(
    r" = (.*?) (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|ragged-all-to-all)(-start)?\("
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_LOOP = re.compile(r" while\(.*\bcondition=%?([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r" = [su]\d+\[\]\S* constant\((\d+)\)")
# The three ways in which HLO writes them: [groups,devices]<=[...], {{0,1,...},...} and mesh['a'=4,'b'=2] {'a'}; before
# the axes there may be an order of the devices.
_GROUPS = re.compile(
    r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\}|mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\})"
)
_PAIR = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


def collectives(hlo: str) -> list[Collective]:
    """The collectives of a program, from its text (``Compiled.as_text()``)."""
    lines_of, entry = _computations(hlo)
    found: dict[Collective, int] = {}

    def visit(name: str, runs: int, asynchronous: bool) -> None:
        for line in lines_of.get(name, ()):
            if match := _COLLECTIVE.search(line):
                one = _collective(line, match, asynchronous)
                found[one] = found.get(one, 0) + runs
            for called in _called(line):
                started = asynchronous or " async-start(" in line or "async" in called
                visit(called, runs * _trips(line, lines_of), started)

    visit(entry, 1, False)
    return [one._replace(runs=runs) for one, runs in found.items()]


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the first to run."""
    lines_of: dict[str, list[str]] = {}
    name = entry = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            entry = name if match[1] else entry
            lines_of[name] = []
        elif name and " = " in line:
            lines_of[name].append(line)
    return lines_of, entry


def _trips(line: str, lines_of: Mapping[str, Sequence[str]]) -> int:
    """How often a call is repeated: if it is a loop, as often as XLA knows, else as its condition says, which compares
    a counter with a constant; a condition without one counts as 1."""
    if not (loop := _LOOP.search(line)):
        return 1
    if known := _KNOWN_TRIPS.search(line):
        return int(known[1])
    constants = (_CONSTANT.search(condition) for condition in lines_of.get(loop[1], ()))
    return max((int(match[1]) for match in constants if match), default=1)


def _called(line: str) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        for name in match[1].strip("{}").split(","):
            yield name.strip().lstrip("%")


def _collective(line: str, found: re.Match[str], asynchronous: bool) -> Collective:
    shape, kind, start = found.groups()
    arrays = [(name, size) for name, size in _ARRAY.findall(shape) if name in _BITS]
    if start and kind != "all-reduce":  # operands, results, and scalars that identify the transfer
        arrays = [(name, size) for name, size in arrays if size or name != "u32"]
        arrays = arrays[len(arrays) // 2 :]
    devices = _group_size(match) if (match := _GROUPS.search(line)) else 0
    way = f"{pair[1]} to {pair[2]}" if (pair := _PAIR.search(line)) else ""
    return Collective(kind, devices, sum(_bytes(*array) for array in arrays), 1, bool(start) or asynchronous, way)


def _group_size(match: re.Match[str]) -> int:
    size, listed, mesh, axes = match.groups()
    if size or listed:
        return int(size or 1 + listed.count(","))
    sizes = dict(axis.split("=") for axis in mesh.split(","))
    return math.prod(int(sizes[axis]) for axis in axes.split(","))


def _bytes(kind: str, size: str) -> int:
    return math.prod(int(n) for n in size.split(",") if n) * _BITS[kind] // 8


# ---- Time ------------------------------------------------------------------------------------------------------------


class Speed(NamedTuple):
    """Bytes per second of a device: its memory, and one of the links to its neighbours, one way; and how many links."""

    memory: float
    link: float
    links: int


# By ``jax.Device.device_kind``. Memory: the pages of each TPU under cloud.google.com/tpu/docs. Links: jax-ml.github.io/
# scaling-book/tpus (bandwidth of a link, one way); TPU7x: 1,200 GB/s over the six links of a chip, both ways. A
# TPU7x device is half a chip and has half the bandwidth of its memory and links.
SPEEDS: dict[str, Speed] = {
    "TPU v5 lite": Speed(819e9, 45e9, 4),
    "TPU v5": Speed(2765e9, 90e9, 6),
    "TPU v6 lite": Speed(1638e9, 90e9, 4),
    "TPU7x": Speed(3690e9, 50e9, 6),
}

# Bytes that a device sends for each byte of the result, given the number of devices; reduce-scatter's result is a part.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


class Roofline(NamedTuple):
    """The least seconds that a step needs: in the matrix units, for its memory traffic, and for the links. ``waiting``
    is the part of the links' during which the device cannot compute."""

    matrix: float
    memory: float
    links: float
    waiting: float

    @property
    def step(self) -> float:
        """No step is faster: what can overlap does."""
        return max(max(self.matrix, self.memory) + self.waiting, self.links)


def roofline(
    kind: str, dtype: str, device_flops: float, traffic: float, found: Iterable[Collective]
) -> Roofline | None:
    """The least time of a step on a device of ``kind``, or None if its speed is not known. ``device_flops``: of its
    matrix products, ``traffic``: bytes that it reads and writes in its memory. Permutes to different devices share no
    link."""
    peak, speed = flops.peak(kind, dtype), SPEEDS.get(kind)
    if peak is None or speed is None:
        return None
    waiting, meanwhile = 0.0, {"": 0.0}
    for one in found:
        links = 1 if one.kind == "collective-permute" else speed.links
        sent = one.runs * one.bytes * _SENT[one.kind](max(one.devices, 1))
        seconds = sent / (links * speed.link)
        if one.asynchronous:
            meanwhile[one.way] = meanwhile.get(one.way, 0) + seconds
        else:
            waiting += seconds
    links_busy = waiting + meanwhile.pop("") + max(meanwhile.values(), default=0)
    return Roofline(device_flops / peak, traffic / speed.memory, links_busy, waiting)
