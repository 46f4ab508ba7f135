"""The TFDS builder of NatuRel: one config per source of pictures, all with the features of ``schema.features``.

    Naturel(config="scenes", data_dir=...).download_and_prepare()

writes ArrayRecord files without TensorFlow; ``as_data_source()`` reads them.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from tfds_naturel import schema
from tfds_naturel.scenes import examples
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig

Examples = Iterator[tuple[str, dict[str, Any]]]


@dataclasses.dataclass(kw_only=True, eq=False)
class NaturelConfig(tfds.core.BuilderConfig):
    """A source of examples: ``splits()`` gives for every split an iterator of (key, example)."""

    splits: Callable[[], dict[str, Examples]]


def scenes(config: ScenesConfig) -> NaturelConfig:
    """The builder config of a drawn world. Worlds that differ need names that differ: the name is the folder on disk."""
    return NaturelConfig(
        name=config.name,
        description=f"Drawn scenes of {config.size} x {config.size} pixels, seed {config.seed}.",
        splits=lambda: examples.splits(config),
    )


class Naturel(tfds.core.GeneratorBasedBuilder):
    """Pictures with object relations, each described by pairs of true and false captions from simple to complex."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [scenes(config) for config in CONFIGS.values()]  # noqa: RUF012 (TFDS asks for a list)

    def __init__(self, *, file_format: str = "array_record", **options: Any):
        super().__init__(file_format=file_format, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(features=schema.features())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Examples]:
        return {split: self._generate_examples(rows) for split, rows in self.builder_config.splits().items()}

    def _generate_examples(self, rows: Examples) -> Examples:
        yield from rows
