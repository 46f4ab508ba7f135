"""How the state of a run is written, on a disk or in an object store: ``storage.write`` and so on."""

from naturel_jax.storage.leases import Lease, lease
from naturel_jax.storage.state import (
    absolute,
    append,
    check_leases,
    check_writable,
    create,
    delete,
    exists,
    names,
    naming,
    numbered,
    read,
    read_json,
    read_json_lines,
    unused_name,
    write,
)

__all__ = [
    "Lease",
    "absolute",
    "append",
    "check_leases",
    "check_writable",
    "create",
    "delete",
    "exists",
    "lease",
    "names",
    "naming",
    "numbered",
    "read",
    "read_json",
    "read_json_lines",
    "unused_name",
    "write",
]
