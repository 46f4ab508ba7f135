"""User-defined benchmarks, from a file of records or a folder of classes; no code is needed.

- ``pairs:FILE``: an image, true captions and false ones;
- ``groups:FILE``: two images and two captions, scored like Winoground;
- ``retrieval:FILE``: an image and its captions, in one record or in several, ranked among all those of the file;
- ``classes:FOLDER``: a folder of images for each class, named as the class is called in prompts.

A file is JSONL, CSV, TSV or Parquet, read like training data (``naturel_jax.data.items.records``). Image paths are
relative to its folder and must stay inside it. A bad record is reported with its line and field, and left out.

Shape letters: T true and F false captions of an item; a trailing 1 means another axis of length 1.
"""

import array
import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks import retrieval, rules, zeroshot
from naturel_jax.benchmarks.benchmark import Benchmark, Chance, Image, Item, Metric, Outcomes, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Folder
from naturel_jax.config.own_benchmarks import FIELDS, BenchmarkFields, Own
from naturel_jax.config.record_fields import Fields as RecordFields
from naturel_jax.data.images.decode import SUFFIXES
from naturel_jax.data.items import prepared
from naturel_jax.data.items.records import BadRecord, Chosen, Names, Record, Row, Table, choose, existing, to_record
from naturel_jax.data.sources import arrow, csv, jsonl, parquet
from naturel_jax.storage import staging
from naturel_jax.storage.object_stores import in_store
from tfds_naturel.common.arrow_files import parquet_batches
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import is_unicode, reading_arrow
from tfds_naturel.common.schema import POLARITIES

OPENERS: dict[str, Callable[[str, str, str], Table]] = {
    ".jsonl": jsonl.open_table,
    ".csv": csv.open_table,
    ".tsv": csv.open_table,
    ".parquet": parquet.open_table,
}

TRUE = "number of true captions"  # the tag that says it, of an item with several
_MOST_BAD = 10_000  # records that are left out and reported
_MOST_PAIRS = 10_000  # of a true and a false caption of an item, which are compared
_MOST_PAIRS_OF_ALL, _BYTES_OF_A_PAIR = 400_000, 4  # of all items, and bytes of the file for each further one
_ROWS = 64  # of a Parquet file, in memory at a time before they are items
_MOST_ROWS, _ROW = 25_000, 25  # of a Parquet file, and bytes of the file for each further one: an item takes 1 kB

Make = Callable[[str, Row], Item]  # (id, row) -> item


def read(own: Own, fields: BenchmarkFields, cache_dir: str = "") -> Benchmark:
    """Reads a benchmark; a file or folder in an object store is copied first, a file with everything in its folder.
    ``cache_dir``: see ``staging``. Raises UserError for a path that does not exist, a file of another kind, or one
    without a usable record, and what ``staging.stage`` raises."""
    if in_store(own.path):
        staging.stage(own.path if own.kind == "classes" else own.path.rpartition("/")[0], cache_dir)
        own = own._replace(path=str(staging.local_path(own.path, cache_dir)))
    return READERS[own.kind](own, fields)


def _pairs(own: Own, fields: BenchmarkFields) -> Benchmark:
    images, chosen = _ImageReader(own), choose(RecordFields(fields.image, fields.positives, fields.negatives))
    true: dict[str, int] = {}  # item id -> number of true captions

    def item(key: str, row: Row) -> Item:
        record = to_record(row, chosen, key)
        if not record.negatives:
            raise BenchmarkError(f"has no false caption in {_named(chosen, 'negatives')}; expected at least one")
        if (pairs := len(record.positives) * len(record.negatives)) > _MOST_PAIRS:
            raise BenchmarkError(f"has {pairs:,} pairs of a true and a false caption; expected at most {_MOST_PAIRS:,}")
        true[key], texts = len(record.positives), (*record.positives, *record.negatives)
        asked = {TRUE: str(true[key])} if len(texts) > 2 else {}  # the texts alone do not say which of them are true
        return Item(key, (images(record),), texts, _tags(row, fields) | asked)

    items, problems = _items(own, item)
    number = sum(true[item.id] * (len(item.captions) - true[item.id]) for item in items)
    if number > (most := _MOST_PAIRS_OF_ALL + Path(own.path).stat().st_size // _BYTES_OF_A_PAIR):
        raise BenchmarkError(
            f"{own}: {number:,} pairs of a true and a false caption; expected at most {most:,} in a file of this size: "
            "leave some of the captions out"
        )
    metrics = [Metric(f"{own.name}/accuracy", "right")]
    if any(len(item.captions) > 2 for item in items):
        metrics.append(Metric(f"{own.name}/pairs", "in_order"))
    metrics += _by_tags(own, fields, items, "right")
    numbers = {true[item.id] for item in items}
    first = numbers.pop() if len(numbers) == 1 else 0
    chance: Chance = {"right": lambda item: 1 / math.comb(len(item.captions), true[item.id]), "in_order": 1 / 2}
    return Benchmark(own.name, items, _in_order(true), metrics, problems=problems, true_captions=first, chance=chance)


def _in_order(true: Mapping[str, int]) -> Callable[[Sequence[Item], Sequence[np.ndarray]], Outcomes]:
    """``right``: every true caption scores strictly higher than every false one. ``in_order``: the share of (true,
    false) pairs in which the true one does. ``true``: item id -> number of true captions."""

    def parts(item: Item, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return s[0, : true[item.id], None], s[0, true[item.id] :]

    def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
        compared = [parts(item, s) for item, s in zip(items, cosines, strict=True)]
        higher = [true_T1 > false_F for true_T1, false_F in compared]
        return {
            "right": np.array([pairs.all() for pairs in higher], float),
            "in_order": np.array([pairs.mean() for pairs in higher]),
            "tie": np.array([(true_T1 == false_F).any() for true_T1, false_F in compared], float),
        }

    return outcomes


def _groups(own: Own, fields: BenchmarkFields) -> Benchmark:
    images, sides = _ImageReader(own), [_side(fields, k) for k in (0, 1)]

    def item(key: str, row: Row) -> Item:
        records = [to_record(row, chosen, key) for chosen in sides]
        for record, chosen in zip(records, sides, strict=True):
            if len(record.positives) > 1:
                names = _named(chosen, "positives")
                raise BenchmarkError(f"has {len(record.positives)} captions in {names}; expected one")
        captions = tuple(record.positives[0] for record in records)
        return Item(key, tuple(map(images, records)), captions, _tags(row, fields))

    items, problems = _items(own, item)
    metrics = [Metric(f"{own.name}/{score}", score) for score in rules.TWO_BY_TWO]
    for score in rules.STRICT:
        metrics += _by_tags(own, fields, items, score)
    return Benchmark(own.name, items, rules.two_by_two, metrics, problems=problems, chance=rules.GROUPS)


def _side(fields: BenchmarkFields, k: int) -> Chosen:
    """The fields of image ``k`` and of its caption."""
    image, caption = (getattr(fields, f"{part}_{k}") for part in ("image", "caption"))
    usual = {"image": (f"image_{k}", f"image{k}"), "positives": (f"caption_{k}", f"caption{k}"), "negatives": ()}
    named = choose(RecordFields(image, caption))
    given = {"image": bool(image), "positives": bool(caption), "negatives": False}
    return {**named, **{part: named[part] if given[part] else Names(names, False) for part, names in usual.items()}}


def _retrieval(own: Own, fields: BenchmarkFields) -> Benchmark:
    images, chosen = _ImageReader(own), choose(RecordFields(fields.image, fields.positives))
    chosen = {**chosen, "negatives": Names((), False)}

    def item(key: str, row: Row) -> Item:
        record = to_record(row, chosen, key)
        return Item(key, (images(record),), tuple(record.positives))

    items, problems = _items(own, item)
    joined: dict[str, tuple[str, Image, list[str]]] = {}
    for one in items:
        image = one.images[0]
        joined.setdefault(image.key, (one.id, image, []))[2].extend(map(str, one.captions))
    return retrieval.benchmark(own.name, list(joined.values()), None, problems)


def _classes(own: Own, fields: BenchmarkFields) -> Benchmark:
    del fields
    folder = existing(own.path, own.kind)
    if not folder.is_dir():
        raise BenchmarkError(f"{own}: is a file; expected a folder with a folder of images for each class")
    problems: list[str] = []
    names, labelled = zeroshot.labelled_images(folder, problems)
    captions = zeroshot.prompts(folder, names, zeroshot.templates_of(folder))
    items = tuple(
        Item(str(n), (image,), captions, {"label": str(label), "class": names[label]})
        for n, (image, label) in enumerate(labelled)
    )
    if not items:
        raise BenchmarkError(f"{own}: no images ({', '.join(sorted(SUFFIXES))}) in the folders of its classes")
    metrics = [Metric(f"{own.name}/top1", "top1"), Metric(f"{own.name}/mean_per_class", "top1", macro="class")]
    if len(names) > 5:
        metrics.append(Metric(f"{own.name}/top5", "top5"))
    metrics += by_value(f"{own.name}/class", "top1", "class", items)
    return Benchmark(own.name, items, zeroshot.outcomes, metrics, problems=problems, chance=zeroshot.CHANCE)


READERS: dict[str, Callable[[Own, BenchmarkFields], Benchmark]] = {
    "pairs": _pairs,
    "groups": _groups,
    "retrieval": _retrieval,
    "classes": _classes,
}


class _ImageReader:
    """The images of a file's records."""

    def __init__(self, own: Own):
        self._own, self._folder = own, Folder(Path(own.path).expanduser().parent)

    def __call__(self, record: Record) -> Image:
        if isinstance(record.image, str):
            return self._folder.image(record.image)
        data = record.image  # a cell of a Parquet file
        assert isinstance(data, bytes)
        return Image(f"{self._own.path}/{hashlib.sha1(data).hexdigest()}", lambda: data)


def _items(own: Own, make: Make) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """The items of the file's valid records, with line or record number as id, and what is wrong with the others."""
    path = existing(own.path, own.kind)
    if path.suffix.lower() not in OPENERS:
        raise BenchmarkError(f"{own}: expected a file with the suffix {', '.join(OPENERS)}")
    items: list[Item] = []
    problems: list[str] = []
    for place, number, row in _rows(path):
        try:
            items.append(make(str(number), row))
        except (BadRecord, BenchmarkError) as error:
            if len(problems) == _MOST_BAD:
                raise BenchmarkError(f"{own}: more than {_MOST_BAD:,} bad records; the first: {problems[0]}") from error
            where = "" if str(error).startswith("line ") else f"{place} {number}: "  # a CSV error names the line
            problems.append(f"{path.name} {where}{error}")
    if not items:
        problem = f"the first of {len(problems):,}: {problems[0]}" if problems else "it has none"
        if "no field " in problem:
            problem += f". Name its fields: --fields {own.name}.{FIELDS[own.kind][0]}=FIELD, or config.eval.fields"
        raise BenchmarkError(f"{own}: no record can be used; {problem}")
    return tuple(items), tuple(problems)


def _rows(path: Path) -> Iterator[tuple[str, int, Row]]:
    """("line" or "record", its number, row) of the file. Records are counted from 1 where lines are not known: in
    Parquet, and in a CSV file with line breaks in its cells."""
    table = OPENERS[path.suffix.lower()](str(path), "", "train")
    if path.suffix.lower() == ".parquet":  # rows may hold images: one at a time
        with reading_arrow(path, "copy or download it again"):
            size = path.stat().st_size
            for n, row in enumerate(arrow.rows(parquet_batches(path, _ROWS, kept=True)), 1):
                if n > (most := _MOST_ROWS + size // _ROW):
                    raise BenchmarkError(f"{path}: more than {most:,} rows in {size:,} bytes; save it as CSV or JSONL")
                yield "record", n, row
        return
    shards = [shard.rows for shard in table.shards]
    with path.open("rb") as file:
        lines = array.array("Q", (n for n, line in enumerate(file, 1) if line.strip()))
    lines = lines if path.suffix.lower() == ".jsonl" else lines[1:]  # the header
    named = "line" if len(lines) == sum(1 for read in shards for _ in read()) else "record"
    numbers: Iterable[int] = lines if named == "line" else itertools.count(1)
    yield from ((named, n, row) for n, row in zip(numbers, (row for read in shards for row in read()), strict=False))


def captions(path: str) -> Iterator[str]:
    """The true captions of training data: of a file, under the usual names of fields, or of the split ``train`` of a
    prepared NatuRel folder. Raises UserError for anything else, and naming the first record without a caption."""
    file = Path(path).expanduser()
    if (file / "dataset_info.json").is_file():
        records = prepared.open_split(file, "train").records
        if "captions" not in records.features:
            raise UserError(f"{path}: has no feature 'captions'; expected a prepared NatuRel folder, or a file")
        for rows in (records.value(n, "captions") for n in range(len(records))):
            texts = zip(rows["text"], rows["polarity"], strict=True)
            yield from (prepared.to_str(text) for text, which in texts if POLARITIES[which] == "positive")
        return
    if file.suffix.lower() not in OPENERS or not file.is_file():
        raise UserError(
            f"{path}: expected a file with the suffix {', '.join(OPENERS)}, or a prepared NatuRel folder, such as "
            "data/naturel/full/4.1.0"
        )
    chosen = choose(RecordFields())
    for place, number, row in _rows(file):
        try:
            yield from to_record(row, chosen, str(number)).positives
        except BadRecord as error:
            raise UserError(f"{path}, {place} {number}: {error}") from error


def _named(chosen: Chosen, part: str) -> str:
    return " or ".join(map(repr, chosen[part].fields))


def _tags(row: Row, fields: BenchmarkFields) -> dict[str, str | tuple[str, ...]]:
    """The values of the fields that ``fields.tags`` names; a record without one has no such tag."""
    tags: dict[str, str | tuple[str, ...]] = {}
    if isinstance(row, BadRecord):
        return tags
    for name in _tag_names(fields):
        value = row.get(name)
        if value is None or value in ("", []):
            continue
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str | int | float) for each in values) or not is_unicode(values):
            raise BenchmarkError(f"field {name!r} (tags) is {value!a:.80}, expected a string or several")
        tags[name] = tuple(map(str, values)) if isinstance(value, list) else str(value)
    return tags


def _tag_names(fields: BenchmarkFields) -> list[str]:
    return [name.strip() for name in fields.tags.split(",") if name.strip()]


def _by_tags(own: Own, fields: BenchmarkFields, items: Sequence[Item], outcome: str) -> list[Metric]:
    """``my/relation/on`` for each value of a tag; ``my/text/relation/on`` where there are several outcomes."""
    prefix = own.name if outcome == "right" else f"{own.name}/{outcome}"
    return [metric for tag in _tag_names(fields) for metric in by_value(f"{prefix}/{tag}", outcome, tag, items)]
