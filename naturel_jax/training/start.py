"""What a run starts from: a model, its parameters and its processor; and the images that it trains on."""

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from naturel_jax import storage, weights
from naturel_jax.checkpoints import checkpoint
from naturel_jax.config import Config
from naturel_jax.data.items.items import Source
from naturel_jax.data.seen import training_images
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor, from_scratch
from naturel_jax.devices import preemption
from naturel_jax.devices.sharding import param_sharding, shardings
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.models import adapters, presets
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig, config_from_dict
from naturel_jax.training import run_folder
from naturel_jax.training.choices import check_naflex, make_model
from naturel_jax.training.train import State
from naturel_jax.weights import Adapter, export, runs, tables
from naturel_jax.weights.processor_files import malformed
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

Run = Callable[[Config, epath.Path], object]
_POLL_S = 5.0  # between looks at a base that another process trains


class Start(NamedTuple):
    """What a run starts from. ``model`` is for evaluation and caches: how the trained one computes is chosen once the
    batch is known. ``new_bias``: a logit bias has just been added, and is not calibrated yet. ``adapter``: what is
    trained instead of ``params``, its base. ``digest``: of ``params`` as ``config.init`` stores
    them; "" if they are random, computed (``weights.is_computed``), or an adapter's base."""

    model: Model
    params: Params
    processor: Processor
    new_bias: bool
    adapter: Adapter | None = None
    digest: str = ""

    @property
    def trained(self) -> Params:
        """The parameters that training changes."""
        return self.params if self.adapter is None else self.adapter.params

    def merged(self, state: State) -> Params:
        """The whole parameters of ``state`` to evaluate: the moving average if there is one."""
        if self.adapter is None:
            return state.evaluated
        assert state.base is not None
        return adapters.apply(state.base, state.evaluated, self.adapter.options.scale)

    @property
    def adapter_meta(self) -> dict[str, Any] | None:
        """What a checkpoint notes of the adapter."""
        return None if self.adapter is None else self.adapter.meta()


def trained_base(config: Config, folder: epath.Path, run: Run) -> str:
    """``config.init``, with ``base:NAME`` resolved to the run in the folder NAME next to ``folder``. A base defined in
    ``config.bases`` is trained first, by ``run``, unless it is finished; while another process trains it, this one
    waits."""
    kind, _, name = config.init.partition(":")
    if kind != "base":
        return config.init
    base_folder = folder.parent / name
    if name in config.bases:
        base = base_config(config, name)
        if run_folder.read_finished(base_folder, base) is None:
            _LOG.info(
                "%s starts from %s, which is trained first, in %s; config.init = 'run:FOLDER' starts from one that is "
                "trained already",
                *(config.name, base.name, base_folder),
            )
            _run_or_wait(run, base, base_folder)
    return f"run:{base_folder}"


def base_config(config: Config, name: str) -> Config:
    """``config.bases[name]``, with the run's folders for data."""
    base = config.bases[name]
    data = dataclasses.replace(base.data, dir=config.data.dir, cache_dir=config.data.cache_dir)
    return dataclasses.replace(base, data=data)


def _run_or_wait(run: Run, base: Config, folder: epath.Path) -> None:
    """Runs ``base``, or waits while another process does."""
    waiting = False
    while True:
        try:
            run(base, folder)
            return
        except storage.InUse as error:
            if jax.process_count() > 1 or storage.absolute(folder) != storage.absolute(error.folder):
                raise
            if not waiting:
                _LOG.info("waiting for the base: %s", error)
            waiting = True
            time.sleep(_POLL_S)


@preemption.interruptible()
def images_trained_on(init: str, folder: epath.Path, sources: Sequence[Source]) -> TrainedOn:
    """The images of ``sources``, and those that ``init`` was trained on, if it is a run or the export of one. Raises
    UserError if ``folder`` holds a run that has begun with other images."""
    before = weights.trained_on(init) if init else TrainedOn()
    if not sources:
        return before

    def find() -> TrainedOn:
        return TrainedOn.union([before, *map(training_images.of_source, sources)])

    def check(recorded: TrainedOn) -> None:
        for source in sources:
            was_read = len(source.items) <= training_images.MOST
            if was_read and (name := training_images.changed(source, recorded)):
                raise UserError(
                    f"{source.items.name}: the image {name} is another one than when the run in {folder} began; "
                    "restore it, or use another --workdir"
                )

    return run_folder.record_trained_on(folder, find, check)


@preemption.interruptible()
def make_start(config: Config, init: str, folder: epath.Path, sources: Sequence[Source], mesh: Mesh) -> Start:
    """Starts from ``init`` (see ``weights.load``), or from ``config.preset`` with random parameters and a tokenizer
    trained on the captions of ``sources``. Parameters are sharded over the mesh. With ``config.adapter.rank``, training
    goes on with the adapter that ``init`` is, or with a new one. Raises UserError for an adapter of other fields."""
    saved: Adapter | None = None
    if init and config.adapter.rank and sources:
        (sizes, params, processor), saved = weights.unmerged(init, sharding_for=param_sharding(mesh))
    elif init:
        sizes, params, processor = weights.load(init, sharding_for=param_sharding(mesh))
    else:
        sizes = presets.preset(config.preset)
        model = make_model(config, sizes, mesh)
        params = jax.jit(model.init, out_shardings=shardings(model.shapes(), mesh))(jax.random.key(config.seed))
        processor = _processor_from_scratch(sizes, folder, sources)
        sizes = dataclasses.replace(sizes, text=processor.ends(sizes.text))
    check_naflex(config, sizes)
    if sizes.image.naflex and config.data.max_patches:
        processor = dataclasses.replace(processor, max_patches=config.data.max_patches)
    sizes, new_bias = trained_sizes(config, sizes)
    for library, reason in export.obstacles(sizes).items():
        _LOG.warning("%s cannot hold this model as it is: %s", library, reason)
    if new_bias:
        params["logit_bias"] = jax.device_put(jnp.float32(0), NamedSharding(mesh, PartitionSpec()))
    adapter = _make_adapter(config, init, params, saved, mesh) if config.adapter.rank and sources else None
    is_stored = bool(init and sources) and adapter is None and not weights.is_computed(init)
    digest = adapters.digest(params) if is_stored else ""
    return Start(make_model(config, sizes, mesh), params, processor, new_bias, adapter, digest)


def _make_adapter(config: Config, init: str, params: Params, saved: Adapter | None, mesh: Mesh) -> Adapter:
    """The adapter ``saved`` in ``init``, else a new one of ``params``. Raises UserError if ``saved`` does not have the
    fields and layers of ``config.adapter``."""
    tree = new_adapter(config, params, mesh)
    if saved is None:
        return Adapter(tree, config.adapter, weights.absolute(init), adapters.digest(params))
    for field in ("rank", "alpha", "rslora"):
        if (ours := getattr(config.adapter, field)) != (found := getattr(saved.options, field)):
            raise UserError(
                f"config.adapter.{field} is {ours!r}, but the adapter {init} has {found!r}: set config.adapter.{field} "
                f"to {found!r}, or train a new adapter of the merged model (naturel-convert {init} FOLDER)"
            )
    chosen, found = ({path for path in tables.flatten(x) if "/" in path} for x in (tree, saved.params))
    if different := sorted(chosen ^ found):
        raise UserError(
            f"config.adapter.targets and the adapter {init} differ in {', '.join(different[:4])}: choose its layers"
        )
    return saved._replace(params=tree | saved.params)


def new_adapter(config: Config, params: Params, mesh: Mesh) -> Params:
    """A new adapter of ``params`` with ``config.adapter``; shapes if these are shapes."""
    shapes = adapters.shapes(params, config.adapter.rank, config.adapter.targets)
    make = jax.jit(
        lambda params: adapters.init(params, shapes, jax.random.key(config.seed)), out_shardings=shardings(shapes, mesh)
    )
    is_abstract = isinstance(jax.tree.leaves(params)[0], jax.ShapeDtypeStruct)
    return make.eval_shape(params) if is_abstract else make(params)


def model_sizes(config: Config, folder: epath.Path) -> TwoTowerConfig:
    """The sizes of the model that a run in ``folder`` starts from; its base need not be trained yet. A published
    checkpoint is not fetched if its name gives them. Raises what ``weights.load`` raises."""
    kind, _, name = config.init.partition(":")
    if config.preset:
        return presets.preset(config.preset)
    if kind == "base" and name in config.bases:
        base = config.bases[name]
        return trained_sizes(base, model_sizes(base, folder.parent / name))[0]
    if kind in ("base", "run"):
        run = folder.parent / name if kind == "base" else epath.Path(name)
        with malformed(run):
            return config_from_dict(runs.read_meta(run)[1]["model"])
    return presets.published(config.init) or weights.find(config.init).config


def trained_sizes(config: Config, sizes: TwoTowerConfig) -> tuple[TwoTowerConfig, bool]:
    """Sizes of the model to train, given ``sizes`` of the one it starts from, and whether it has a new logit bias."""
    if OBJECTIVES[config.objective.name].needs_bias and sizes.init_bias is None:
        return dataclasses.replace(sizes, init_bias=0.0), True
    return sizes, False


def _processor_from_scratch(sizes: TwoTowerConfig, folder: epath.Path, sources: Sequence[Source]) -> Processor:
    """The first process trains the tokenizer, until there is a checkpoint; all processes read it from the workdir."""
    path = folder / "processor.json"
    if jax.process_index() == 0 and not (path.name in storage.names(folder) and checkpoint.saved_steps(folder)):
        processor = from_scratch(sizes, (caption for source in sources for caption in source.items.texts))
        storage.write_json(path, processor.to_dict())
    multihost_utils.sync_global_devices("processor")
    with malformed(path):
        return Processor(**storage.read_json(path))
