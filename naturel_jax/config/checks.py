"""Checks for fields that are valid on their own but contradict each other."""

import pkgutil
import re

from naturel_jax.config import durations, own_benchmarks
from naturel_jax.config.schema import Config, Part
from tfds_naturel.common.errors import UserError

_AVERAGING = "naturel_jax.training.optim:AVERAGING"  # names of the optimizers that have an average of their own
_RECIPES = "naturel_jax.data.batches.recipes:RECIPES"  # its module loads the data libraries


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
    _check_data(config, path)
    if config.compute.attention == "cudnn" and config.compute.dtype == "float32":
        raise UserError(
            f"{path}.compute.attention is 'cudnn' and {path}.compute.dtype is 'float32', but cuDNN's attention takes "
            f"bfloat16; set {path}.compute.dtype to 'bfloat16', or {path}.compute.attention to ''"
        )
    for name, part in config.data.mixture.items():
        if part.hard_images_every:
            check_folder(name, f"{path}.data.mixture", "part")
        _check_part(config, part, path, f"{path}.data.mixture.{name}")
    _check_exchanged(config, path)
    _check_sampled(config, path)
    own_benchmarks.check_names(config.eval.benchmarks, config.eval.fields, f"{path}.eval.fields")
    if unknown := sorted(config.eval.during.keys() - set(map(own_benchmarks.name_of, config.eval.benchmarks))):
        raise UserError(
            f"{path}.eval.during has {unknown}, which {path}.eval.benchmarks does not; add them there, or leave them "
            "out (--config.eval.during='{}' for all)"
        )
    _check_interpolation(config, path)
    _check_objective(config, path)
    _check_optimizer(config, path)
    if [config.mesh.data, config.mesh.fsdp, config.mesh.tensor].count(-1) > 1:
        raise UserError(f"{path}.mesh has -1 ('the rest of the devices') on more than one axis; give the others a size")
    for name, base_config in config.bases.items():
        check_folder(name, f"{path}.bases")
        check(base_config, f"{path}.bases.{name}")
    return config


def _check_data(config: Config, path: str) -> None:
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


def _check_objective(config: Config, path: str) -> None:
    options = config.objective
    objectives = pkgutil.resolve_name("naturel_jax.losses.objectives:OBJECTIVES")
    smooths = objectives[options.name].smooths_labels and options.counting != "match_ignore"
    if options.calibrate_bias and not objectives[options.name].needs_bias:
        raise UserError(
            f"{path}.objective.calibrate_bias is True: the {options.name} loss has no bias; set it to False"
        )
    if options.label_smoothing and not smooths:
        where = f"{path}.objective.name {options.name!r} and counting {options.counting!r}"
        raise UserError(
            f"{path}.objective.label_smoothing is {options.label_smoothing}: not defined for {where}; set 0"
        )
    if options.hard_negative_weight != 1 and not objectives[options.name].has_negatives:
        raise UserError(
            f"{path}.objective.hard_negative_weight is {options.hard_negative_weight}, but the {options.name} loss has "
            "no hard negatives; set it to 1.0"
        )
    averages = [name for name, term in options.terms.items() if term.of_average]
    if averages and not (config.optim.ema or config.optim.name in pkgutil.resolve_name(_AVERAGING)):
        raise UserError(
            f"{path}.objective.terms.{averages[0]}.of_average is True, but there is no average: set {path}.optim.ema, "
            "such as 0.9996"
        )
    if averages and config.adapter.rank:
        raise UserError(
            f"{path}.objective.terms.{averages[0]}.of_average is True, but {path}.adapter.rank is "
            f"{config.adapter.rank}: adapters are compared with their base; set of_average to False"
        )
    if averages and any(term.needs_base and not term.of_average for term in options.terms.values()):
        raise UserError(
            f"{path}.objective.terms has terms with of_average and without: a run has one base; use the same"
        )


def _check_optimizer(config: Config, path: str) -> None:
    name, optim = config.optim.name, config.optim
    if name in pkgutil.resolve_name(_AVERAGING) and (optim.ema or not optim.b1):
        raise UserError(
            f"{path}.optim.name is {name!r}, {path}.optim.ema {optim.ema} and {path}.optim.b1 {optim.b1}: it "
            "evaluates an average of its own, made with b1; set ema to 0.0 and b1 above 0"
        )
    if name == "prodigy" and optim.weight_decay:
        raise UserError(
            f"{path}.optim.name is {name!r} and {path}.optim.weight_decay is {optim.weight_decay}: the decay of a step "
            "would be that times lr, which is about 1 here; set weight_decay to 0.0"
        )


def _check_interpolation(config: Config, path: str) -> None:
    shares, by = config.eval.interpolate, config.eval.interpolate_by
    if shares and not (config.init and config.data.mixture):
        raise UserError(
            f"{path}.eval.interpolate is {shares}, but the run does not train a model that it starts from: set "
            f"{path}.init and {path}.data.mixture, or {path}.eval.interpolate to ()"
        )
    known = sorted(map(own_benchmarks.name_of, config.eval.benchmarks))
    if by and not (shares and by.split("/")[0] in known):
        raise UserError(
            f"{path}.eval.interpolate_by is {by!r} and {path}.eval.interpolate {shares}; expected shares, and a score "
            f"of one of {path}.eval.benchmarks: {', '.join(known)}"
        )


def check_folder(name: str, where: str, what: str = "run") -> None:
    """Raises UserError for the name of a run, or ``what`` else, that is not that of one folder."""
    if not re.fullmatch(r"[\w+=,-][\w .+=,-]{0,99}", name):
        raise UserError(
            f"{where} has a {what} {name!r:.200}; expected the name of a folder: letters, digits, spaces and any of "
            "- _ . + = ,"
        )


def _check_part(config: Config, part: Part, path: str, where: str) -> None:
    """Raises UserError for a part without a dataset or recipe, and a recipe that does not fit the part's hard images or
    the caches."""
    if missing := [name for name in ("dataset", "recipe") if not getattr(part, name)]:
        raise UserError(f"{where} has no {missing[0]}; set {where}.{missing[0]}")
    row = pkgutil.resolve_name(_RECIPES)[part.recipe]
    if row.makes_captions and config.data.cache_captions:
        raise UserError(
            f"{path}.data.cache_captions is True, but {where}.recipe is {part.recipe!r}, which makes captions while "
            "the run trains, so they cannot be embedded before; use a recipe that takes captions as they are, such as "
            f"'one_pair', or set {path}.data.cache_captions to False"
        )
    if row.joins and part.hard_images:
        raise UserError(
            f"{where}.hard_images is {part.hard_images!r}, but {where}.recipe {part.recipe!r} joins images, for which "
            "none were mined; set hard_images to ''"
        )
    if part.hard_images_every and not part.hard_images:
        raise UserError(
            f"{where}.hard_images_every is {part.hard_images_every}, but {where}.hard_images is ''; name the file that "
            "the run begins with, or set hard_images_every to 0"
        )
    if row.joins and config.data.cache == "embeddings":
        raise UserError(
            f"{path}.data.cache is 'embeddings', but {where}.recipe {part.recipe!r} joins images while the run trains, "
            f"so they cannot be embedded before; set {path}.data.cache to 'decoded' or ''"
        )
    if part.hard_captions == "own":
        return
    if not part.hard_images:
        raise UserError(f"{where}.hard_captions is {part.hard_captions!r}, but {where}.hard_images is ''; name a file")
    if (row.positives, row.negatives, row.makes_captions) != (1, 1, False):
        raise UserError(
            f"{where}.hard_captions is {part.hard_captions!r}, but {where}.recipe is {part.recipe!r}; one is expected "
            "that samples one positive and one negative of the dataset, such as 'single_pair'"
        )


def _check_exchanged(config: Config, path: str) -> None:
    exchanged = any(part.hard_captions == "exchanged" for part in config.data.mixture.values())
    if exchanged != ("exchanged_images" in config.objective.terms):
        raise UserError(
            f"{path}.objective.terms has 'exchanged_images' if, and only if, a part of {path}.data.mixture has hard "
            "images with hard_captions 'exchanged'; set both or neither"
        )


def _check_sampled(config: Config, path: str) -> None:
    """Raises UserError for a term that compares more captions of an image than any recipe samples."""
    recipes = pkgutil.resolve_name(_RECIPES)
    if most := [recipes[part.recipe].most for part in config.data.mixture.values()]:
        for name, term in config.objective.terms.items():
            term.check_sampled(f"{path}.objective.terms.{name}", *map(max, zip(*most, strict=True)))
