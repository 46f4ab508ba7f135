"""Optional dependencies, installed by the package's extras."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from tfds_naturel.common.errors import UserError

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def library(name: str, extra: str) -> ModuleType:
    """Imports ``name``. If it is missing, raises UserError with the command that installs it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UserError(f"{name} is not installed: run `pip install 'naturel_jax[{extra}]'`") from error


def beam_options(text: str) -> "PipelineOptions":
    """Apache Beam's options of ``name=value,...``. Raises UserError if Beam is missing."""
    library("apache_beam", "beam")
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions([f"--{option}" for option in text.split(",")])
