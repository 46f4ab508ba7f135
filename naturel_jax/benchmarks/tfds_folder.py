"""Opens prepared TFDS folders. TFDS is imported when one is opened: it is slow, and few benchmarks need it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.benchmarks.files import BenchmarkError


class Opened(NamedTuple):
    """A split of a dataset: the dataset's features, and the examples, whose ``image`` is left encoded."""

    name: str
    features: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]]

    def image(self, index: int) -> Image:
        """The image of an example, read again when it is needed."""
        return Image(f"{self.name}:{index}", lambda: self.examples[index]["image"])


def is_prepared(folder: Path) -> bool:
    """Whether ``folder`` (``.../<name>/<config>/<version>``) holds a prepared dataset."""
    return (folder / "dataset_info.json").exists()


def open_split(folder: Path, splits: Sequence[str]) -> Opened:
    """The first of ``splits`` that the dataset in ``folder`` has. Raises BenchmarkError when it has none of them."""
    if not is_prepared(folder):
        raise BenchmarkError(f"{folder}: not a prepared TFDS folder (it has no dataset_info.json)")
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    split = next((name for name in splits if name in builder.info.splits), None)
    if split is None:
        wanted = " or ".join(map(repr, splits))
        raise BenchmarkError(f"{folder}: no split {wanted}; it has {', '.join(builder.info.splits)}")
    examples = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return Opened(f"{folder}:{split}", builder.info.features, examples)
