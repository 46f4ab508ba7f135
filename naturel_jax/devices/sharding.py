"""The mesh, and one table from parameter paths to how they are sharded over it."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tfds_naturel.common.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # rows of images and captions are split over both; parameters over fsdp and tensor

# Path (regular expression over the whole path) -> spec of the trailing dimensions; stacked blocks have one leading
# dimension more, which is never split. First match wins.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r".*/qkv/kernel", ("fsdp", None, "tensor", None)),
    (r".*/qkv/bias", (None, "tensor", None)),
    (r".*/out/kernel", ("tensor", None, "fsdp")),
    (r".*/mlp/up/kernel", ("fsdp", "tensor")),
    (r".*/mlp/up/bias", ("tensor",)),
    (r".*/mlp/down/kernel", ("tensor", "fsdp")),
    (r"text/embed", ("tensor", "fsdp")),
    (r".*/projection/kernel", (None, "fsdp")),
    (r".*", ()),  # patches and positions, too: they are small, and activations would be split like them
)


def make_mesh(axes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over ``devices``, by default all devices of all processes. One axis may be -1: whatever the others leave.

    Raises UserError for an unknown axis or sizes that do not multiply to the number of devices.
    """
    if unknown := sorted(set(axes) - set(AXES)):
        raise UserError(f"config.mesh has {unknown}; its axes are {', '.join(AXES)}")
    sizes, count = [axes.get(axis, 1) for axis in AXES], len(devices or jax.devices())
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // -int(np.prod(sizes))
    if min(sizes) < 1 or np.prod(sizes) != count:
        given = ", ".join(f"{axis}={axes.get(axis, 1)}" for axis in AXES)
        raise UserError(
            f"config.mesh ({given}) does not fit {count} devices; the product must be {count}; one axis may be -1"
        )
    types = (AxisType.Auto,) * len(AXES)
    if (groups := slices(devices or jax.devices())) == 1:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=types, devices=devices)
    return Mesh(_across_slices(sizes, groups, devices or jax.devices()), AXES, axis_types=types)


def slices(devices: Iterable[jax.Device]) -> int:
    """Number of TPU slices or GPU hosts that the devices belong to."""
    return len({getattr(device, "slice_index", 0) for device in devices})


def _across_slices(sizes: Sequence[int], slices: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """The devices of several TPU slices or GPU hosts as an array of ``sizes``, which ``jax.make_mesh`` refuses.

    The first axes extend over slices, so that the others stay within one, where the links are fast. Raises UserError if
    the slices are not of one size.
    """
    across, left = [], slices
    for size in sizes:
        across.append(math.gcd(left, size))
        left //= across[-1]
    within = [size // outer for size, outer in zip(sizes, across, strict=True)]
    try:
        # Splitting physical axes is what jax.make_mesh does where it must.
        return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    except ValueError as error:
        raise UserError(f"{len(devices)} devices in {slices} slices or hosts: {error}; expected equal ones") from error


def warm_up_collectives(mesh: Mesh) -> None:
    """Runs one collective in every group of devices along the axes of ``mesh``, if they are CPUs of several processes.
    In their first one, these wait at most 30 s for each other, and one may compile the training step for longer."""
    if jax.process_count() == 1 or mesh.devices.flat[0].platform != "cpu":
        return
    axes = [axis for axis in AXES if mesh.shape[axis] > 1]
    spec, local = PartitionSpec(*AXES), np.ones((1, 1, 1), np.float32)
    ones = jax.make_array_from_callback(mesh.devices.shape, NamedSharding(mesh, spec), lambda index: local)
    for group in itertools.chain.from_iterable(itertools.combinations(axes, n + 1) for n in range(len(axes))):
        total = jax.shard_map(lambda x, group=group: jax.lax.psum(x, group), mesh=mesh, in_specs=spec, out_specs=spec)
        jax.block_until_ready(jax.jit(total)(ones))


def path_string(path: tuple[Any, ...]) -> str:
    """``image/patch/kernel`` from a key path of ``jax.tree_util``."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The rule's spec for a parameter. A dimension not divisible by its axis stays unsharded."""
    rule = next(trailing for pattern, trailing in RULES if re.fullmatch(pattern, path))
    unsharded = (None,) * (len(shape) - len(rule))
    fits = [
        axis if axis and size % mesh.shape[axis] == 0 else None
        for axis, size in zip(rule, shape[len(unsharded) :], strict=True)
    ]
    return PartitionSpec(*unsharded, *fits)


def param_sharding(mesh: Mesh) -> Callable[[str, tuple[int, ...]], NamedSharding]:
    """``sharding_for(path, shape)`` for parameters, as ``weights.load`` expects it."""
    return lambda path, shape: NamedSharding(mesh, spec(path, shape, mesh))


def shardings(tree: Any, mesh: Mesh, params: Any = None) -> Any:
    """A sharding for every leaf of ``tree`` (arrays or shapes). Optimizer moments follow their parameters: rules
    are matched against the part of the path that starts at the tower. Leaves whose shape differs from the parameter of
    that name in ``params``, such as Adafactor's factors, are not split."""
    shapes = {path_string(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        tail = re.search(r"(image|text)/.*|logit_(scale|bias)$", path_string(path))
        name = tail.group(0) if tail and leaf.ndim else ""
        return NamedSharding(mesh, spec(name if shapes.get(name, leaf.shape) == leaf.shape else "", leaf.shape, mesh))

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the leading axis over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def hosts(mesh: Mesh, axes: Sequence[str] = AXES) -> int:
    """Number of hosts that a collective over ``axes`` of a mesh of GPUs spans: a GPU's first coordinate is that of its
    NVLink partition. 1 for other devices."""
    places = tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)
    devices = list(mesh.devices[places].flat)
    return len({device.coords[0] for device in devices}) if devices[0].platform == "gpu" else 1


def batch_shards(mesh: Mesh) -> int:
    """Number of blocks that a batch is split into."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


# ---- Ring ------------------------------------------------------------------------------------------------------------


def ring_order(mesh: Mesh, axes: tuple[str, ...]) -> list[int]:
    """The positions along ``axes`` of the mesh in the order of a ring; see ``neighbours``. Ascending on devices that
    are not in a grid: CPUs, and GPUs, which have coordinates (host and card) but no cores on a chip."""
    numbers = [mesh.axis_names.index(axis) for axis in axes]
    devices = np.moveaxis(mesh.devices, numbers, range(len(axes))).reshape(math.prod(mesh.shape[a] for a in axes), -1)
    if not all(hasattr(device, "core_on_chip") for device in devices[:, 0]):
        return list(range(len(devices)))
    return neighbours([(*device.coords, device.core_on_chip) for device in devices[:, 0]])


def neighbours(places: Sequence[tuple[int, ...]]) -> list[int]:
    """Orders devices, given their coordinates in a grid, so that each is next to the one before it, and the last to the
    first if a side of the grid is even: only then do TPUs compute while they pass something around the ring. Returns
    indices of ``places``; ascending, if these are not a grid."""
    values = [sorted(set(column)) for column in zip(*places, strict=True)]
    if len(set(places)) < len(places) or math.prod(map(len, values)) != len(places):
        return list(range(len(places)))
    first, *others = sorted(range(len(values)), key=lambda axis: (len(values[axis]) == 1, len(values[axis]) % 2 == 0))
    lines = _snake([values[axis] for axis in others])
    side = values[first]
    ring = _snake([lines, side])
    if len(lines) % 2 == 0 and len(side) > 1:  # the first place of each line is kept for the way back
        ring = _snake([lines, side[1:]]) + [(line, side[0]) for line in reversed(lines)]
    index = {(tuple(place[axis] for axis in others), place[first]): n for n, place in enumerate(places)}
    return [index[place] for place in ring]


def _snake(sides: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """The places of a grid, each next to the one before it: every other line is taken backwards."""
    path: list[tuple[Any, ...]] = [()]
    for side in sides:
        turns = itertools.cycle((side, side[::-1]))
        path = [(*place, value) for place in path for value in next(turns)]
    return path
