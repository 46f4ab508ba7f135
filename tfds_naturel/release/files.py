"""Writes the publishable part of a built NatuRel dataset, everything but the photos."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from tfds_naturel.common.builders import open_builder
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import new_folder
from tfds_naturel.common.progress import Progress
from tfds_naturel.common.schema import KINDS, POLARITIES, features
from tfds_naturel.open_images import plan
from tfds_naturel.release import pages as release_pages
from tfds_naturel.release.datasheet import Facts, Split
from tfds_naturel.release.pages import BOX, FIELDS, TEXTS

FILE_ROWS = 20_000
BATCH = 1_000  # rows in memory, and in a row group
_NAMES = {"kind": KINDS, "polarity": POLARITIES}  # stored as indices in the dataset, as names in the release
_SCHEMA = pa.schema(
    dict.fromkeys(TEXTS, pa.string())
    | {
        column: pa.list_(pa.struct({name: pa.type_for_alias(dtype) for name, dtype in fields.items()}))
        for column, fields in FIELDS.items()
    }
)
_IMAGE = pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()}))  # as `datasets` stores images


def release(
    dataset: epath.Path,
    out: Path,
    *,
    takedown: Path | None = None,
    with_images: bool = False,
    date: str,
    url: str | None = None,
    contact: str | None = None,
) -> Facts:
    """Writes the release of the prepared ``dataset`` to the new folder ``out``; returns the facts on its contents.

    ``takedown``: a list of image ids to leave out, besides the published one. ``with_images``: include the images of a
    drawn dataset. The ``date`` of publication (ISO 8601), its future ``url``, and the ``contact`` for takedown requests
    are stated in the pages. Raises UserError for a dataset that must not or cannot be published, and if ``out`` exists.
    """
    builder = _open(dataset)
    metadata = dict(builder.info.metadata)
    if with_images and "inputs" in metadata:
        raise UserError(
            f"--with_images: {dataset} has photos of others, whose licences do not allow us to publish them; leave it "
            "out, it is for drawn datasets"
        )
    removed = plan.taken_down(takedown)
    if out.exists() or out.is_symlink():
        raise UserError(f"--out {out}: exists; choose another folder, or remove it")
    with new_folder(out) as folder:
        splits = _write_splits(builder, folder, removed, with_images)
        facts = Facts(
            name=builder.info.full_name.rpartition("/")[0],
            version=str(builder.info.version),
            description=builder.info.config_description,
            notes=dict(builder.info.release_notes),
            metadata=metadata,
            splits=splits,
            built_bytes=sum(split.num_bytes for split in builder.info.splits.values()),
            removed=sorted(removed),
            left_out=_images(builder) - sum(split.images for split in splits.values()),
            has_images=with_images,
            date=date,
            url=url,
            contact=contact,
        )
        _write_pages(folder, facts)
    return facts


def _open(dataset: epath.Path) -> Any:
    """The builder of a dataset that may be published. Raises UserError for any other dataset."""
    import tensorflow_datasets as tfds  # slow to import, and `--help` does not need it

    builder = open_builder(dataset)
    metadata = builder.info.metadata or {}
    if "used" in metadata:
        raise UserError(
            f"--dataset {dataset}: has images and captions of COCO or Winoground, which must not be redistributed; "
            "publish the naturel-data-build command that made it"
        )
    if "options" not in metadata or repr(builder.info.features) != repr(features()):
        raise UserError(
            f"--dataset {dataset}: not a NatuRel dataset of the current format; run naturel-data-build again, with "
            "another --data_dir"
        )
    if builder.info.file_format != tfds.core.file_adapters.FileFormat.ARRAY_RECORD:
        raise UserError(
            f"--dataset {dataset}: its format is {builder.info.file_format.value}, expected array_record; run "
            "naturel-data-build again, without --format and with another --data_dir"
        )
    return builder


def _write_splits(builder: Any, folder: Path, removed: frozenset[str], with_images: bool) -> dict[str, Split]:
    """Writes the Parquet files; returns the contents of every non-empty split."""
    import tensorflow_datasets as tfds

    (folder / "data").mkdir()
    schema = _SCHEMA.append(_IMAGE) if with_images else _SCHEMA
    splits: dict[str, Split] = {}
    with Progress(total=_images(builder), unit="image", desc=folder.name) as progress:
        for name in builder.info.splits:
            source = builder.as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()})
            contents = Split()
            rows = _rows(source, removed, with_images, progress, contents)
            for number, first in enumerate(rows):  # the first row of each file
                path = folder / "data" / f"{name}-{number:05}"
                contents.arrow_bytes += _write_file(path, itertools.chain([first], rows), schema)
            if contents.images:
                contents.files = _named(sorted((folder / "data").glob(f"{name}-?????")))
                splits[name] = contents
    return splits


def _images(builder: Any) -> int:
    return sum(split.num_examples for split in builder.info.splits.values())


def _rows(
    source: Any, removed: frozenset[str], with_images: bool, progress: Progress, contents: Split
) -> Iterator[dict[str, Any]]:
    """The rows of a split that are not ``removed``, counted in ``contents``."""
    for n in range(len(source)):
        row = _row(source[n], with_images)
        progress.update()
        if row["image_id"] not in removed:
            contents.add(row)
            yield row


def _write_file(path: Path, rows: Iterator[dict[str, Any]], schema: pa.Schema) -> int:
    """Writes at most ``FILE_ROWS`` rows; returns their size in memory, in bytes."""
    size = 0
    some = itertools.islice(rows, FILE_ROWS)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while batch := list(itertools.islice(some, BATCH)):
            table = pa.Table.from_pylist(batch, schema)
            writer.write_table(table)
            size += table.nbytes
    return size


def _named(paths: Sequence[Path]) -> dict[str, int]:
    """Adds the number of files to the names of a split's files; returns their sizes in bytes."""
    named = [path.rename(f"{path}-of-{len(paths):05}.parquet") for path in paths]
    return {path.name: path.stat().st_size for path in named}


def _row(example: dict[str, Any], with_images: bool) -> dict[str, Any]:
    """The example as a row of ``_SCHEMA``."""
    objects = dict(example["objects"])
    boxes = np.reshape(objects.pop("box"), (-1, 4))  # also without objects
    objects |= dict(zip(BOX, boxes.T, strict=True))
    captions = dict(example["captions"])
    captions |= {column: [names[n] for n in captions[column]] for column, names in _NAMES.items()}
    row = {name: example[name].decode() for name in TEXTS}
    columns = {"objects": objects, "relations": example["relations"], "captions": captions}
    row |= {name: list(_dicts(column)) for name, column in columns.items()}
    if with_images:
        row["image"] = {"bytes": example["image"], "path": f"{row['image_id']}.jpg"}
    return row


def _dicts(columns: dict[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield {k: v.decode() if isinstance(v, bytes) else v for k, v in zip(columns, values, strict=True)}


def _write_pages(folder: Path, facts: Facts) -> None:
    pages = release_pages.render(facts)
    counts = {
        name: {"images": s.images, "triplets": dict(sorted(s.triplets.items()))} for name, s in facts.splits.items()
    }
    metadata = facts.metadata | {"splits": counts, "taken_down": facts.left_out}
    pages["metadata.json"] = json.dumps(metadata, indent=1) + "\n"
    pages["croissant.json"] = json.dumps(release_pages.croissant(facts, _digests(folder)), indent=1) + "\n"
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")
    sums = "".join(f"{digest}  {name}\n" for name, digest in _digests(folder).items())
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, by relative path."""
    digests = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
