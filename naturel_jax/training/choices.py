"""Choices that depend on a run's devices: how its towers compute, and what ``auto`` becomes."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from jax.sharding import Mesh

from naturel_jax.config import Config
from naturel_jax.data.batches.pipeline import Pipeline
from naturel_jax.data.batches.recipes import RECIPES
from naturel_jax.devices.sharding import batch_sharding
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, TwoTowerConfig
from naturel_jax.training import exchange, memory
from naturel_jax.training.train import State
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)


class Choices(NamedTuple):
    """``config.compute.remat`` and ``config.objective.exchange``, without "auto"."""

    remat: str
    exchange: str


def resolve(
    config: Config,
    sizes: TwoTowerConfig,
    frozen: Mapping[str, int],
    state: State,
    pipeline: Pipeline,
    steps: int,
    mesh: Mesh,
    saved: Mapping[str, str],
) -> Choices:
    """Resolves the config's choices: an "auto" becomes what it was earlier in the run (``run_folder.saved_choices``),
    else what suits the devices. ``frozen``: as for ``make_model``. Only the shapes of ``state``, and of the batches of
    a run of ``steps``, are used."""
    remat, exchanged = config.compute.remat, config.objective.exchange
    if remat == "auto":
        plain, batch = make_model(config, sizes, mesh, "none", frozen), pipeline.largest_shapes(steps)
        remat = saved.get("remat") or memory.choose_remat(plain, state, batch, mesh, config.objective.chunks)
    if exchanged == "auto":
        exchanged = saved.get("exchange") or exchange.choose(
            mesh, pipeline.shapes(0), sizes.embed_dim, config.objective.tile
        )
    if "auto" in (config.compute.remat, config.objective.exchange):
        _LOG.info("config.compute.remat is %r, config.objective.exchange %r", remat, exchanged)
    return Choices(remat, exchanged)


def make_model(
    config: Config, sizes: TwoTowerConfig, mesh: Mesh, remat: str = "", frozen: Mapping[str, int] = MappingProxyType({})
) -> Model:
    """The model on the devices of ``mesh``. ``remat`` defaults to the config's, or to "none" if that is "auto", as
    for models that only embed. ``frozen``: number of frozen blocks of the towers ``image`` and ``text``."""
    options, platform = config.compute, mesh.devices.flat[0].platform
    remat = remat or ("none" if options.remat == "auto" else options.remat)
    _check_attention(options.attention, remat, sizes, platform)
    compute = Compute(
        options.dtype_on(platform),
        remat,
        options.attention or None,
        frozen_image=frozen.get("image", 0),
        frozen_text=frozen.get("text", 0),
        flat=platform != "tpu",
        rows=batch_sharding(mesh) if mesh.shape["fsdp"] > 1 else None,
        unroll=options.unroll or (platform == "cpu" and mesh.devices.size > 1),
        mesh=mesh if options.attention == "splash" else None,
    )
    return Model(sizes, compute)


def check_naflex(config: Config, sizes: TwoTowerConfig) -> None:
    """Raises UserError for a field that NaFlex models do not have, or only they have."""
    if not sizes.image.naflex:
        if config.data.max_patches:
            raise UserError(
                f"config.data.max_patches is {config.data.max_patches}, but the model is not a NaFlex model: it takes "
                f"images of {sizes.image.size} pixels; set it to 0"
            )
        return
    joins = {name: part.recipe for name, part in config.data.mixture.items() if RECIPES[part.recipe].joins}
    without = {
        "data.patch_dropout": (config.data.patch_dropout, "0.0"),
        "data.cache": (config.data.cache, "''"),
        "compute.attention": (config.compute.attention == "splash" and "splash", "''"),
        **{f"data.mixture.{name}.recipe": (recipe, "one that joins no images") for name, recipe in joins.items()},
    }
    for name, (found, instead) in without.items():
        if found:
            raise UserError(
                f"config.{name} is {found!r}, which is not implemented for a NaFlex model, whose images have a number "
                f"of patches of their own; set it to {instead}"
            )


_PLATFORMS = {"cudnn": ("gpu", "NVIDIA GPUs"), "splash": ("tpu", "TPUs")}  # attention -> platform, and its name


def _check_attention(attention: str, remat: str, sizes: TwoTowerConfig, platform: str) -> None:
    """Raises UserError if the attention kernel does not support the towers, the devices or the remat policy."""
    chosen, fix = f"config.compute.attention is {attention!r}", "set config.compute.attention to ''"
    needed, name = _PLATFORMS.get(attention, (platform, ""))
    if platform != needed:
        raise UserError(f"{chosen} and the devices are of the platform {platform!r}; it needs {name}: {fix}")
    if attention != "cudnn":
        return
    if remat == "attention":
        raise UserError(
            f"config.compute.remat is 'attention' and {chosen}, whose results cannot be kept: it would run again; set "
            "config.compute.remat to 'dots', which is as fast and keeps less"
        )
    for tower in ("image", "text"):
        transformer = getattr(sizes, tower).transformer
        width = transformer.width // transformer.heads
        if width % 8 or width > 128:
            expected = f"heads of width {width} in the {tower} tower; expected a multiple of 8, at most 128"
            raise UserError(f"{chosen} and there are {expected}: {fix}")
