"""Libraries that only an extra of the package installs."""

import importlib
from types import ModuleType

from tfds_naturel.errors import UserError


def library(name: str, extra: str) -> ModuleType:
    """Imports ``name``. Raises UserError with the command that installs it when it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} is not installed: run `pip install 'naturel_jax[{extra}]'`") from error
