"""Checks for fields that are valid on their own but contradict each other."""

import pkgutil
import re
from collections.abc import Mapping

from naturel_jax.config import durations, own_benchmarks
from naturel_jax.config.schema import Config, Part
from tfds_naturel.common.errors import UserError


def check(config: Config, path: str = "config") -> Config:
    """Returns ``config``. Raises UserError if fields that are valid on their own contradict each other."""
    if bool(config.init) == bool(config.preset):
        raise UserError(f"{path}.init is {config.init!r} and {path}.preset is {config.preset!r}: set one of them")
    if config.preset and not config.data.mixture:
        raise UserError(f"{path}.preset needs {path}.data.mixture: its tokenizer is trained on the captions")
    if config.adapter.rank and not config.init:
        raise UserError(
            f"{path}.adapter.rank is {config.adapter.rank}, but {path}.init is '': an adapter belongs to a saved "
            f"model, which {path}.init names"
        )
    length, warmup = (
        durations.steps_without_data(text, config.data.batch_size) for text in (config.duration, config.optim.warmup)
    )
    if length and warmup and warmup > length:
        raise UserError(
            f"{path}.optim.warmup is {config.optim.warmup!r}, longer than the run: {path}.duration is "
            f"{config.duration!r}; shorten it"
        )
    if config.objective.chunks > config.data.batch_size:
        raise UserError(
            f"{path}.objective.chunks is {config.objective.chunks}, but {path}.data.batch_size is "
            f"{config.data.batch_size}: a chunk has at least one image"
        )
    if config.data.cache == "embeddings" and config.data.crop_scale != (1.0, 1.0):
        raise UserError(
            f"{path}.data.cache is 'embeddings' and {path}.data.crop_scale is {config.data.crop_scale}: random crops "
            f"have no embedding that could be kept; set {path}.data.crop_scale to (1.0, 1.0)"
        )
    if config.data.cache == "embeddings" and config.data.patch_dropout:
        raise UserError(
            f"{path}.data.cache is 'embeddings' and {path}.data.patch_dropout is {config.data.patch_dropout}: images "
            f"are embedded once, with all of their patches; set {path}.data.patch_dropout to 0.0"
        )
    if config.compute.attention == "cudnn" and config.compute.dtype == "float32":
        raise UserError(
            f"{path}.compute.attention is 'cudnn' and {path}.compute.dtype is 'float32', but cuDNN's attention takes "
            f"bfloat16; set {path}.compute.dtype to 'bfloat16', or {path}.compute.attention to ''"
        )
    if config.data.cache_captions:
        _check_recipes(config.data.mixture, f"{path}.data")
    own_benchmarks.check_names(config.eval.benchmarks, config.eval.fields, f"{path}.eval.fields")
    if unknown := sorted(config.eval.during.keys() - set(map(own_benchmarks.name_of, config.eval.benchmarks))):
        raise UserError(f"{path}.eval.during has {unknown}, which {path}.eval.benchmarks does not")
    options = config.objective
    objectives = pkgutil.resolve_name("naturel_jax.losses.objectives:OBJECTIVES")
    smooths = objectives[options.name].smooths_labels and options.counting != "match_ignore"
    if options.label_smoothing and not smooths:
        where = f"{path}.objective.name {options.name!r} and counting {options.counting!r}"
        raise UserError(
            f"{path}.objective.label_smoothing is {options.label_smoothing}: not defined for {where}; set 0"
        )
    if [config.mesh.data, config.mesh.fsdp, config.mesh.tensor].count(-1) > 1:
        raise UserError(f"{path}.mesh has -1 ('the rest of the devices') on more than one axis; give the others a size")
    for name, base_config in config.bases.items():
        check_folder(name, f"{path}.bases")
        check(base_config, f"{path}.bases.{name}")
    return config


def check_folder(name: str, where: str) -> None:
    """Raises UserError for the name of a run that is not that of one folder."""
    if not re.fullmatch(r"[\w+=,-][\w .+=,-]{0,99}", name):
        raise UserError(
            f"{where} has a run {name!r}; expected the name of a folder: letters, digits, spaces and any of - _ . + = ,"
        )


def _check_recipes(mixture: Mapping[str, Part], path: str) -> None:
    """Raises UserError for a recipe whose captions cannot be embedded before the run trains."""
    recipes = pkgutil.resolve_name("naturel_jax.data.batches.recipes:RECIPES")  # loads the data libraries
    for name, part in mixture.items():
        if recipes[part.recipe].makes_captions:
            raise UserError(
                f"{path}.cache_captions is True, but {path}.mixture.{name}.recipe is {part.recipe!r}, which makes "
                "captions while the run trains, so they cannot be embedded before; use a recipe that takes captions as "
                f"they are, such as 'one_pair', or set {path}.cache_captions to False"
            )
