"""LoRA (Hu et al., arXiv 2106.09685): two thin matrices beside the kernel of a linear layer, trained in its place.

A tree of adapters has the paths of the layers, those of a fused kernel apart, and the logit scale and bias:
``image/transformer/blocks/attn/query/lora_a``. Merged with its base, it is a parameter tree like any other.

Shape letters: I inputs, O outputs, R rank, H heads, F features of a head; ... is the depth for layers of stacked
blocks.
"""

import hashlib
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.experimental import multihost_utils

from naturel_jax.devices.sharding import path_string
from naturel_jax.models.two_tower import Params
from tfds_naturel.common.errors import UserError

FUSED = ("query", "key", "value")  # parts of the kernel ``attn/qkv``


class Layer(NamedTuple):
    """A linear layer: its kernel's path and, if that is fused, which of ``FUSED`` it is; sizes as above."""

    kernel: str
    part: int | None
    lead: tuple[int, ...]
    inputs: int
    outputs: int


def _flatten(tree: Params) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def layers(params: Params) -> dict[str, Layer]:
    """Path -> linear layer that can have an adapter, given arrays or shapes. SigLIP's pooling attention cannot, as in
    PEFT: torch computes it in one function."""
    found = {}
    for kernel, leaf in _flatten(params).items():
        path, _, last = kernel.rpartition("/")
        if last != "kernel" or re.search("/patch$|/head/attn/", path):
            continue
        lead = leaf.shape[:1] if "/blocks/" in path else ()
        sizes = leaf.shape[len(lead) :]
        if path.endswith("/qkv"):  # [..., I, 3, H, F]
            for part, name in enumerate(FUSED):
                found[f"{path[: -len('qkv')]}{name}"] = Layer(kernel, part, lead, sizes[0], math.prod(sizes[2:]))
        else:  # [..., I, O], and [..., H, F, O] of the attention's result
            found[path] = Layer(kernel, None, lead, math.prod(sizes[:-1]), sizes[-1])
    return found


def shapes(params: Params, rank: int, targets: Iterable[str]) -> Params:
    """The tree of adapters, as ``jax.ShapeDtypeStruct``, of the layers of ``params`` whose path a pattern of
    ``targets`` matches. Raises UserError for a pattern that matches none."""
    known, chosen = layers(params), set[str]()
    for pattern in targets:
        matched = {path for path in known if re.fullmatch(pattern, path)}
        if not matched:
            raise UserError(
                f"config.adapter.targets: {pattern!r} matches no layer; expected some of {', '.join(known)}"
            )
        chosen |= matched
    flat = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in params if name.startswith("logit_")}
    for path in sorted(chosen):
        layer = known[path]
        flat[f"{path}/lora_a"] = jax.ShapeDtypeStruct((*layer.lead, layer.inputs, rank), jnp.float32)
        flat[f"{path}/lora_b"] = jax.ShapeDtypeStruct((*layer.lead, rank, layer.outputs), jnp.float32)
    return {"image": {}, "text": {}} | traverse_util.unflatten_dict(flat, sep="/")


def init(params: Params, tree: Params, key: jax.Array) -> Params:
    """New adapters in the shapes of ``tree``, merged with which ``params`` are the same: B is zero. A is uniform within
    1 / sqrt(I), as in PEFT."""

    def leaf(path: tuple[Any, ...], x: jax.ShapeDtypeStruct) -> jax.Array:
        name = path_string(path)
        if name in params:
            return jnp.copy(params[name])  # a step donates both
        if name.endswith("lora_b"):
            return jnp.zeros(x.shape, x.dtype)
        seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "little")
        limit = x.shape[-2] ** -0.5
        return jax.random.uniform(jax.random.fold_in(key, seed), x.shape, x.dtype, -limit, limit)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def merged(base: Params, adapter: Params, scale: float) -> Params:
    """``base`` with ``scale`` times the product of each adapter's matrices added to the kernel of its layer, and the
    adapter's logit scale and bias."""
    flat, lora = _flatten(base), _flatten(adapter)
    products: dict[str, dict[int | None, jax.Array]] = {}
    for path, layer in layers(base).items():
        if f"{path}/lora_a" in lora:
            a, b = lora[f"{path}/lora_a"], lora[f"{path}/lora_b"]
            product = scale * jnp.einsum("...ir,...ro->...io", a, b, precision="highest")
            products.setdefault(layer.kernel, {})[layer.part] = product
    for kernel, parts in products.items():
        if None not in parts:
            nothing = jnp.zeros_like(next(iter(parts.values())))
            parts = {None: jnp.stack([parts.get(n, nothing) for n in range(len(FUSED))], axis=-2)}
        flat[kernel] = flat[kernel] + parts[None].reshape(flat[kernel].shape)
    scalars = {name: x for name, x in lora.items() if name.startswith("logit_")}
    return traverse_util.unflatten_dict(flat | scalars, sep="/")


def apply(base: Params, adapter: Params, scale: float) -> Params:
    """``merged``, of arrays on devices, placed as ``base`` is."""
    place = jax.tree.map(lambda x: x.sharding, base)
    scalars = {name: x.sharding for name, x in adapter.items() if name.startswith("logit_")}
    return jax.jit(merged, static_argnums=2, out_shardings=place | scalars)(base, adapter, scale)


def weights_of_a_block(adapter: Params) -> tuple[int, int]:
    """Number of weights that have an adapter, of a block of the image and of the text tower."""
    lora = {path: x.shape for path, x in _flatten(adapter).items() if "/lora_" in path}
    sizes = {path: x[-2] * lora[path[:-1] + "b"][-1] for path, x in lora.items() if path.endswith("lora_a")}
    image, text = (
        sum(size for path, size in sizes.items() if path.startswith(f"{tower}/transformer/"))
        for tower in ("image", "text")
    )
    return image, text


def changed(params: Params, adapter: Params) -> list[Any]:
    """The kernels of ``params`` that have an adapter; none for a tree without any."""
    lora, flat = _flatten(adapter), _flatten(params)
    kernels = {layer.kernel for path, layer in layers(params).items() if f"{path}/lora_a" in lora}
    return [flat[kernel] for kernel in kernels]


def digest(params: Params) -> str:
    """Identifies the towers' parameters, however many devices and processes share them."""
    found = hashlib.blake2b(digest_size=16)
    for path, leaf in sorted(_flatten({tower: params[tower] for tower in ("image", "text")}).items()):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        found.update(f"{path} {leaf.shape}".encode())
        found.update(np.ascontiguousarray(leaf).data)
    return found.hexdigest()
