"""Joins the processes of a run."""

import os

import jax


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
