"""Reads the benchmarks that are rows of a table (``suites.py``): files with a record for each item (JSON, JSON lines or
CSV), images in a folder, and a rule that several benchmarks share.
"""

import dataclasses
import functools
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.benchmarks import retrieval, rules
from naturel_jax.benchmarks.benchmark import (
    Benchmark,
    Box,
    Chance,
    Entry,
    Image,
    Item,
    Metric,
    Outcomes,
    Source,
    by_value,
)
from naturel_jax.benchmarks.files import (
    Archive,
    BenchmarkError,
    Fields,
    Folder,
    Record,
    crop,
    load_csv,
    load_json,
    load_json_lines,
    numbered,
    read_items,
    strings,
)

_LOADERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    ".json": lambda path: load_json(path, list),
    ".jsonl": load_json_lines,
    ".jsonlines": load_json_lines,
    ".csv": load_csv,
}


class Rule(NamedTuple):
    """A rule with the outcome of each score; ``true``: how many of the captions, the first ones, are true of a single
    image."""

    outcomes: Callable[[Sequence[Item], Sequence[np.ndarray]], Outcomes]
    scores: Mapping[str, str]
    chance: Chance
    true: int = 0


PAIR = Rule(rules.pair, {"accuracy": "right"}, rules.PAIR, true=1)
CHOICE = Rule(rules.first_of_many, {"accuracy": "right"}, rules.FIRST, true=1)
GROUPS = Rule(rules.two_by_two, dict(zip(rules.TWO_BY_TWO, rules.TWO_BY_TWO, strict=True)), rules.GROUPS)


@dataclasses.dataclass(frozen=True)
class Format:
    """Where a benchmark's images and captions are in its records.

    ``rule``: None for retrieval.
    ``files``: part of the benchmark -> its file; "" for the only one.
    ``folders``: folders of images, with ``{part}`` for the part, or zip files; the first that has an image counts.
    ``images``, ``captions``: templates with fields of the record, such as ``{id}.jpg``.
    ``more_images``, ``more_captions``: the field with a list of further ones; in CSV, a Python list.
    ``answer``: the field with the index of the true image or caption; without it, the first is true.
    ``box``: the fields with left, top, width and height of the crop, in pixels.
    ``part``: what a part is called, for scores by part, such as "complexity".
    ``part_field``: the field with an item's part, if it is not that of its file.
    ``only``: a field, and the value it has in the records that count.
    ``records``: turns the values of a file into records.
    ``collection``: see ``Folder``.
    ``mean_of_parts``: a score is the mean over parts, not over items.
    """

    rule: Rule | None
    files: Mapping[str, str]
    folders: tuple[str, ...]
    images: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    more_images: str = ""
    more_captions: str = ""
    answer: str = ""
    box: tuple[str, ...] = ()
    part: str = ""
    part_field: str = ""
    only: tuple[str, str] | None = None
    records: Callable[[Iterable[Any]], Iterable[Any]] = iter
    collection: str = ""
    mean_of_parts: bool = False
    published: int | None = None


def entry(name: str, form: Format, source: Source) -> Entry:
    """The row of ``suite`` in the table of benchmarks."""
    return Entry(source, functools.partial(read, name=name, form=form))


def read(folder: Path, name: str, form: Format) -> Benchmark:
    """The benchmark ``name`` in ``folder``. Raises FileNotFoundError and UserError."""
    problems: list[str] = []
    items: list[Item] = []
    for part, file in form.files.items():
        path = folder / file
        rows = form.records(_LOADERS[path.suffix](path))
        make = functools.partial(_item, form, _opener(folder, form, part), part)
        items += read_items(path.name, numbered(rows), _fields(form), make, problems)
    if not form.rule:
        ranked = [(item.id, item.images[0], [str(caption) for caption in item.captions]) for item in items]
        return retrieval.benchmark(name, ranked, form.published, problems)
    return Benchmark(
        name,
        items,
        form.rule.outcomes,
        _metrics(name, form, form.rule, items),
        form.published,
        problems,
        true_captions=0 if len(form.images) != 1 or form.more_images else form.rule.true,
        chance=form.rule.chance,
    )


def _metrics(name: str, form: Format, rule: Rule, items: Sequence[Item]) -> list[Metric]:
    """The scores, and by part as in ``own``: ``name/part/value``, ``name/score/part/value`` unless it is "right"."""
    macro = form.part if form.mean_of_parts else None
    metrics = [Metric(f"{name}/{score}", outcome, macro=macro) for score, outcome in rule.scores.items()]
    for score, outcome in rule.scores.items() if form.part else ():
        prefix = name if outcome == "right" else f"{name}/{score}"
        metrics += by_value(f"{prefix}/{form.part}", outcome, form.part, items)
    return metrics


def _opener(folder: Path, form: Format, part: str) -> Callable[[str, Box | None], Image]:
    """Opens the image of a name, a crop of it if a box is given. Raises BenchmarkError for one that is missing."""
    paths = [folder / place.format(part=part) for place in form.folders]
    places = [Archive(path) if path.suffix == ".zip" else Folder(path, form.collection) for path in paths]

    def image(name: str, box: Box | None) -> Image:
        for place in places[:-1]:
            try:
                return dataclasses.replace(place.image(name), box=box)
            except BenchmarkError:
                continue
        return dataclasses.replace(places[-1].image(name), box=box)

    return image


def _names(templates: Iterable[str]) -> list[str]:
    """The fields in templates."""
    return [name for template in templates for _, name, _, _ in string.Formatter().parse(template) if name]


def _fields(form: Format) -> Fields:
    """The fields that a record must have, and their types."""
    numbers = [*_names(form.images), *form.box, form.answer]
    texts = [*_names(form.captions), form.part_field, *(form.only or ())[:1]]
    kinds = ((numbers, (str, int, float)), (texts, str), ((form.more_images, form.more_captions), (list, str)))
    return {name: kind for names, kind in kinds for name in names if name}


def _item(form: Format, image: Callable[[str, Box | None], Image], part: str, key: str, row: Record) -> Item | None:
    if form.only and row[form.only[0]] != form.only[1]:
        return None
    names = [*(template.format_map(row) for template in form.images), *_listed(row, form.more_images)]
    captions = [*(template.format_map(row) for template in form.captions), *_listed(row, form.more_captions)]
    tags = {form.part: row[form.part_field] if form.part_field else part} if form.part else {}
    if form.answer:
        tags["answer"] = answer = str(row[form.answer])
        choices = names if form.more_images else captions
        if answer not in map(str, range(len(choices))):
            raise BenchmarkError(f"field {form.answer!r} is {answer!r:.80}, expected an index below {len(choices)}")
        choices[:] = rules.true_first(choices, int(answer))
    if form.rule and len(names) * len(captions) < 2:
        raise BenchmarkError("has nothing to choose from; expected at least two images or captions")
    box = _box(row, form.box) if form.box else None
    key = f"{part}/{key}" if len(form.files) > 1 else key
    return Item(key, tuple(image(name, box) for name in names), tuple(captions), tags)


def _listed(row: Record, field: str) -> Sequence[str]:
    """The strings of a field; none without a field."""
    if not field:
        return ()
    if isinstance(row[field], str):
        return strings(field, row[field])
    if not row[field] or not all(isinstance(each, str) for each in row[field]):
        raise BenchmarkError(f"field {field!r} is {row[field]!r:.80}, expected strings")
    return row[field]


def _box(row: Record, fields: Sequence[str]) -> Box:
    try:
        return crop(*(float(row[field]) for field in fields))
    except (ValueError, OverflowError) as error:
        raise BenchmarkError(f"box {[row[field] for field in fields]!r:.80}: expected four numbers") from error
