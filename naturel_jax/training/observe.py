"""Observability of a run: its parameters, its rate, a profile, and how well it uses the accelerator."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from naturel_jax.devices import hardware
from naturel_jax.devices.sharding import path_string
from naturel_jax.storage import object_folders

# ---- Parameters ------------------------------------------------------------------------------------------------------


def parameter_table(params: Any) -> str:
    """Parameters and bytes of each part of the model (the first two levels of the tree), their totals, and a last line
    such as ``151.3 M parameters``. ``params``: arrays or ``jax.ShapeDtypeStruct``."""
    counts, sizes = Counter[str](), Counter[str]()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        part = path_string(path[:2])
        counts[part] += leaf.size
        sizes[part] += leaf.size * leaf.dtype.itemsize
    total, total_size = counts.total(), sizes.total()
    rows = [(part, f"{count:,}", _megabytes(sizes[part])) for part, count in counts.items()]
    rows = [("Part", "Parameters", "Bytes"), *rows, ("Total", f"{total:,}", _megabytes(total_size))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [f"| {name:{widths[0]}} | {count:>{widths[1]}} | {size:>{widths[2]}} |" for name, count, size in rows]
    return "\n".join([rule, lines[0], rule, *lines[1:-1], rule, lines[-1], rule, f"{total / 1e6:.1f} M parameters"])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


# ---- Rate ------------------------------------------------------------------------------------------------------------

_RATES = 1 << 16  # steps at a time: a run may have any number


def rate_at(learning_rate: Callable[[Any], jax.Array]) -> Callable[[int], float]:
    """Step -> its rate. The rates of many steps are computed at once, since the device is busy with steps."""

    @functools.lru_cache(maxsize=1)
    def rates(block: int) -> np.ndarray:
        return np.asarray(learning_rate(np.arange(_RATES * block, _RATES * (block + 1))))

    return lambda step: float(rates(step // _RATES)[step % _RATES])


# ---- Profile ---------------------------------------------------------------------------------------------------------


StepContext = Callable[[int], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def profiler(folder: epath.PathLike, steps: range) -> Iterator[StepContext]:
    """Yields ``profile(number)``, a context manager for each step; together they trace ``steps`` into ``folder`` for
    xprof.

    A trace still in progress is stopped when the block exits, even by an exception. Steps are dispatched ahead of the
    device, so the last one may be cut short. An empty range traces nothing.
    """
    tracing = False
    folder = epath.Path(folder)

    def profile(number: int) -> contextlib.AbstractContextManager[Any]:
        nonlocal tracing
        if tracing != (number in steps):
            if tracing:
                jax.profiler.stop_trace()
            else:
                jax.profiler.start_trace(local)
            tracing = not tracing
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    with object_folders.written_locally(folder) as local:
        try:
            yield profile
        finally:
            if tracing:
                jax.profiler.stop_trace()


# ---- Utilization -----------------------------------------------------------------------------------------------------


def utilization(
    flops_per_step: float,
    seconds_per_step: float,
    devices: Sequence[jax.Device],  # pyright: ignore[reportInvalidTypeForm]  # JAX defines it as a variable
    dtype: str,
) -> float | None:
    """Model FLOPs utilization, 0 to 1: ``flops_per_step`` (``Loss.step_flops`` of the global batch) relative to
    what ``devices`` could do in that time; None if their peak for ``dtype`` is unknown."""
    peaks = [hardware.peak(device.device_kind, dtype) for device in devices]
    total = sum(peak for peak in peaks if peak)
    return None if None in peaks else flops_per_step / seconds_per_step / total
