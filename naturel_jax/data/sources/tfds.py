"""``tfds:NAME/CONFIG``: a prepared TFDS dataset with any features, in ArrayRecord or TFRecord."""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from naturel_jax.data.items import prepared
from naturel_jax.data.items.records import Row, Shard, Table
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import read_regular


def has_caption_groups(directory: epath.Path) -> bool:
    """Whether the dataset has the features of ``tfds_naturel.common.schema``."""
    return b"polarity" in read_regular(Path(directory / "features.json"))


def open_table(directory: epath.Path, split: str) -> Table:
    """``split`` of the dataset prepared in ``directory``. Images stay encoded, and stay where they are."""
    name, records = prepared.open_split(directory, split)
    files = prepared.files(directory)
    read = functools.partial(_read_image, records)
    return Table(f"tfds:{name}", str(directory), files, [Shard(name, functools.partial(_rows, records))], read)


def _rows(records: prepared.Records) -> Iterator[Row]:
    return (_as_lists(records[n]) for n in range(len(records)))


def _as_lists(value: Any) -> Any:
    """Arrays and nested features as lists and dictionaries."""
    if isinstance(value, dict):
        return {key: _as_lists(inner) for key, inner in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _read_image(records: prepared.Records, n: int, field: Sequence[str]) -> bytes:
    for name in field:
        if name in records.features:
            return records.value(n, name)
    raise UserError(f"no image: none of the fields {', '.join(field)}")
