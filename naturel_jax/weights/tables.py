"""Tables that map a foreign checkpoint's keys to our parameter paths: one list of rules per format both reads and
writes it, strictly."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from naturel_jax.models.two_tower import Params
from tfds_naturel.common.errors import UserError

Shape = tuple[int, ...]
Place = Callable[[str, np.ndarray], jax.Array]  # (path, host array) -> array on devices
_STACK = "/blocks/"  # paths containing this hold all blocks along their first axis
_MAX_LISTED = 8  # most names that an error message lists
_LARGEST_SCALE = math.log(np.finfo(np.float32).max)


class Transform(NamedTuple):
    """Conversion of a foreign tensor to ours and back: ``read(foreign, our shape)``, ``write(ours)``, exact inverses of
    each other."""

    read: Callable[[Any, Shape], Any]
    write: Callable[[Any], Any]


def linear(inputs: int = 1) -> Transform:
    """torch's ``Linear.weight`` [out, in]; our kernel's first ``inputs`` axes are the input."""
    return Transform(
        lambda x, shape: x.T.reshape(shape),
        lambda x: x.reshape(math.prod(x.shape[:inputs]), -1).T,
    )


def reshaped(*shape: int) -> Transform:
    """The same numbers in the same order, ``shape`` in the foreign file (-1: the rest)."""
    return Transform(lambda x, ours: x.reshape(ours), lambda x: x.reshape(shape))


SAME = Transform(lambda x, shape: x.reshape(shape), lambda x: x)
LINEAR, LINEAR_OUT, FLAT = linear(1), linear(2), reshaped(-1)


def _conv(axes: Sequence[int]) -> Transform:
    """A patch convolution's kernel as [row * column * color, width]; ``axes``: its axes for row, column, color and
    width."""
    back = [axes.index(i) for i in range(4)]

    def write(x: Any) -> Any:
        p = math.isqrt(x.shape[0] // 3)
        return x.reshape(p, p, 3, -1).transpose(back)

    return Transform(lambda x, shape: x.transpose(axes).reshape(shape), write)


POSITION = Transform(lambda x, shape: x.reshape(shape), lambda x: x.reshape(1, *x.shape))
# flax keeps query, key and value apart, [width, heads, head width] each; concatenated they are [3 * width, ...].
QKV_FLAX = Transform(
    lambda x, shape: x.reshape(3, -1, *x.shape[1:]).swapaxes(0, 1),
    lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]),
)
QKV_BIAS_FLAX = Transform(lambda x, shape: x.reshape(shape), lambda x: x.reshape(-1, x.shape[-1]))

CONV_TORCH, CONV_FLAX = _conv((2, 3, 1, 0)), _conv((0, 1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A parameter of ours and where a format keeps it.

    ``keys``: the foreign names (``{}`` is the block's number; without it a block's parameter is stacked there too).
    Several keys hold consecutive ``parts`` of the first axis.
    """

    path: str
    keys: tuple[str, ...]
    transform: Transform
    parts: tuple[int, ...]


def rule(path: str, keys: str, transform: Transform, parts: Sequence[int] = ()) -> Rule:
    """A rule. ``keys`` are separated by spaces; ``parts`` are equal by default."""
    names = tuple(keys.split())
    return Rule(path, names, transform, tuple(parts) or (1,) * len(names))


def with_bias(
    path: str, key: str, transform: Transform, bias: Transform = SAME, parts: Sequence[int] = ()
) -> list[Rule]:
    """Rules for a layer's weight and the bias beside it: ``ln_1.weight`` and ``ln_1.bias``."""
    names = path.rpartition("/")[0] + "/bias", re.sub(r"(weight|kernel|scale)( |$)", r"bias\2", key)
    return [rule(path, key, transform, parts), rule(*names, bias, parts)]


def torch_block(norm1: str, qkv: str, out: str, norm2: str, up: str, down: str) -> list[Rule]:
    """Rules for a transformer block with torch's layers, from the names of their weights; ``qkv`` may be several."""
    return [
        *with_bias("norm1/scale", norm1, SAME),
        *with_bias("attn/qkv/kernel", qkv, LINEAR, FLAT),
        *with_bias("attn/out/kernel", out, LINEAR_OUT),
        *with_bias("norm2/scale", norm2, SAME),
        *with_bias("mlp/up/kernel", up, LINEAR),
        *with_bias("mlp/down/kernel", down, LINEAR),
    ]


def under(ours: str, theirs: str, rules: Sequence[Rule]) -> list[Rule]:
    """``rules`` with prefixes before our paths and their keys."""
    return [dataclasses.replace(r, path=ours + r.path, keys=tuple(theirs + key for key in r.keys)) for r in rules]


def flatten(tree: Mapping) -> dict[str, Any]:
    """Nested dict -> {'a/b/c': leaf}."""
    return traverse_util.flatten_dict(tree, sep="/")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A rule that applies to a model, with our shape."""

    rule: Rule
    shape: Shape

    @property
    def block_shape(self) -> Shape:
        return self.shape[1:] if _STACK in self.rule.path else self.shape

    def foreign(self) -> Iterator[tuple[str, Shape]]:
        """The keys and shapes this parameter has in the format."""
        whole = jax.eval_shape(self.rule.transform.write, jax.ShapeDtypeStruct(self.block_shape, np.float32)).shape
        for key, part in zip(self.rule.keys, self.rule.parts, strict=True):
            shape = whole
            if len(self.rule.keys) > 1:
                shape = (whole[0] * part // sum(self.rule.parts), *whole[1:])
            if _STACK not in self.rule.path:
                yield key, shape
            elif "{}" in key:
                yield from ((key.format(i), shape) for i in range(self.shape[0]))
            else:
                yield key, (self.shape[0], *shape)

    def read(self, get: Callable[[str], np.ndarray]) -> np.ndarray:
        """Our array, float32, from ``get(key)``."""
        r = self.rule
        if _STACK not in r.path:
            return r.transform.read(_joined([get(key) for key in r.keys]), self.shape).astype(np.float32)
        out = np.empty(self.shape, np.float32)
        stacked = {key: get(key) for key in r.keys if "{}" not in key}
        for i in range(self.shape[0]):
            parts = [stacked[key][i] if key in stacked else get(key.format(i)) for key in r.keys]
            out[i] = r.transform.read(_joined(parts), self.block_shape)
        return out

    def write(self, array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The format's keys and arrays from ours."""
        r = self.rule
        blocks = array if _STACK in r.path else array[None]
        cuts = np.cumsum(r.parts)[:-1]
        written: dict[str, list[np.ndarray]] = {}
        for i, block in enumerate(blocks):
            whole = r.transform.write(block)
            pieces = [whole]
            if len(r.keys) > 1:
                pieces = np.split(whole, cuts * whole.shape[0] // sum(r.parts))
            for key, piece in zip(r.keys, pieces, strict=True):
                written.setdefault(key.format(i), []).append(piece)
        for key, pieces in written.items():
            yield key, np.stack(pieces) if _STACK in r.path and key in r.keys else pieces[0]


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _leaves(table: Sequence[Rule], shapes: Params) -> list[_Leaf]:
    """The rules of ``table`` that this model has parameters for; each parameter has exactly one."""
    flat = flatten(shapes)
    leaves = [_Leaf(r, tuple(flat[r.path].shape)) for r in table if r.path in flat]
    unwritten = flat.keys() - {leaf.rule.path for leaf in leaves}
    if unwritten:
        raise UserError(f"this format cannot store {_listing(unwritten)}; export to another format")
    return leaves


def _listing(items: Iterable[str]) -> str:
    names = sorted(items)
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _same_shape(a: Shape, b: Shape) -> bool:
    return a == b or math.prod(a) == math.prod(b) == 1  # logit scales come as [] and as [1]


def foreign_shapes(table: Sequence[Rule], shapes: Params) -> dict[str, Shape]:
    """The keys and shapes that a checkpoint of this model has in the format."""
    return dict(pair for leaf in _leaves(table, shapes) for pair in leaf.foreign())


def check_keys(name: str, table: Sequence[Rule], shapes: Params, present: Mapping[str, Shape]) -> None:
    """Raises UserError listing what is missing from the checkpoint ``name``, left over in it, or of the wrong shape."""
    expected = foreign_shapes(table, shapes)
    missing, leftover = expected.keys() - present.keys(), present.keys() - expected.keys()
    wrong = [
        f"{key} {list(present[key])} instead of {list(expected[key])}"
        for key in expected.keys() & present.keys()
        if not _same_shape(present[key], expected[key])
    ]
    problems = [
        f"{len(names)} {what}: {_listing(names)}"
        for what, names in (("missing", missing), ("not of this model", leftover), ("of the wrong shape", wrong))
        if names
    ]
    if problems:
        raise UserError(f"{name}: the tensors do not fit the model. " + ". ".join(problems))


def read(name: str, table: Sequence[Rule], shapes: Params, get: Callable[[str], np.ndarray], place: Place) -> Params:
    """The parameter tree, read one parameter at a time, so that the host holds only one that is not yet placed.

    Raises UserError naming the keys of a parameter with NaN or infinity in it, and of a logit scale whose exponential
    is infinite.
    """
    params = {}
    for leaf in _leaves(table, shapes):
        array = leaf.read(get)
        if not np.isfinite(array).all():
            bad = [key for key, _ in leaf.foreign() if not np.isfinite(get(key).astype(np.float32)).all()]
            raise UserError(f"{name}: NaN or infinity in {_listing(bad)}")
        if leaf.rule.path == "logit_scale" and array > _LARGEST_SCALE:
            raise UserError(
                f"{name}: {leaf.rule.keys[0]} is {array:g}, the logarithm of the logit scale: this overflows"
            )
        # JAX keeps an array until its transfer has ended; on a busy machine several would wait.
        params[leaf.rule.path] = jax.block_until_ready(place(leaf.rule.path, array))
    return traverse_util.unflatten_dict(params, sep="/")


def write(table: Sequence[Rule], params: Params) -> dict[str, np.ndarray]:
    """The format's tensors, contiguous, in the dtype of ``params``."""
    flat = flatten(params)
    return {
        key: np.asarray(array, order="C")
        for leaf in _leaves(table, params)
        for key, array in leaf.write(np.asarray(flat[leaf.rule.path]))
    }
