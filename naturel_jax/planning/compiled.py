"""Reads off a compiled program its collectives, and the least time it takes on a chip."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.devices import hardware

# ---- Memory ----------------------------------------------------------------------------------------------------------


_REFUSAL = re.compile(r"RESOURCE_EXHAUSTED.*?\(([\d.]+)([KMGT])\) exceeds available HBM", re.DOTALL)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def refused(message: str) -> int | None:
    """Bytes of arguments and temporaries for which the TPU compiler refused a program, which it calls temporaries; None
    if it failed for another reason."""
    match = _REFUSAL.search(message)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def temporaries(sizes: Any, platform: str) -> int:
    """Bytes of temporaries in a device's memory. ``sizes``: ``Compiled.memory_analysis()``. The TPU compiler's own
    count is higher than the sum of the arrays to which it gives addresses, and it accepts programs in which that count
    alone exceeds the memory. Its peak agrees with the addresses, but for gaps between arrays."""
    if platform != "tpu":
        return sizes.temp_size_in_bytes
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.peak_memory_in_bytes - sizes.argument_size_in_bytes - results


# ---- Collectives -----------------------------------------------------------------------------------------------------


class Collective(NamedTuple):
    """A collective of a compiled program: ``kind`` as HLO spells it, number of devices that take part in it together
    (0: in pairs), bytes of its result on one device, how often a run of the program executes it (loops multiplied out),
    whether the device may compute meanwhile, the first source and target if it is a permute, and how many hosts it
    spans, if another network connects hosts."""

    kind: str
    devices: int
    bytes: int
    runs: int
    asynchronous: bool
    way: str = ""
    hosts: int = 1


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
# The three ways in which HLO writes groups: [groups,devices]<=ORDER, {{0,1,...},...} and mesh['a'=4,'b'=2] {'a'}, where
# device_ids=(ORDER) may come before the axes. An order is [4,2] or, with the axes transposed, [4,2]T(1,0).
_ORDER = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
_GROUPS = re.compile(
    rf"replica_groups=(?:\[\d+,(\d+)\]<={_ORDER}|\{{\{{([\d,]+)\}}|"
    rf"mesh\[([^\]]*)\](?:, device_ids=(?:\({_ORDER}\)|\S+))? \{{([^}}]*)\}})"
)
_PAIRS = re.compile(r"source_target_pairs=\{(.*?\})\}")
_PAIR = re.compile(r"\{(\d+),(\d+)\}")
_SYNCHRONOUS = '"is_sync":true'  # on GPUs, where all collectives have a start and an end
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_FUSED_START = '"AsyncCollectiveStart"'  # TPUs: fusions that go on with the collective, and its end, repeat its line


def collectives(hlo: str, cards: int = 0) -> list[Collective]:
    """The collectives of a program, from its text (``Compiled.as_text()``). ``cards``: devices per host, if another
    network connects the hosts."""
    lines_of, entry = _computations(hlo)
    starts = {name: _channels(lines) for name, lines in lines_of.items() if any(_FUSED_START in line for line in lines)}
    started_channels = set().union(*starts.values())
    found: dict[Collective, int] = {}

    def visit(name: str, runs: int, asynchronous: bool) -> None:
        lines, begun = lines_of.get(name, ()), set() if name in starts else started_channels
        asynchronous |= name in starts
        for line in lines:
            if (match := _COLLECTIVE.search(line)) and not _channels([line]) & begun:
                one = _collective(line, match, asynchronous, cards)
                found[one] = found.get(one, 0) + runs
            for called in _called(line):
                started = asynchronous or ((" async-start(" in line or "async" in called) and _SYNCHRONOUS not in line)
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
    """How often a call is repeated. For a loop, the trip count that XLA knows, else the constant that its condition
    compares a counter with, else 1."""
    if not (loop := _LOOP.search(line)):
        return 1
    if known := _KNOWN_TRIPS.search(line):
        return int(known[1])
    constants = (_CONSTANT.search(condition) for condition in lines_of.get(loop[1], ()))
    return max((int(match[1]) for match in constants if match), default=1)


def _channels(lines: Sequence[str]) -> set[str]:
    return {match[1] for line in lines if (match := _CHANNEL.search(line))}


def _called(line: str) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        for name in match[1].strip("{}").split(","):
            yield name.strip().lstrip("%")


def _collective(line: str, found: re.Match[str], asynchronous: bool, cards: int) -> Collective:
    shape, kind, start = found.groups()
    arrays = [(name, size) for name, size in _ARRAY.findall(shape) if name in _BITS]
    if start and kind != "all-reduce":  # operands, results, and scalars that identify the transfer
        arrays = [(name, size) for name, size in arrays if size or name != "u32"]
        arrays = arrays[len(arrays) // 2 :]
    group = _first_group(match) if (match := _GROUPS.search(line)) else []
    pairs = [(int(a), int(b)) for a, b in _PAIR.findall(match[1])] if (match := _PAIRS.search(line)) else []
    way = "{} to {}".format(*pairs[0]) if pairs else ""
    hosts = 1
    if cards:
        hosts = max([len({device // cards for device in one}) for one in (group, *pairs) if one], default=1)
    started = (bool(start) or asynchronous) and _SYNCHRONOUS not in line
    return Collective(kind, len(group), sum(_bytes(*array) for array in arrays), 1, started, way, hosts)


def _first_group(match: re.Match[str]) -> list[int]:
    """The devices of the first group of a collective."""
    size, shape, transposed, listed, mesh, ids, ids_transposed, axes = match.groups()
    if listed:
        return _numbers(listed)
    if size:
        return _ordered(shape, transposed)[: int(size)].tolist()
    names, lengths = zip(*(axis.split("=") for axis in mesh.split(",")), strict=True)
    places = _ordered(ids or ",".join(lengths), ids_transposed).reshape([int(length) for length in lengths])
    chosen = [names.index(axis) for axis in axes.split(",")]
    return places[tuple(slice(None) if n in chosen else 0 for n in range(len(names)))].ravel().tolist()


def _ordered(shape: str, transposed: str | None) -> np.ndarray:
    """0, 1, ... in this shape, with its axes transposed, flattened."""
    lengths = _numbers(shape)
    places = np.arange(math.prod(lengths)).reshape(lengths)
    return (places.transpose(_numbers(transposed)) if transposed else places).ravel()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _bytes(kind: str, size: str) -> int:
    return math.prod(int(n) for n in size.split(",") if n) * _BITS[kind] // 8


# ---- Time ------------------------------------------------------------------------------------------------------------


class Roofline(NamedTuple):
    """Lower bounds on the seconds of a step: in the matrix units, for memory traffic, and for the links. ``waiting``:
    the part of the links' time during which the device cannot compute."""

    matrix: float
    memory: float
    links: float
    waiting: float

    @property
    def step(self) -> float:
        """Lower bound on the step, even if everything that can overlap does."""
        return max(max(self.matrix, self.memory) + self.waiting, self.links)


def roofline(
    kind: str, dtype: str, device_flops: float, traffic: float, found: Iterable[Collective]
) -> Roofline | None:
    """The least time of a step on a device of ``kind``, or None if its speed is not known. ``device_flops``: FLOPs of
    its matrix products; ``traffic``: bytes that it reads from and writes to its memory. Permutes to different devices
    share no link, if there are several."""
    peak, chip = hardware.peak(kind, dtype), hardware.find(kind)
    if peak is None or chip is None or chip.link is None or chip.bandwidth is None:
        return None
    waiting, meanwhile = 0.0, {"": 0.0}
    for one in found:
        seconds = one.runs * chip.seconds(one.kind, one.bytes, max(one.devices, 1), one.hosts)
        if one.asynchronous:
            meanwhile[one.way] = meanwhile.get(one.way, 0) + seconds
        else:
            waiting += seconds
    others, permutes = meanwhile.pop(""), meanwhile.values()
    links_busy = waiting + others + max(max(permutes, default=0), sum(permutes) / chip.links)
    return Roofline(device_flops / peak, traffic / chip.bandwidth, links_busy, waiting)
