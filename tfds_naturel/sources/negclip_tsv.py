"""NegCLIP's own training file, ``train_neg_clip.tsv`` (title, filepath, neg_caption, neg_image), over COCO's images.

Only the last folder and file name of ``filepath`` are used, since the file contains absolute paths from its authors'
machine.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tfds_naturel.captions import word_order
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import dict_rows, python_strings, reading_csv
from tfds_naturel.hard_images import mining
from tfds_naturel.sources import coco
from tfds_naturel.sources.examples import CaptionedImage, Negative, RecipeSource

_FILE = "train_neg_clip.tsv"


class _Line(NamedTuple):
    """A row of the file; ``hard``: row numbers, from 0, of its hard negative images."""

    image: str
    title: str
    negatives: list[Negative]
    hard: list[int]


def read(folder: Path) -> Iterator[CaptionedImage]:
    """The images that have a negative caption. Raises UserError for a file that is not as published."""
    for image, rows in _by_image(_rows(folder)).items():
        if captioned := coco.captioned_image(folder, image, [(row.title, row.negatives) for row in rows]):
            yield captioned


def hard_images(folder: Path) -> Iterator[mining.MinedRow]:
    """For each image, the images of the rows listed in ``neg_image`` of its captions; nothing without that column.

    Images without a negative caption are not in the dataset, so they are left out. Raises UserError for numbers that
    are not rows of the file.
    """
    rows = _rows(folder)
    by_image = _by_image(rows)
    in_dataset = {image for image, captions in by_image.items() if any(row.negatives for row in captions)}
    for image, captions in by_image.items():
        for row in captions:
            if bad := [n for n in row.hard if not (isinstance(n, int) and 0 <= n < len(rows))]:
                raise UserError(
                    f"{folder / _FILE}: neg_image of {row.title!r:.80} contains {bad[0]!r}; expected numbers of its "
                    f"{len(rows):,} rows"
                )
        numbers = [n for row in captions if row.negatives for n in row.hard]
        if hard := dict.fromkeys(rows[n].image for n in numbers if rows[n].image in in_dataset - {image}):
            names = [PurePosixPath(other).stem for other in hard]
            yield PurePosixPath(image).stem, "", names, ["negclip"] * len(names)


def _rows(folder: Path) -> list[_Line]:
    path, rows = folder / _FILE, []
    with reading_csv(path), path.open(encoding="utf-8", newline="") as f:
        for number, row in enumerate(dict_rows(f, delimiter="\t")[1], 2):
            try:
                image = "/".join(PurePosixPath(row["filepath"]).parts[-2:])
                if (texts := python_strings(row["neg_caption"])) is None:
                    raise ValueError("neg_caption is no list of strings")
                negatives = [Negative(word_order.clean(text), "negclip") for text in texts]
                hard = list(ast.literal_eval(row.get("neg_image") or "[]"))
                rows.append(_Line(image, row["title"], negatives, hard))
            except (KeyError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise UserError(
                    f"{path}:{number}: {row!r:.200} ({type(error).__name__}: {error}); expected title, filepath, "
                    "neg_caption (a Python list of strings) and optionally neg_image (a list of row numbers)"
                ) from error
    return rows


def _by_image(rows: Iterable[_Line]) -> dict[str, list[_Line]]:
    by_image: dict[str, list[_Line]] = {}
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
