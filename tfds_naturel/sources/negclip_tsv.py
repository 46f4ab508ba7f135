"""NegCLIP's own training file, ``train_neg_clip.tsv`` (title, filepath, neg_caption, neg_image), over COCO's images.

Of ``filepath`` only the last folder and the name are used: the file holds absolute paths of its authors' machine.
"""

import ast
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tfds_naturel import mining, order
from tfds_naturel.errors import UserError
from tfds_naturel.sources import coco
from tfds_naturel.sources.examples import Described, Negative, RecipeSource

_FILE = "train_neg_clip.tsv"


class _Row(NamedTuple):
    """``hard``: row numbers, from 0."""

    image: str
    title: str
    negatives: list[Negative]
    hard: list[int]


def read(folder: Path) -> Iterator[Described]:
    """The images that have a negative caption. Raises UserError for a file that is not as published."""
    for image, rows in _by_image(_rows(folder)).items():
        if described := coco.described(folder, image, [(row.title, row.negatives) for row in rows]):
            yield described


def hard_images(folder: Path) -> Iterator[mining.Row]:
    """For each image those of the rows in ``neg_image`` of its captions; nothing without that column.

    Images without a negative caption are not in the dataset, so they are left out. Raises UserError for other numbers.
    """
    rows = _rows(folder)
    by_image = _by_image(rows)
    in_dataset = {image for image, captions in by_image.items() if any(row.negatives for row in captions)}
    for image, captions in by_image.items():
        for row in captions:
            if bad := [at for at in row.hard if not (isinstance(at, int) and 0 <= at < len(rows))]:
                raise UserError(
                    f"{folder / _FILE}: neg_image of {row.title!r:.80} has {bad[0]!r}; expected numbers of its "
                    f"{len(rows):,} rows"
                )
        numbers = [at for row in captions if row.negatives for at in row.hard]
        if hard := dict.fromkeys(rows[at].image for at in numbers if rows[at].image in in_dataset - {image}):
            names = [PurePosixPath(other).stem for other in hard]
            yield PurePosixPath(image).stem, "", names, ["negclip"] * len(names)


def _rows(folder: Path) -> list[_Row]:
    path, rows = folder / _FILE, []
    with path.open(encoding="utf-8", newline="") as f:
        for number, row in enumerate(csv.DictReader(f, delimiter="\t"), 2):
            try:
                image = "/".join(PurePosixPath(row["filepath"]).parts[-2:])
                negatives = [Negative(order.clean(text), "negclip") for text in ast.literal_eval(row["neg_caption"])]
                hard = list(ast.literal_eval(row.get("neg_image") or "[]"))
                rows.append(_Row(image, row["title"], negatives, hard))
            except (KeyError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise UserError(
                    f"{path}:{number}: {row!r:.200} ({type(error).__name__}: {error}); expected title, filepath, "
                    "neg_caption (a Python list of strings) and optionally neg_image (a list of row numbers)"
                ) from error
    return rows


def _by_image(rows: Iterable[_Row]) -> dict[str, list[_Row]]:
    by_image: dict[str, list[_Row]] = {}
    for row in rows:
        by_image.setdefault(row.image, []).append(row)
    return by_image


SOURCE = RecipeSource(
    "negclip_tsv",
    "COCO captions with the negative captions of NegCLIP's training file.",
    folder=coco.FOLDER,
    read=read,
    used=lambda folder: map(coco.number, _by_image(_rows(folder))),
    hard_images=hard_images,
)
