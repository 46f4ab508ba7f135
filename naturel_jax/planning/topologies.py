"""The accelerators of ``naturel-plan --topology``, which only the compiler knows: TPU slices and hosts with GPUs."""

import importlib.util
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from naturel_jax.devices.hardware import ACCELERATORS, Accelerator
from tfds_naturel.common.errors import UserError

if TYPE_CHECKING:  # JAX is imported after the environment is set
    import jax

# Without these, JAX looks for a TPU, and libtpu locks out other processes, asks a metadata server what machine this is,
# and complains about getting no answer. The slice is that of --topology, whatever these say.
_TPU_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
# Kernels cannot be timed without a card, and Triton's matrix products need the timing.
_GPU_ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "-1", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
_GPU_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false --xla_gpu_enable_cublaslt=false"

# XLA's GpuTargetConfigProto, with the limits that all these cards share. A multiprocessor keeps 1 KiB of its shared
# memory to itself.
_TARGET = Path(__file__).with_name("gpu_target.txtpb")

CARDS = {name: card for name, card in ACCELERATORS.items() if card.target}  # cards that programs can be compiled for

_GPUS = re.compile(r"([a-z][a-z0-9-]*?)(?:x([1-9]\d*))?x([1-9]\d*)")
_EXAMPLES = "a TPU slice by its shape, such as v5e:2x4 for v5e-8, v5p:2x2x1, v6e:4x4 or tpu7x:2x2x1"


class Gpus(NamedTuple):
    """Hosts, each with ``cards`` of one kind."""

    card: Accelerator
    hosts: int
    cards: int

    @property
    def target(self) -> str:
        """The card as XLA's compiler reads it."""
        target = self.card.target
        assert target is not None
        major, minor = target.capability.split(".")
        text = _TARGET.read_text("utf-8")
        return text.format(card=self.card, target=target, major=major, minor=minor, block=target.shared - 1024)


def gpus(topology: str) -> Gpus | None:
    """The GPUs of ``h100x8`` (one host with 8 cards) or ``h100x4x8`` (4 such hosts); None for a TPU slice, which has a
    colon. Raises UserError for anything else."""
    kind, colon, _ = topology.lower().partition(":")
    if colon and kind not in CARDS:
        return None
    match = _GPUS.fullmatch(topology.lower())
    if not match or match[1] not in CARDS:
        raise UserError(
            f"--topology {topology}: expected {_EXAMPLES}, or GPUs such as h100x8 (a host with 8 cards) or h100x4x8 "
            f"(4 such hosts), of {', '.join(CARDS)}"
        )
    return Gpus(CARDS[match[1]], int(match[2] or 1), int(match[3]))


def prepare(topology: str) -> None:
    """Sets the environment in which ``devices`` works; call it before JAX is imported. Raises UserError for an invalid
    topology."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if gpus(topology) is None:
        os.environ.update(_TPU_ENVIRONMENT)
    else:
        os.environ.update(_GPU_ENVIRONMENT, XLA_FLAGS=f"{os.environ.get('XLA_FLAGS', '')} {_GPU_FLAGS}")


def devices(topology: str) -> list["jax.Device"]:
    """The devices of a topology. Raises UserError if it does not exist, or its compiler is not installed."""
    wanted = gpus(topology)
    library, extra = ("libtpu", "plan-tpu") if wanted is None else ("jax_cuda12_plugin", "plan-gpu")
    if importlib.util.find_spec(library) is None:
        raise UserError(f"{library} is not installed: run `pip install 'naturel_jax[{extra}]'`")
    import jax
    from jax.experimental import topologies

    if wanted is not None:  # partitions of one process: as on real hosts, a partition is what NVLink connects
        shape = f"{wanted.hosts}x1x{wanted.cards}"
        described = topologies.get_topology_desc(platform="cuda", target_config=wanted.target, topology=shape)
        return list(described.devices)
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        raise UserError(f"--topology {topology}: {error}; expected {_EXAMPLES}") from error
