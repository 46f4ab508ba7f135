"""Old import paths of the documented extension points, for plug-ins and config files that still use them."""

import importlib
import importlib.util
import sys
import warnings
from collections import UserDict
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from naturel_jax.devices.hardware import ACCELERATORS, Accelerator, find

MOVED = {
    f"naturel_jax.{before}": f"naturel_jax.{now}"
    for before, now in {
        "api": "evaluators.embedding_model",
        "batch": "losses.batch",
        "counting": "losses.batch",
        "objectives": "losses.objectives",
        "tiles": "losses.tiles",
        "optim": "training.optim",
        "data.recipes": "data.batches.recipes",
        "data.records": "data.items.records",
    }.items()
}


class Moved(MetaPathFinder, Loader):
    """Imports the new module in place of the old one, with a DeprecationWarning."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self) if name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        warnings.warn(f"{name} is {MOVED[name]} now", DeprecationWarning, stacklevel=2)
        sys.modules[name] = importlib.import_module(MOVED[name])


class Peaks(UserDict[str, Mapping[str, float]]):
    """``PEAKS`` of ``models/flops.py``, a view of ``ACCELERATORS``: kind -> peak FLOP/s by dtype. Setting a kind
    changes its row there, or adds one."""

    def __init__(self) -> None:
        warnings.warn("PEAKS is ACCELERATORS of naturel_jax.devices.hardware now", DeprecationWarning, stacklevel=3)
        super().__init__()
        self.data = {kind: row.peak for row in ACCELERATORS.values() for kind in row.kinds}

    def __setitem__(self, kind: str, peak: Mapping[str, float]) -> None:
        super().__setitem__(kind, peak)
        name = next((name for name, row in ACCELERATORS.items() if kind in row.kinds), kind)
        ACCELERATORS[name] = (find(kind) or Accelerator((kind,), peak))._replace(peak=peak)
