"""Optional dependencies, installed by the package's extras."""

import importlib
from types import ModuleType

from tfds_naturel.common.errors import UserError


def library(name: str, extra: str) -> ModuleType:
    """Imports ``name``. If it is missing, raises UserError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} is not installed: run `pip install 'naturel_jax[{extra}]'`") from error
