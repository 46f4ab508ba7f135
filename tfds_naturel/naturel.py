"""The TFDS builder of NatuRel: one config per source of pictures, all with the features of ``schema.features``.

    Naturel(config="scenes", data_dir=...).download_and_prepare()

writes ArrayRecord files without TensorFlow; ``as_data_source()`` reads them. ``python -m tfds_naturel.build`` is the
command line.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from tfds_naturel import card, mining, photo_examples, plan, recipe_sources, schema, spill
from tfds_naturel.plan import OpenImagesConfig
from tfds_naturel.recipe_sources import RECIPES, RecipeConfig
from tfds_naturel.scenes import examples
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig

HARD_IMAGES = "hard_images.parquet"  # in the folder of a dataset whose source names some
Examples = Iterator[tuple[str, dict[str, Any]]]


class Shards(NamedTuple):
    """The (key, example) pairs of a split, in parts that can be made on their own: ``examples(name)`` of each name."""

    names: list[str]
    examples: Callable[[str], Examples]


class Source(NamedTuple):
    """What a dataset is made of: its splits, facts for its metadata and card (JSON), files needed until it is built,
    and the hard negative images that its source names."""

    splits: dict[str, Shards]
    facts: dict[str, Any]
    scratch: Path | None = None
    hard_images: Iterator[mining.Row] | None = None


@dataclasses.dataclass(kw_only=True, eq=False)
class NaturelConfig(tfds.core.BuilderConfig):
    """A source of examples.

    ``prepare(dl_manager)`` reads what it needs below the manager's folders. ``options()``: what decides the content,
    in JSON, kept with the dataset so that it is not mistaken for another one.
    """

    prepare: Callable[[tfds.download.DownloadManager], Source]
    options: Callable[[], dict[str, Any]]


def scenes(config: ScenesConfig) -> NaturelConfig:
    """The builder config of a drawn world. Worlds that differ need different names: the name is the folder on disk."""

    def prepare(dl_manager: tfds.download.DownloadManager) -> Source:
        del dl_manager
        splits = {
            split: Shards([split], lambda split: examples.splits(config)[split]) for split in examples.splits(config)
        }
        return Source(splits, {})

    return NaturelConfig(
        name=config.name,
        description=f"Drawn scenes of {config.size} x {config.size} pixels, seed {config.seed}.",
        prepare=prepare,
        options=functools.partial(dataclasses.asdict, config),
    )


def open_images(config: OpenImagesConfig) -> NaturelConfig:
    """The builder config of Open Images photos. Datasets that differ in any field need different names."""

    def prepare(dl_manager: tfds.download.DownloadManager) -> Source:
        annotations = config.annotations or Path(dl_manager.manual_dir) / "annotations"
        images = config.images or Path(dl_manager.manual_dir) / "images" / "train"
        planned = plan.make(config, annotations, images, _work_folder(dl_manager, config))
        splits = {
            split: Shards(planned.prefixes, functools.partial(photo_examples.examples, planned, split))
            for split, found in planned.facts["splits"].items()
            if found["images"]  # TFDS has no empty splits; the card tells
        }
        return Source(splits, planned.facts, planned.scratch)

    return NaturelConfig(
        name=config.name,
        description=config.description,
        prepare=prepare,
        options=functools.partial(plan.options, config),
    )


def recipe(config: RecipeConfig) -> NaturelConfig:
    """The builder config of another training source of the published recipes, over files that the user has."""

    def prepare(dl_manager: tfds.download.DownloadManager) -> Source:
        folder = Path(dl_manager.manual_dir) / config.folder
        shards = Shards(["all"], lambda _: recipe_sources.examples(config, folder))
        used = {config.folder: sorted(config.taken(folder))}
        return Source({"train": shards}, {"used": used}, hard_images=config.hard_images and config.hard_images(folder))

    options = {"short_side": config.short_side, "quality": config.quality}
    return NaturelConfig(
        name=config.name, description=config.description, prepare=prepare, options=functools.partial(dict, options)
    )


def _work_folder(dl_manager: tfds.download.DownloadManager, config: OpenImagesConfig) -> Path:
    """An empty folder for the bucket files and rejected rows; all Beam workers must see it."""
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
    """Pictures with object relations, each described by pairs of true and false captions from simple to complex."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [  # noqa: RUF012 (TFDS asks for a list)
        *map(open_images, OPEN_IMAGES.values()),
        *map(scenes, CONFIGS.values()),
        *map(recipe, RECIPES),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run `python -m tfds_naturel.fetch --split train --out MANUAL_DIR`: it fills MANUAL_DIR/annotations and "
        "MANUAL_DIR/images/train from Open Images' public servers. Then `--manual-dir MANUAL_DIR`. COCO's and "
        "Winoground's files are the user's: MANUAL_DIR/coco and MANUAL_DIR/winoground, laid out as published."
    )

    def __init__(self, *, file_format: str = "array_record", use_beam: bool = False, **options: Any):
        """``use_beam``: make the examples in an Apache Beam pipeline (``DownloadConfig(beam_options=...)``)."""
        super().__init__(file_format=file_format, **options)
        self._use_beam = use_beam
        self._scratch: Path | None = None

    def download_and_prepare(self, **options: Any) -> None:
        """TFDS's ``download_and_prepare``, for splits of any size also without TensorFlow."""
        with spill.local_files():
            super().download_and_prepare(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=schema.features(), metadata=tfds.core.MetadataDict())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        source = self.builder_config.prepare(dl_manager)
        self._scratch = source.scratch
        if source.hard_images:  # into the folder that TFDS renames when all is written
            mining.save(Path(self.data_dir) / HARD_IMAGES, source.hard_images)
        self.info.metadata.update(source.facts | {"options": self.builder_config.options()})
        return {split: self._generate_examples(shards) for split, shards in source.splits.items()}

    def _generate_examples(self, shards: Shards):
        if self._use_beam:
            import apache_beam as beam  # the build extra; only clusters need it

            return beam.Create(shards.names) | beam.FlatMap(shards.examples)
        return (pair for name in shards.names for pair in shards.examples(name))

    def _post_download_and_prepare_hook(self) -> None:
        if self._scratch:
            shutil.rmtree(self._scratch)
        card.write(self)
