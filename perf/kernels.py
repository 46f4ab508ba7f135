"""Whether tokamax's kernels compute what ours do, and what a training step needs with them (docs/plan.md).

    pip install tokamax==0.0.12
    python -m perf.kernels agreement    # Triton's, interpreted on the CPU in float32
    python -m perf.kernels compiled     # for H100s that are not here, with naturel_jax[plan-gpu]

Shape letters: B batch, L length, D width, H heads, F features of a head.
"""

import argparse
import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest import mock

from naturel_jax.planning import topologies

_TOPOLOGY = "h100x1"
topologies.prepare(_TOPOLOGY)  # before JAX is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import tokamax  # noqa: E402
from flax import nnx  # noqa: E402
from jax.experimental import pallas  # noqa: E402
from jax.extend import backend  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

from naturel_jax import config as config_lib  # noqa: E402
from naturel_jax.configs import siglip_tp  # noqa: E402
from naturel_jax.models.transformer import Compute, layer_norm  # noqa: E402
from naturel_jax.planning import compiled, estimate  # noqa: E402
from tfds_naturel.common import cli  # noqa: E402

# Of the towers.
NORMS = ((50, 768), (77, 512), (196, 768), (257, 1024), (729, 1152))  # positions, width
ATTENTIONS = (  # positions, width of a head, causal
    (50, 64, False),
    (77, 64, True),
    (196, 64, False),
    (197, 64, False),
    (257, 64, False),
    (729, 72, False),
)

_attention, _layer_norm = jax.nn.dot_product_attention, nnx.LayerNorm.__call__
_pallas_call, _program_id = pallas.pallas_call, pallas.program_id


class H100(NamedTuple):
    """What tokamax asks of a device."""

    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"
    compute_capability: str = "9.0"
    core_count: int = 132


@contextlib.contextmanager
def on_h100() -> Iterator[None]:
    """tokamax traces kernels as on a H100, without asking the device that is here."""
    devices = mock.patch.object(jax, "devices", lambda: [H100()])
    default = mock.patch.object(backend, "get_default_device", H100)
    with devices, default, tokamax.config.cross_compile(True):
        yield


# ---- Agreement -------------------------------------------------------------------------------------------------------


def interpreted(kernel: Callable[..., None], *arguments: Any, grid_spec: Any, **options: Any) -> Any:
    """``pallas_call`` on the CPU. The interpreter knows ``program_id`` only outside loops, so it is asked there."""

    def hoisted(*refs: Any) -> None:
        ids = {axis: _program_id(axis) for axis in range(len(grid_spec.grid))}
        with mock.patch.object(pallas, "program_id", lambda axis: ids[axis] if axis in ids else _program_id(axis)):
            kernel(*refs)

    return _pallas_call(hoisted, *arguments, grid_spec=grid_spec, interpret=True, **options)


def differences(theirs: Callable[..., jax.Array], ours: Callable[..., jax.Array], *arrays: np.ndarray) -> str:
    """The largest difference of the results and of the gradients, as shares of the largest value: two cells."""

    def evaluate(function: Callable[..., jax.Array]) -> list[jax.Array]:
        def run(*arrays: jax.Array) -> list[jax.Array]:
            result, pullback = jax.vjp(function, *arrays)
            return [result, *pullback(arrays[0][::-1])]

        return jax.jit(run)(*arrays)

    pairs = zip(evaluate(theirs), evaluate(ours), strict=True)
    result, *gradients = (float(abs(x - y).max() / abs(y).max()) for x, y in pairs)
    return f"{result:.1e} | {max(gradients):.1e} |"


def agreement() -> None:
    """Prints a table."""
    random = np.random.default_rng(0)
    print("| kernel | positions | width | result | gradients |")
    print("|---|---:|---:|---:|---:|")
    for length, width in NORMS:
        graph, _ = nnx.split(layer_norm(width, 1e-6, Compute(), nnx.Rngs(0)))
        arrays = [random.standard_normal(shape, np.float32) for shape in ((2, length, width), width, width)]
        cells = differences(
            lambda x_BLD, scale_D, bias_D: tokamax.layer_norm(x_BLD, scale_D, bias_D, implementation="triton"),
            lambda x_BLD, scale_D, bias_D, graph=graph: nnx.merge(graph, {"bias": bias_D, "scale": scale_D})(x_BLD),
            *arrays,
        )
        print(f"| LayerNorm | {length} | {width} | {cells}", flush=True)
    for length, width, causal in ATTENTIONS:
        options = {"is_causal": causal}
        cells = differences(
            lambda *qkv_BLHF, o=options: tokamax.dot_product_attention(*qkv_BLHF, implementation="triton", **o),
            lambda *qkv_BLHF, o=options: _attention(*qkv_BLHF, **o),
            *random.standard_normal((3, 2, length, 4, width), np.float32),
        )
        print(f"| attention{', causal' if causal else ''} | {length} | {width} | {cells}", flush=True)


# ---- For H100s -------------------------------------------------------------------------------------------------------


def lengths() -> None:
    """Prints a table: whether attention and its gradient compile for the lengths of the towers, in bfloat16."""
    place = jax.sharding.SingleDeviceSharding(topologies.devices(_TOPOLOGY)[0])
    print("| attention | positions | width | compiles |")
    print("|---|---:|---:|---|")
    for kernels, (length, width, causal) in itertools.product(("triton", "mosaic", "cudnn"), ATTENTIONS):

        def total(*qkv_BLHF: jax.Array, kernels: Any = kernels, causal: bool = causal) -> jax.Array:
            return tokamax.dot_product_attention(*qkv_BLHF, is_causal=causal, implementation=kernels).astype("f4").sum()

        x_BLHF = jax.ShapeDtypeStruct((2, length, 4, width), jnp.bfloat16, sharding=place)
        try:
            with on_h100():
                jax.jit(jax.grad(total, (0, 1, 2))).lower(x_BLHF, x_BLHF, x_BLHF).compile()
            found = "yes"
        except Exception as error:  # whatever refuses the length
            found = f"{type(error).__name__}: {error}"
        print(f"| {kernels}{', causal' if causal else ''} | {length} | {width} | {found} |", flush=True)


def gathered() -> None:
    """Prints a table: what eight cards gather for kernels whose rows are split over them."""
    mesh = jax.make_mesh((8,), ("x",), devices=topologies.devices("h100x8"), axis_types=(jax.sharding.AxisType.Auto,))
    whole, rows = PartitionSpec(), PartitionSpec("x")
    place = NamedSharding(mesh, rows)
    x_BLD, x_BLHF = (jax.ShapeDtypeStruct((64, 196, *w), jnp.bfloat16, sharding=place) for w in ((768,), (12, 64)))
    scale_D = jax.ShapeDtypeStruct((768,), jnp.float32, sharding=NamedSharding(mesh, whole))
    norm = functools.partial(tokamax.layer_norm, implementation="triton")
    attend = functools.partial(tokamax.dot_product_attention, implementation="triton")
    mapped = jax.shard_map(norm, mesh=mesh, in_specs=(rows, whole, whole), out_specs=rows, check_vma=False)
    calls = {
        "LayerNorm": (norm, (x_BLD, scale_D, scale_D)),
        "LayerNorm in `jax.shard_map`": (mapped, (x_BLD, scale_D, scale_D)),
        "attention": (attend, (x_BLHF, x_BLHF, x_BLHF)),
        "attention with `q_sharding`": (functools.partial(attend, q_sharding=place), (x_BLHF, x_BLHF, x_BLHF)),
    }
    print("\n| rows split over 8 cards | arrays gathered |")
    print("|---|---:|")
    for name, (call, arrays) in calls.items():
        with on_h100():
            text = jax.jit(call, out_shardings=place).lower(*arrays).compile().as_text()
        kinds = [one.kind for one in compiled.collectives(text) for _ in range(one.runs)]
        print(f"| {name} | {kinds.count('all-gather')} |", flush=True)


def _norm_of_tokamax(norm: nnx.LayerNorm, x_BLD: jax.Array) -> jax.Array:
    scale_D, bias_D = norm.scale[...], norm.bias[...]
    return tokamax.layer_norm(x_BLD, scale_D, bias_D, epsilon=norm.epsilon, implementation="triton")


def _norm_again(norm: nnx.LayerNorm, x_BLD: jax.Array) -> jax.Array:
    return jax.checkpoint(lambda x_BLD: _layer_norm(norm, x_BLD))(x_BLD)


def _attention_of_tokamax(*qkv_BLHF: jax.Array, implementation: str | None, **options: Any) -> jax.Array:
    if implementation:  # of the pooling head
        return _attention(*qkv_BLHF, implementation=implementation, **options)
    return tokamax.dot_product_attention(*qkv_BLHF, implementation="triton", **options)


STEPS = {  # config.compute.attention, LayerNorm, attention
    "our LayerNorm and attention": ("", _layer_norm, _attention),
    "tokamax's LayerNorm": ("", _norm_of_tokamax, _attention),
    "`jax.checkpoint` around our LayerNorm": ("", _norm_again, _attention),
    "tokamax's attention": ("", _layer_norm, _attention_of_tokamax),
    "cuDNN's attention": ("cudnn", _layer_norm, _attention),
}


def temporaries(remat: str, attention: str, norm: Callable, attend: Callable) -> float:
    """GiB that the step of ``siglip_tp`` needs, with 32 images and 128 captions."""
    raw = siglip_tp.get_config()
    raw.data.update({"dir": "build/none", "batch_size": 32})
    raw.compute.update({"remat": remat, "attention": attention})
    training = estimate.make_training(config_lib.load(raw), topologies.devices(_TOPOLOGY), 1, 64, 100_000)
    norms = mock.patch.object(nnx.LayerNorm, "__call__", norm)
    with norms, mock.patch.object(jax.nn, "dot_product_attention", attend), on_h100():
        lowered = training.step.lower(training.state, training.pipeline.shapes(0))
    return lowered.compile().memory_analysis().temp_size_in_bytes / 2**30


def memory() -> None:
    """Prints a table."""
    print("\n| a step with | remat none, GiB | remat dots, GiB |")
    print("|---|---:|---:|")
    for name, step in STEPS.items():
        print(f"| {name} | {temporaries('none', *step):.2f} | {temporaries('dots', *step):.2f} |", flush=True)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("agreement", "compiled"))
    what = parser.parse_args(arguments).what
    logging.disable(logging.WARNING)  # tokamax's: that no kernel has been timed
    print(f"tokamax {tokamax.__version__}, jax {jax.__version__}")
    if what == "agreement":
        with on_h100(), mock.patch.object(pallas, "pallas_call", interpreted):
            agreement()
    else:
        lengths()
        gathered()
        memory()


if __name__ == "__main__":
    cli.run(main)
