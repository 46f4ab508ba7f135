"""The machine and the code that a result comes from, in words."""

import functools
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

_ROOT = Path(__file__).parents[2]  # a clone of the repository, or site-packages
_PACKAGES = ("naturel_jax", "tfds_naturel")


def describe() -> dict[str, str]:
    """The ``code`` and the ``processor`` of this process."""
    return {"code": _code(), "processor": processor()}


def accelerators() -> str:
    """The number and kind of the accelerators of all processes. JAX takes them, so only processes that use them ask."""
    import jax  # slow to import, and most reports do not need it

    kinds = Counter(device.device_kind for device in jax.devices() if device.platform != "cpu")
    return ", ".join(f"{number} x {kind}" for kind, number in kinds.items()) or "none"


@functools.cache  # what this process has imported
def _code() -> str:
    """The version of this package and, in a clone of its repository, the commit, and whether the packages differ from
    it."""
    version = importlib.metadata.version("naturel_jax")
    if not ((_ROOT / ".git").exists() and shutil.which("git")):
        return version
    head, changed = (
        subprocess.run(["git", "-C", str(_ROOT), *command], capture_output=True, text=True)
        for command in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no", "--", *_PACKAGES))
    )
    if head.returncode or changed.returncode:  # such as a clone that another user owns
        return version
    return f"{version}, commit {head.stdout.strip()}" + " with uncommitted changes" * bool(changed.stdout)


def processor() -> str:
    """The model of the processor, its cores, and the memory."""
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", info.read_text("utf-8"), re.MULTILINE) if info.exists() else []
    model = models[0] if models else platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"
