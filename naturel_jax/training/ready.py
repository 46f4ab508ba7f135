"""What would end a run later, found before anything is trained; and whether a run that has begun may go on."""

import dataclasses
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from naturel_jax import storage, weights
from naturel_jax.checkpoints import finished, recorded
from naturel_jax.config import Config, Data, versions
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.batches.planner import MixturePart, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items import slices
from naturel_jax.data.items.items import Source
from naturel_jax.data.items.records import existing
from naturel_jax.devices.sharding import batch_shards, make_mesh
from naturel_jax.evaluators.evaluator import check_benchmarks
from naturel_jax.models import adapters
from naturel_jax.models.two_tower import Model
from naturel_jax.storage.object_stores import in_store
from naturel_jax.training import frozen, optim, run_folder, stand_in, train
from naturel_jax.training.choices import check_naflex, make_model
from naturel_jax.training.start import base_config, model_sizes, trained_sizes
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import EXCHANGED_KINDS
from tfds_naturel.scenes.scene import SPLITS

_LOG = logging.getLogger(__name__)


def check_named(config: Config, folder: epath.Path, *, in_suite: bool = False) -> None:
    """Raises UserError or FileNotFoundError for what a run in ``folder``, or its base, names but is not there: wandb,
    weights, training data, mined images, files of benchmarks; and UserError for a base's folder of another run, and for
    what does not fit the sizes of worlds. Nothing is drawn, indexed or trained yet. ``in_suite``: an earlier run may
    yet make the one that this starts from, and other processes may have other devices; otherwise, raises also UserError
    for fields that do not fit devices or model.
    """
    if config.wandb and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"config.wandb is {config.wandb!r}, but wandb is not installed: pip install 'naturel_jax[wandb]'"
        )
    for part in config.data.mixture.values():
        datasets.check_there(part.dataset, config.data.dir, part.split, recipe(part.recipe).kind)
        if part.hard_images and not in_store(part.hard_images):
            existing(part.hard_images, "hard_images")
    _check_drawn(config)
    check_benchmarks(config)
    kind, _, name = config.init.partition(":")
    if kind == "base" and name not in config.bases:
        if not in_suite:
            weights.trained_on(f"run:{folder.parent / name}")
    elif config.init and kind != "base" and not (kind == "run" and in_suite):
        weights.trained_on(config.init)  # last: it downloads a model of the hub
    if not in_suite:
        _check_fits(config, folder)
    if _base_to_train(config, folder):
        check_named(base_config(config, name), folder.parent / name, in_suite=in_suite)


def _check_drawn(config: Config) -> None:
    """Raises UserError for a split that a world does not have, and if all data is worlds, also for what ``check`` finds
    by their sizes: they may not be drawn yet."""
    sizes, parts = dict[str, int](), config.data.mixture
    for name, part in parts.items():
        if (world := datasets.world(part.dataset)) is None:
            continue
        split = slices.whole(part.split)
        if split not in SPLITS:
            raise UserError(
                f"config.data.mixture.{name}.split is {part.split!r}; expected one of {', '.join(SPLITS)}, or a slice"
            )
        # Images without captions of the recipe's kind are left out: how many, is not known before they are drawn.
        if recipe(part.recipe).kind not in EXCHANGED_KINDS and not world.agents:
            first, stop = slices.bounds(f"{part.dataset}:{split}", part.split, world.sizes[SPLITS.index(split)])
            sizes[name] = stop - first
    if sizes and sizes.keys() == parts.keys() and train.make_schedule(config, sum(sizes.values()))[0].total:
        _check_batch(config.data, sizes)


def _base_to_train(config: Config, folder: epath.Path) -> bool:
    """Whether the run in ``folder`` trains its base first. Raises UserError for a base's folder of another run."""
    kind, _, name = config.init.partition(":")
    if kind != "base" or name not in config.bases:
        return False
    return run_folder.read_finished(folder.parent / name, base_config(config, name)) is None


def _check_fits(config: Config, folder: epath.Path) -> None:
    """Raises UserError for fields that do not fit the devices, the model that the run in ``folder`` starts from, or the
    captions of a world that may not be drawn yet."""
    mesh, sizes = make_mesh(dataclasses.asdict(config.mesh)), model_sizes(config, folder)
    check_naflex(config, sizes)
    sizes, _ = trained_sizes(config, sizes)
    model, data = make_model(config, sizes, mesh), config.data
    if not data.mixture:
        return
    if config.adapter.rank or config.optim.lr_multipliers or data.cache == "embeddings" or data.cache_captions:
        _check_parameters(config, model)
    # Stand-ins have the captions of worlds. What other data has is not known yet: any has a true caption.
    recipes = [part.recipe if datasets.world(part.dataset) else "positives" for part in data.mixture.values()]
    parts = [
        MixturePart(stand_in.source(f"{part.dataset}:{part.split}", 1).items, recipe(name))
        for part, name in zip(data.mixture.values(), recipes, strict=True)
    ]
    processor, shards = stand_in.processor(sizes, 1, data.max_patches), batch_shards(mesh)
    Planner(parts, processor, batch_size=data.batch_size, shards=shards, seed=config.seed, trim_eos=None)


def _check_parameters(config: Config, model: Model) -> None:
    """Raises UserError for patterns that match none of the parameters or layers of ``model``, and for a tower that is
    trained whose embeddings are to be kept."""
    trained = model.shapes()
    if config.adapter.rank:
        trained = adapters.shapes(trained, config.adapter.rank, config.adapter.targets)
    optim.multipliers(config.optim, trained)
    frozen.check(config, trained)


def check_suite(runs: Mapping[epath.Path, Config]) -> None:
    """``check_named`` for all runs of a suite or sweep, by folder, that are not finished. Raises UserError for a folder
    of another run, too."""
    for folder, config in runs.items():
        if run_folder.read_finished(folder, config) is None:
            check_named(config, folder, in_suite=True)


def check(config: Config, folder: epath.Path, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    """Raises UserError for batches that would have images twice (``sizes``: part of the mixture -> images), a warmup
    longer than the run, hard images that are mined again from checkpoints that are not saved, and a run in ``folder``
    that cannot go on with this config. Returns what ``note`` is to note of a run that becomes longer, or None."""
    examples = sum(sizes.values())
    schedule = train.make_schedule(config, examples)[0]
    total, saved = schedule.total, schedule.checkpoint_every
    if total:
        _check_batch(config.data, sizes)
    for name, part in config.data.mixture.items() if total else ():
        if (every := part.hard_images_every) and (not saved or every % saved):
            raise UserError(
                f"config.data.mixture.{name}.hard_images_every is {every}, but config.checkpoint.every is "
                f"{config.checkpoint.every!r} ({saved:,} steps): hard images are mined again from checkpoints; set one "
                f"to a multiple of the other, such as config.checkpoint.every to '{every} steps'"
            )
    if (newest := run_folder.newest_checkpoint(folder)) is not None:
        step, meta = newest
        if step < total:
            run_folder.check_streams(folder, meta)
        before = versions.from_json(meta["config"])
        if before.duration != config.duration:
            return _extend(config, before, folder, step, examples)
    return None


def check_sources(config: Config, folder: epath.Path, sources: Sequence[Source], mesh: Mesh) -> None:
    """Raises UserError for recipes and hard images that do not fit the ``sources``, if the run in ``folder`` trains its
    base first: without one, the run's own pipeline is made at once."""
    if sources and _base_to_train(config, folder):
        sizes = model_sizes(config, folder)
        make_pipeline(config, sources, sizes, stand_in.processor(sizes, 1, config.data.max_patches), mesh)


def _check_batch(data: Data, sizes: Mapping[str, int]) -> None:
    """Raises UserError if every batch would have images of a part twice. The one that spans the end of a part's epoch
    may have some, at most one batch for each epoch."""
    weights = {name: part.weight for name, part in data.mixture.items()}
    for name, weight in weights.items():
        share = data.batch_size if data.turns == "batches" else data.batch_size * weight / sum(weights.values())
        if 0 < sizes[name] < share:
            raise UserError(
                f"config.data.batch_size is {data.batch_size:,}, of which config.data.mixture.{name} gives "
                f"{share:,.0f} images, but it has {sizes[name]:,}, so that a batch would have some twice; make "
                "batch_size or the part's weight smaller"
            )


def _extend(config: Config, before: Config, folder: epath.Path, step: int, examples: int) -> dict[str, Any] | None:
    """Says what another duration changes in a run that has taken ``step`` steps; returns what is to be noted, None if
    both are the same number of steps. Raises UserError for a shorter one."""
    (schedule, rate), (earlier, rate_before) = (train.make_schedule(each, examples) for each in (config, before))
    if schedule.total < earlier.total:
        raise UserError(
            f"config.duration was {before.duration!r} ({earlier.total:,} steps) in {folder}, is {config.duration!r} "
            f"({schedule.total:,}): a run can become longer, not shorter. Its checkpoints are run:{folder}@STEP; for a "
            "shorter run, use another --workdir"
        )
    if schedule.total == earlier.total:
        return None
    done = np.arange(step)
    same = bool(np.array_equal(rate(done), rate_before(done)))
    what = f"{config.name} has {step:,} steps, and goes on to {schedule.total:,} instead of {earlier.total:,}"
    if same:
        _LOG.info("%s; its learning rate so far is that of the longer run, so it is the same run", what)
    else:
        _LOG.warning(
            "%s. So far, its learning rate was that of the shorter run: step %d had %.3g, the next has %.3g. It will "
            "not be the run that %s from the start would have been, which only constant rates after a warmup in steps "
            "allow; config.json notes it",
            *(what, step, rate_before(step - 1), rate(step), config.duration),
        )
    return {"step": step, "duration": before.duration, "same_rates": same}


def note(config: Config, folder: epath.Path, extended: dict[str, Any] | None) -> None:
    """Notes in ``config.json`` that the run becomes longer, and keeps the scores and the curve of the shorter one as
    ``scores_<its duration>.json`` and ``interpolated_<its duration>.json``. Called when nothing is left to do before
    the next step: what fails earlier leaves the shorter run as it was."""
    if jax.process_index() > 0:
        return
    path = folder / "config.json"
    saved, record = storage.read_json(path), finished.read(folder)
    lasted = (saved["config"] if record is None else record.request)["duration"]
    if lasted != config.duration:
        for old in (finished.FILE, recorded.INTERPOLATED):
            if storage.exists(folder / old):
                stem, _, suffix = old.partition(".")
                storage.write(folder / f"{stem}_{'_'.join(str(lasted).split())}.{suffix}", storage.read(folder / old))
                storage.delete(folder / old)
    if saved["config"]["duration"] != config.duration or extended:
        earlier = [row for row in saved.get("extended", []) if row != extended]
        saved |= {"config": versions.to_json(config), "extended": [*earlier, *([extended] if extended else [])]}
        storage.write_json(path, saved)
