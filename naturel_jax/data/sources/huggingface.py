"""``hf:FOLDER`` or ``hf:OWNER/NAME``: a dataset saved by Hugging Face's ``datasets``, or one of the hub.

A saved dataset is read from its Arrow files, in which images are used where they are; downloading one needs the extra
``naturel_jax[hf]``.
"""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from naturel_jax.data.records import Row, Shard, Table
from naturel_jax.data.sources import arrow
from tfds_naturel.errors import UserError


def open_table(name: str, data_dir: str, split: str) -> Table:
    """The rows of ``split``; images are relative to the folder."""
    del data_dir
    folder = Path(name).expanduser()
    paths = _saved(folder, split) if folder.is_dir() else _downloaded(name, split)
    shards = [Shard(str(path), functools.partial(_rows, path)) for path in paths]
    return Table(f"hf:{name}:{split}", str(folder.resolve() if folder.is_dir() else paths[0].parent), paths, shards)


def _saved(folder: Path, split: str) -> list[Path]:
    """The Arrow files of a dataset that was saved with ``save_to_disk``."""
    dictionary = folder / "dataset_dict.json"
    if dictionary.exists():
        splits = json.loads(dictionary.read_text())["splits"]
        if split not in splits:
            raise UserError(f"hf:{folder} has no split {split!r}; expected one of: {', '.join(splits)}")
        folder = folder / split
    elif split != "train":
        raise UserError(f"hf:{folder} has no split {split!r}: it holds a single split, 'train'")
    if not (folder / "state.json").exists():
        raise UserError(f"hf:{folder}: no state.json; expected a folder written by datasets' save_to_disk")
    state = json.loads((folder / "state.json").read_text())
    return [(folder / Path(file["filename"]).name).resolve() for file in state["_data_files"]]  # none of another folder


def _downloaded(name: str, split: str) -> list[Path]:
    """The Arrow files in the cache of ``datasets``."""
    try:
        import datasets  # optional
    except ImportError as error:
        raise UserError(f"hf:{name}: no such folder, and the hub needs: pip install 'naturel_jax[hf]'") from error
    try:
        dataset = datasets.load_dataset(name, split=split)
    except (ValueError, OSError) as error:
        raise UserError(f"hf:{name}, split {split!r}: {error}") from error
    return [Path(file["filename"]) for file in dataset.cache_files]


def _rows(path: Path) -> Iterator[Row]:
    with pa.memory_map(str(path)) as file:
        within = file.read_buffer()
        file.seek(0)
        yield from arrow.rows(pa.ipc.open_stream(file), within)
