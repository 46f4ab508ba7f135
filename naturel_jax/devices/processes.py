"""Joins the processes of a run, divides work between those that are not joined, and checks what a process may use."""

import dataclasses
import os
import re
import resource
from collections.abc import Mapping

import jax

from tfds_naturel.common.errors import UserError

LEAST_ADDRESSES = 3_400_000_000  # bytes; with 3.1 GB on two cores, XLA aborts, and with 2.6 GB, it waits without end


def check_limits() -> None:
    """Raises UserError if this process may have too few addresses for the libraries and threads of JAX. Those that
    cannot start abort the process, or others wait for them."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESSES:
        raise UserError(
            f"ulimit -v {limit >> 10} leaves this process {limit / 1e9:.1f} GB of addresses; JAX's libraries and their "
            f"threads reserve about {LEAST_ADDRESSES / 1e9:.1f} GB, mostly unused. Raise the limit, or limit "
            "what is used: systemd-run --user -p MemoryMax=..., or a container's memory"
        )


def initialize(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins other processes; TPU pods, SLURM and Kubernetes are detected. Call it before anything touches a device:
    later, each process would train its own copy."""
    jax.distributed.initialize(coordinator, processes, process, _local_device_ids())


def _local_device_ids() -> list[int] | None:
    """The ``local_device_ids`` to give to JAX. On SLURM, JAX lets each task see one GPU, the one with the task's number
    on the node, even if no other task is there. An empty list keeps all GPUs; None leaves it to JAX."""
    # Open MPI starts its processes from one SLURM task per node; JAX then asks Open MPI.
    if "JAX_LOCAL_DEVICE_IDS" in os.environ or "OMPI_MCA_orte_hnp_uri" in os.environ:
        return None
    one_a_node = os.environ.get("SLURM_STEP_NUM_TASKS", "") == os.environ.get("SLURM_STEP_NUM_NODES")
    return [] if one_a_node else None


@dataclasses.dataclass(frozen=True)
class Share:
    """Each ``count``-th piece of the work, from ``index`` on."""

    index: int = 0
    count: int = 1


def parse_share(text: str, environment: Mapping[str, str]) -> Share:
    """``--share INDEX/COUNT``; without it, the task of a SLURM array. Raises UserError."""
    if not text and "SLURM_ARRAY_TASK_ID" in environment:
        given = [environment.get(f"SLURM_ARRAY_TASK_{name}", "") for name in ("ID", "MIN", "COUNT")]
        given.append(environment.get("SLURM_ARRAY_TASK_STEP", "1"))
        if not all(map(str.isdecimal, given)) or not int(given[-1]):
            raise UserError(f"SLURM_ARRAY_TASK_ID, _MIN, _COUNT and _STEP are {given}; add --share INDEX/COUNT")
        number, first, count, step = map(int, given)
        text = f"{(number - first) // step}/{count}"
    if not text and "JOB_COMPLETION_INDEX" in environment:
        raise UserError(
            "this is a pod of an indexed Job, which does not know the number of pods: add --share "
            "$JOB_COMPLETION_INDEX/COMPLETIONS"
        )
    match = re.fullmatch(r"(\d+)/(\d+)", text or "0/1")
    if not match or int(match[1]) >= int(match[2]):
        raise UserError(f"--share {text}: expected INDEX/COUNT with an INDEX from 0 to COUNT - 1, such as 0/8")
    return Share(int(match[1]), int(match[2]))
