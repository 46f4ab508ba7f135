"""The TFDS builder of NatuRel: one config per source of images, all with the features of ``schema.features``.

    Naturel(config="scenes", data_dir=...).download_and_prepare()

writes ArrayRecord files without TensorFlow; ``as_data_source()`` reads them. ``python -m tfds_naturel.build`` is the
command line.
"""

import contextlib
import dataclasses
import functools
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from etils import epath
from filelock import FileLock, Timeout

from tfds_naturel.common import extras, schema, spill
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining
from tfds_naturel.open_images import examples as photo_examples
from tfds_naturel.open_images import exchanges, plan
from tfds_naturel.open_images.plan import OpenImagesConfig
from tfds_naturel.release import card
from tfds_naturel.scenes import examples as drawn
from tfds_naturel.scenes import processes
from tfds_naturel.scenes.scene import CONFIGS, SPLITS, VERSION, ScenesConfig
from tfds_naturel.sources import coco_order, negclip_tsv, winoground_part
from tfds_naturel.sources import examples as recipe_examples
from tfds_naturel.sources.examples import RecipeSource

_LOG = logging.getLogger(__name__)

RECIPE_SOURCES = (coco_order.SOURCE, negclip_tsv.SOURCE, winoground_part.SOURCE)
HARD_IMAGES = "hard_images.parquet"  # in the dataset's folder, if its source lists hard negative images
Examples = Iterator[tuple[str, dict[str, Any]]]


class Shards(NamedTuple):
    """The (key, example) pairs of a split, in shards that can be built independently: ``examples(name)`` per name."""

    names: list[str]
    examples: Callable[[str], Examples]


class Contents(NamedTuple):
    """The contents of a dataset: its splits, facts for its metadata and card (JSON), a scratch folder to delete after
    the build, and the hard negative images that its source lists."""

    splits: dict[str, Shards]
    facts: dict[str, Any]
    scratch: Path | None = None
    hard_images: Iterator[mining.MinedRow] | None = None


@dataclasses.dataclass(kw_only=True, eq=False)
class NaturelConfig(tfds.core.BuilderConfig):
    """A source of examples. Raises UserError for a name that is not a valid folder name.

    ``prepare(dl_manager)`` reads its input below the manager's folders. ``options()`` returns everything that
    determines the contents, as JSON; it is stored with the dataset, so that one dataset is not mistaken for another.
    """

    prepare: Callable[[tfds.download.DownloadManager], Contents]
    options: Callable[[], dict[str, Any]]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise UserError(
                f"dataset name {self.name!r}: expected letters, digits and underscores only, such as 'mine'"
            )


def scenes(config: ScenesConfig) -> NaturelConfig:
    """The builder config of a drawn world. Different worlds need different names, since the name is the folder."""

    def prepare(dl_manager: tfds.download.DownloadManager) -> Contents:
        del dl_manager
        splits = {name: Shards([name], functools.partial(_drawn, config)) for name in SPLITS}
        facts = {"exchanges": {name: exchanges.count(drawn.exchanged(config, name)) for name in SPLITS}}
        return Contents(splits, facts if config.exchanges else {})

    return NaturelConfig(
        name=config.name,
        version=tfds.core.Version(VERSION),
        description=f"Drawn scenes of {config.size} x {config.size} pixels, seed {config.seed}.",
        prepare=prepare,
        options=config.options,
    )


def _drawn(config: ScenesConfig, split: str) -> Examples:
    """The examples of a split of a drawn world."""
    size = config.sizes[SPLITS.index(split)]
    return ((example["image_id"], example) for example in processes.examples(config, split, size))


def open_images(config: OpenImagesConfig) -> NaturelConfig:
    """The builder config of Open Images photos. Datasets that differ in any field need different names."""

    def prepare(dl_manager: tfds.download.DownloadManager) -> Contents:
        annotations = config.annotations or _manual_dir(dl_manager) / "annotations"
        images = config.images or _manual_dir(dl_manager) / "images" / "train"
        planned = plan.make(config, annotations, images, _work_folder(dl_manager, config))
        splits = {
            split: Shards(planned.prefixes, functools.partial(photo_examples.examples, planned, split))
            for split, counts in planned.facts["splits"].items()
            if counts["images"]  # TFDS cannot store an empty split; the card lists it
        }
        return Contents(splits, planned.facts, planned.scratch)

    return NaturelConfig(
        name=config.name,
        description=config.description,
        prepare=prepare,
        options=functools.partial(plan.options, config),
    )


def recipe_source(source: RecipeSource) -> NaturelConfig:
    """The builder config of another training source of the published recipes, reading the user's copy of its files."""

    def prepare(dl_manager: tfds.download.DownloadManager) -> Contents:
        folder = _manual_dir(dl_manager) / source.folder
        shards = Shards(["all"], lambda _: recipe_examples.examples(source, folder))
        used = {source.folder: sorted(source.used(folder))}
        return Contents(
            {"train": shards}, {"used": used}, hard_images=source.hard_images and source.hard_images(folder)
        )

    options = {"short_side": source.short_side, "quality": source.quality}
    return NaturelConfig(
        name=source.name, description=source.description, prepare=prepare, options=functools.partial(dict, options)
    )


def _manual_dir(dl_manager: tfds.download.DownloadManager) -> Path:
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError as error:  # TFDS raises it if the folder is unset, missing or empty
        raise UserError(f"--manual_dir: missing or empty; {Naturel.MANUAL_DOWNLOAD_INSTRUCTIONS}") from error


def _work_folder(dl_manager: tfds.download.DownloadManager, config: OpenImagesConfig) -> Path:
    """An empty folder for the bucket files and rejected rows; every Beam worker must be able to read it."""
    folder = Path(dl_manager.download_dir) / f"naturel-{config.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


OPEN_IMAGES = {
    config.name: config
    for config in (
        OpenImagesConfig("full", "Open Images V4: relations between objects, and attributes."),
        OpenImagesConfig("relations", "Open Images V4: relations between objects only.", kept="objects"),
        OpenImagesConfig("attributes", "Open Images V4: attributes of objects only.", kept="attributes"),
        OpenImagesConfig("full_v6", "Open Images V6: relations between objects, and attributes.", release="v6"),
    )
}


class Naturel(tfds.core.GeneratorBasedBuilder):
    """Images with object relations, each described by pairs of true and false captions, simple and complex."""

    VERSION = tfds.core.Version("4.1.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.0.0": "Eight captions for each triplet of an image, four pairs of a positive and a negative.",
        "2.0.0": "Captions come in numbered groups of any size (`group`); `triplet` may be empty, and `asserts` may "
        "name a fact that is not a triplet. NatuRel's own captions and images are unchanged since 1.0.0.",
        "3.0.0": "A caption may have several wordings, numbered by `paraphrase`; those numbered 0 are the captions of "
        "2.0.0.",
        "3.1.0": "Drawn worlds only: what their false captions claim is said as often of an image that shows it.",
        "4.0.0": "Open Images only: captions of the bank's third edition; groups of two further kinds, `binding` and "
        "`position`, follow those of the triplets; test splits of V6 have none by the grammar. Other sources are as in "
        "3.0.0.",
        "4.1.0": "Open Images only: bindings and positions are about classes that have a single box in the box file, "
        "which is no group, no depiction and not seen from inside; positions also of boxes of more than half of the "
        "image. Other captions, and other sources, are as in 4.0.0.",
    }
    BUILDER_CONFIGS: ClassVar[list[NaturelConfig]] = [
        *map(open_images, OPEN_IMAGES.values()),
        *map(scenes, CONFIGS.values()),
        *map(recipe_source, RECIPE_SOURCES),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "`python -m tfds_naturel.open_images.fetch --out MANUAL_DIR` downloads Open Images into it; put COCO and "
        "Winoground into MANUAL_DIR/coco and MANUAL_DIR/winoground, with their published layout"
    )

    def __init__(
        self,
        *,
        file_format: str = "array_record",
        use_beam: bool = False,
        check: Callable[[], None] = lambda: None,
        **options: Any,
    ):
        """``use_beam``: build the examples in an Apache Beam pipeline (``DownloadConfig(beam_options=...)``). Otherwise
        ``check`` is called before each example; if it raises, the build ends and its files are removed."""
        super().__init__(file_format=file_format, **options)
        self._use_beam, self._check = use_beam, check
        self._scratch: Path | None = None

    @property
    def config(self) -> NaturelConfig:
        """``builder_config``, which is None only for builders without configs."""
        assert self.builder_config is not None
        return self.builder_config

    def _log_download_bytes(self) -> None:
        """Nothing: TFDS would print "Downloading ... Unknown size", but nothing is downloaded."""

    _log_download_done = _log_download_bytes  # "downloaded and prepared"; commands say where a dataset is

    # In TFDS it is an instance of its logging decorator, not a function.
    def download_and_prepare(self, **options: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """TFDS's ``download_and_prepare``, but by one process at a time, free of TensorFlow for splits of any size, and
        without bars in logs. Raises UserError while another process builds the dataset."""
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        mode = (options.get("download_config") or tfds.download.DownloadConfig()).download_mode
        # A dataset has its name once it is whole. Those who only open it would refuse one another for the lock.
        is_finished = epath.Path(self.data_dir).exists() and mode == tfds.GenerateMode.REUSE_DATASET_IF_EXISTS
        with contextlib.nullcontext() if is_finished else self._only_builder(), spill.local_files():
            super().download_and_prepare(**options)

    @contextlib.contextmanager
    def _only_builder(self) -> Iterator[None]:
        """Holds the lock beside the dataset, and removes what killed builds have left: nobody writes there now. An
        object store has no locks."""
        folder = epath.Path(self.data_dir)
        with contextlib.ExitStack() as stack:
            if "://" not in str(folder):
                self._lock(Path(folder), stack)
            for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
                left.rmtree()
                _LOG.info("removed %s, left by an interrupted build", left)
            yield

    def _lock(self, folder: Path, stack: contextlib.ExitStack) -> None:
        lock = folder.with_name(".lock")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock).acquire(blocking=False))
            stack.callback(lock.unlink, missing_ok=True)  # before it is released: nobody gets one that is gone
        except Timeout as error:
            raise UserError(f"{folder}: another process is building it; wait for it, or stop it") from error
        except OSError:
            pass  # a file system without locks; or nothing can be written, and a finished dataset is used

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=schema.features(), metadata=tfds.core.MetadataDict())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        source = self.config.prepare(dl_manager)
        self._scratch = source.scratch
        if source.hard_images:  # into the temporary folder that TFDS renames at the end
            mining.save(epath.Path(self.data_dir) / HARD_IMAGES, source.hard_images)
        assert self.info.metadata is not None  # set by _info
        self.info.metadata.update(source.facts | {"options": self.config.options()})
        return {split: self._generate_examples(shards) for split, shards in source.splits.items()}

    def _generate_examples(self, shards: Shards) -> Any:
        """An iterator of (key, example), or the Beam transform that yields them."""
        if self._use_beam:
            beam = extras.library("apache_beam", "build")
            return beam.Create(shards.names) | beam.FlatMap(shards.examples)
        return self._checked(pair for name in shards.names for pair in shards.examples(name))

    def _checked(self, examples: Examples) -> Examples:
        try:
            for example in examples:
                self._check()
                yield example
        except RuntimeError:  # a process that draws has ended, perhaps by a signal that is to end this one too
            self._check()
            raise

    def _post_download_and_prepare_hook(self) -> None:
        if self._scratch:
            shutil.rmtree(self._scratch)
        card.write(self)
