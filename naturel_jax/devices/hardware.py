"""What is known about each accelerator: one row for each, under all names that JAX has for it. Does not import JAX.

Peaks, memory and speeds are those of one ``jax.Device``. That is a whole card or chip, except for a TPU v4 device, one
of the two cores of a chip, and a TPU7x device, one of its two halves.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

GIB = 2**30


class Target(NamedTuple):
    """A GPU as XLA's compiler needs to know it: CUDA compute capability, multiprocessors, float32 units and bytes of
    shared memory per multiprocessor, bytes of L2 cache, clock in GHz."""

    capability: str
    cores: int
    units: int
    shared: int
    cache: int
    clock: float


class Accelerator(NamedTuple):
    """A row of ``ACCELERATORS``. None: not known.

    kinds: ``jax.Device.device_kind``, in all its spellings; peak: dense FLOP/s of matrix products by dtype;
    memory: bytes, on a TPU those that a program may use; bandwidth: bytes per second of that memory;
    link: bytes per second of one link to a neighbour, one way; links: how many links; between: bytes per second to
    other hosts, if another network connects those; float32: FLOP/s of matrix products in full float32, unless they are
    made of six in bfloat16; target: for GPUs that steps can be compiled for without having one.
    """

    kinds: tuple[str, ...]
    peak: Mapping[str, float]
    memory: int | None = None
    bandwidth: float | None = None
    link: float | None = None
    links: int = 1
    between: float = math.inf
    float32: float | None = None
    target: Target | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU. JAX reserves a share of a GPU's memory at startup."""
        return self.kinds[0].startswith("NVIDIA")

    def seconds(self, collective: str, size: float, devices: int, hosts: int = 1) -> float:
        """The least time of a collective with a result of ``size`` bytes, among ``devices`` spread equally over
        ``hosts``, each of which sends through all of its cards that take part. A permute goes to a neighbour, over one
        link. ``link`` must be known."""
        assert self.link is not None
        links = 1 if collective == "collective-permute" else self.links
        within = _SENT[collective](devices) * size / (links * self.link)
        if hosts == 1:
            return within
        sent = _SENT[collective](hosts) * size
        # All cards of a host hold the same result: each sends its share.
        if collective in ("all-reduce", "all-gather"):
            sent *= hosts / devices
        return max(within, sent / self.between)


# Bytes that a device sends for each byte of the result, given the number of devices; reduce-scatter's result is a part.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: n - 1,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


def _nvidia(bfloat16: float, float32: float) -> dict[str, float]:
    return {"bfloat16": bfloat16, "float16": bfloat16, "float32": float32}


# NVIDIA's data sheets print rates with 2:4 sparsity, twice the dense ones. A float32 product runs as TF32 on these GPUs
# (XLA's default precision); TPUs have no published float32 rate.
_A100, _H100 = _nvidia(312e12, 156e12), _nvidia(989e12, 495e12)  # H200's is the same

# Sources. Peaks: NVIDIA's data sheets; cloud.google.com/tpu/docs, the page of each TPU (TPU7x: half of a chip's
# 2,307e12). Both spellings of a TPU: jax/_src/pallas/mosaic/tpu_info.py.
# Memory and targets of GPUs: as XLA reads them off a card, github.com/openxla/xla,
# xla/backends/gpu/target_config/specs. Memory of TPUs: as libtpu 0.0.42's compiler reports it when a program does not
# fit ("exceeds available HBM (15.75G)"), a little less than the chip has.
# Links of TPUs: jax-ml.github.io/scaling-book/tpus; TPU7x: 1,200 GB/s over the six links of a chip, both ways. Links of
# GPUs: NVLink through switches, so one "link" reaches every card of a host; between hosts, a network card per GPU, of
# 400 Gbit/s (A100s: 200): jax-ml.github.io/scaling-book/gpus and the data sheets of DGX A100 and DGX H100.
ACCELERATORS: dict[str, Accelerator] = {
    "a100-40gb": Accelerator(
        ("NVIDIA A100-SXM4-40GB",), _A100, 42331013120, 1555.2e9, 300e9, 1, 25e9, 19.5e12,
        Target("8.0", 108, 64, 167936, 41943040, 1.41),
    ),
    "a100": Accelerator(
        ("NVIDIA A100-SXM4-80GB",), _A100, 85100068864, 2039.04e9, 300e9, 1, 25e9, 19.5e12,
        Target("8.0", 108, 64, 167936, 41943040, 1.41),
    ),
    "a100-pcie": Accelerator(("NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe"), _A100),
    "h100": Accelerator(
        ("NVIDIA H100 80GB HBM3",), _H100, 84942979072, 3352.32e9, 450e9, 1, 50e9, 67e12,
        Target("9.0", 132, 128, 233472, 52428800, 1.98),
    ),
    "h100-pcie": Accelerator(("NVIDIA H100 PCIe",), _nvidia(756e12, 378e12)),
    "h200": Accelerator(
        ("NVIDIA H200",), _H100, 151397597184, 4800e9, 450e9, 1, 50e9, 67e12,
        Target("9.0", 132, 128, 233472, 52428800, 1.98),
    ),
    "l4": Accelerator(("NVIDIA L4",), _nvidia(121e12, 60e12)),
    "v4": Accelerator(("TPU v4",), {"bfloat16": 275e12}, int(15.25 * GIB)),
    "v5e": Accelerator(("TPU v5 lite", "TPU v5e"), {"bfloat16": 197e12}, int(15.75 * GIB), 819e9, 45e9, 4),
    "v5p": Accelerator(("TPU v5", "TPU v5p"), {"bfloat16": 459e12}, int(95.74 * GIB), 2765e9, 90e9, 6),
    "v6e": Accelerator(("TPU v6 lite", "TPU v6e"), {"bfloat16": 918e12}, int(31.25 * GIB), 1638e9, 90e9, 4),
    "tpu7x": Accelerator(("TPU7x",), {"bfloat16": 1153.5e12}, int(94.75 * GIB), 3690e9, 50e9, 6),
}  # fmt: skip

SPEED_KNOWN = tuple(row.kinds[0] for row in ACCELERATORS.values() if row.link)


def find(kind: str) -> Accelerator | None:
    """The accelerator of a ``jax.Device.device_kind``; None if it is not in the table, like CPUs."""
    return next((row for row in ACCELERATORS.values() if kind in row.kinds), None)


def peak(kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device for matrix products of ``dtype``; None if it is unknown."""
    row = find(kind)
    return row.peak.get(dtype) if row else None
