"""Reads every record of a source once, lists those that cannot be trained on, and records what identifies the images,
so that copies of them are left out of scores.

    naturel-data-check csv:photos.csv
    naturel-data-check csv:photos.csv --tags en_core_web_sm
    naturel-data-check webdataset:shards/{0000..0099}.tar --fields image=png positives=txt --workers 16

The list is kept with the source's index; training leaves its records out, up to ``config.data.max_bad`` of all. Exit
codes: 0 no record is bad, 3 some are, 2 a mistake in a flag or file.
"""

import argparse
import collections
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from naturel_jax.config.record_fields import Fields
from naturel_jax.config.schema import Data
from naturel_jax.config.settings import parse
from naturel_jax.data import datasets
from naturel_jax.data.images.augment import augment, sides
from naturel_jax.data.images.boxes import Box
from naturel_jax.data.items import columns, index, index_writer, slices, tags
from naturel_jax.data.items.items import Source
from naturel_jax.data.seen import identity, trained_on, training_images
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.storage import once, staging
from tfds_naturel.common import cli, escape
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger("naturel_jax.data.check")  # __name__ is __main__

SOME_BAD = 3  # exit code

_SHOWN = 20  # kinds of reasons
_JOBS = 16  # per process; progress is logged after each
_SIZE = 32  # pixels to which images are decoded, as in training; any size would do


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="as in config.data.mixture, for example csv:photos.csv")
    parser.add_argument("--fields", nargs="*", default=[], metavar="PART=NAME", help="as in config.data.mixture")
    parser.add_argument("--split", default="train")
    parser.add_argument("--data_dir", default="data", help="config.data.dir; the index is in its folder .cache")
    parser.add_argument("--cache_dir", default="", help="config.data.cache_dir, if data is in an object store")
    parser.add_argument("--tags", metavar="MODEL", help="also tag captions with a spaCy model, for the recipe swaps")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    options = parser.parse_args(arguments)
    cli.check_counts(options, "workers", most=1024)
    fields = parse(
        Fields, {part: name for part, _, name in (field.partition("=") for field in options.fields)}, "--fields"
    )
    bad, path, total = check(
        options.source, options.data_dir, options.split, fields, options.workers, options.cache_dir
    )
    if options.tags:
        print(f"{options.source}: captions tagged by {tags.write(path.parent, options.tags, options.workers)}")
    print(f"{options.source}: {len(bad):,} of {total:,} records are bad; the list is {path}")
    for line in summary(bad):
        print(line)
    if bad:
        print(_what_training_does(len(bad), total))
    return SOME_BAD if bad else cli.DONE


def _what_training_does(bad: int, total: int) -> str:
    """What ``index.open_source`` does with so many bad records, at the default ``max_bad``."""
    if bad == total:
        return "no record can be trained on"
    if bad <= Data.max_bad * total:
        return f"training leaves them out: config.data.max_bad is {Data.max_bad:g} by default"
    share = (1000 * bad // total + 1) / 1000
    return (
        f"training is refused with so many: config.data.max_bad is {Data.max_bad:g} by default. Repair them, or leave "
        f"them out with --config.data.max_bad={share:g}"
    )


def summary(bad: Sequence[index.Bad]) -> Iterator[str]:
    """A line for each kind of reason, the most frequent first: how often, one reason as it is, and its record; and a
    last line if there are more than ``_SHOWN`` kinds.

    Reasons are of a kind if they differ only in numbers and in what is quoted."""
    kinds = collections.defaultdict[str, list[index.Bad]](list)
    for row in bad:
        kinds[re.sub(r"(['\"]).*?\1|\d+", "#", row["reason"].replace(row["name"], "#"))].append(row)
    shown = sorted(kinds.values(), key=len, reverse=True)[:_SHOWN]
    for rows in shown:
        named = f"{rows[0]['name']}: {rows[0]['reason']}"
        yield f"{len(rows):10,}  {escape.line(named)}{' (the first of them)' if len(rows) > 1 else ''}"
    if more := len(bad) - sum(map(len, shown)):
        yield f"{more:10,}  for other reasons"


def check(
    source: str, data_dir: str, split: str, fields: Fields, workers: int, cache_dir: str = ""
) -> tuple[list[index.Bad], Path, int]:
    """Writes the list of bad records; returns it, its path, and the number of all records. Raises UserError."""
    table = datasets.open_unindexed(source, data_dir, slices.whole(split), cache_dir)
    if isinstance(table, Source):
        raise UserError(f"{source}: was checked when it was built; expected a table of records")
    folder = index_writer.folder_of(table, fields, os.fspath(staging.local_path(data_dir, cache_dir)))
    index_writer.build(table, fields, folder, workers)
    meta, bad = once.read_meta(folder), index.read_unusable(folder)
    left = np.delete(np.arange(meta["records"]), [row["record"] for row in bad])
    read = index.open_images(table, fields, folder, meta)
    names = columns.find_strings(folder, "names")
    jobs = [(read, names, numbers) for numbers in np.array_split(left, _JOBS * workers) if len(numbers)]
    done, seen = 0, list[TrainedOn]()
    for (_, _, numbers), (found, part) in zip(jobs, index_writer.parallel(_read, jobs, workers), strict=True):
        bad, done = bad + found, done + len(numbers)
        seen.append(part)
        _LOG.info("%s: read %s of %s images; %s bad", source, f"{done:,}", f"{len(left):,}", f"{len(bad):,}")
    bad.sort(key=lambda row: row["record"])
    path = index.write_bad(folder, bad)
    left_out = np.array([row["record"] for row in bad], np.int64)
    named = TrainedOn.of(training_images.names(names, left_out), images=len(names) - len(bad))
    TrainedOn.union([named, *seen]).save(epath.Path(folder / trained_on.FOLDER))
    return bad, path, meta["records"]


def _read(read: Callable[[int], bytes], names: Sequence[str], numbers: np.ndarray) -> tuple[list[index.Bad], TrainedOn]:
    """The images that cannot be read, and what identifies the others."""
    bad, seen, out = [], [], np.empty((_SIZE, _SIZE, 3), np.uint8)
    for n in numbers.tolist():
        try:
            data = read(n)
            width, height = sides(data)
            augment(data, width, height, Box(0, 0, width, height), out)
            seen.append(identity.look(data))
        except once.DamagedCopy:
            raise
        except (ValueError, OSError) as error:
            bad.append({"record": n, "name": names[n], "reason": str(error)})
    return bad, TrainedOn.of((), seen)


if __name__ == "__main__":
    cli.run(main)
