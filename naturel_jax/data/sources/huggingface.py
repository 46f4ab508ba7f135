"""``hf:FOLDER`` or ``hf:OWNER/NAME``: a dataset saved by Hugging Face's ``datasets``, or one on the hub.

A saved dataset is read from its Arrow files, without copying images; downloading one needs the extra
``naturel_jax[hf]``.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from naturel_jax.data.items.records import Row, Shard, Table
from naturel_jax.data.sources import arrow
from tfds_naturel.common.arrow_files import stream_batches
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular, parse_json


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The rows of ``split``; images are relative to the folder."""
    del data_dir
    folder = Path(name).expanduser()
    paths = _saved(folder, split) if folder.is_dir() else _downloaded(name, split)
    shards = [Shard(str(path), functools.partial(_rows, path)) for path in paths]
    root = folder.resolve() if folder.is_dir() else _cache()
    return Table(f"hf:{name}:{split}", str(root), paths, shards)


def _saved(folder: Path, split: str) -> list[Path]:
    """The Arrow files of a dataset that was saved with ``save_to_disk``."""
    dictionary = folder / "dataset_dict.json"
    if dictionary.exists():
        splits = _listed(dictionary, "splits")
        if split not in splits:
            raise UserError(f"hf:{folder} has no split {split!r}; expected one of: {', '.join(map(str, splits))}")
        folder = folder / split
    elif split != "train":
        raise UserError(f"hf:{folder} has no split {split!r}: it holds a single split, 'train'")
    if not (state := folder / "state.json").exists():
        raise UserError(f"hf:{folder}: no state.json; expected a folder written by datasets' save_to_disk")
    return [(folder / _file_name(state, file)).resolve() for file in _listed(state, "_data_files")]


def _file_name(state: Path, file: Any) -> str:
    """The name of a data file, which is in the folder of ``state`` whatever path is recorded."""
    name = file.get("filename") if isinstance(file, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{state}: the data file {file!r:.60} has no name; expected one written by save_to_disk")
    return Path(name).name


def _listed(path: Path, field: str) -> list[Any]:
    """The list in ``field`` of a JSON file."""
    check_regular(path)
    try:
        values = parse_json(path.read_text())[field]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: {error!r}; expected a file written by datasets' save_to_disk") from error
    if not isinstance(values, list):
        raise UserError(f"{path}: {field!r} is {values!r:.60}; expected a list")
    return values


def _downloaded(name: str, split: str) -> list[Path]:
    """The Arrow files in the cache of ``datasets``."""
    try:
        import datasets  # optional
    except ImportError as error:
        raise UserError(f"hf:{name}: no such folder, and the hub needs: pip install 'naturel_jax[hf]'") from error
    from datasets.exceptions import DatasetsError

    instead = "load it with datasets, save it with save_to_disk(FOLDER), and name hf:FOLDER"
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (ValueError, OSError, RuntimeError, DatasetsError) as error:  # RuntimeError: a script that it refuses to run
        raise UserError(f"hf:{name}, split {split!r}: {error}; if it needs more than a name, {instead}") from error
    return [Path(file["filename"]) for file in dataset.cache_files]


def _cache() -> Path:
    """The folder in which ``datasets`` keeps what it downloads."""
    from datasets import config

    return Path(config.HF_CACHE_HOME).expanduser().resolve()


def _rows(path: Path) -> Iterator[Row]:
    check_regular(path)
    with pa.memory_map(str(path)) as file:
        within = file.read_buffer()
        yield from arrow.rows(stream_batches(path, within), within)
