"""What the published recipes train on beside NatuRel: COCO captions with order shuffles, and a part of Winoground.

The files are the user's. A caption takes the place of a triplet (``391895|captioned|0``): eight captions, four pairs of
the caption and a wrong one; where there are fewer wrong ones, pairs repeat. ``used`` tells what a training set has
taken from a benchmark.
"""

import ast
import csv
import dataclasses
import functools
import itertools
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tfds_naturel import mining, order, photos
from tfds_naturel.schema import PAIRS, Caption, Triplet
from tfds_naturel.splits import uniform

Example = tuple[str, dict[str, Any]]

_AT_ONCE = 256  # images whose captions are tagged together
_WINOGROUND_SHARE = 0.5
_NEGCLIP = "train_neg_clip.tsv"
_COCO_URL = "http://images.cocodataset.org"


class Wrong(NamedTuple):
    """A wrong caption, what made it, and the triplet it asserts (None: no image shows what it says)."""

    text: str
    operation: str
    asserts: Triplet | None = None


class Described(NamedTuple):
    """An image with its captions, each with the wrong ones made from it. ``read`` gives the image's bytes."""

    image_id: str
    read: Callable[[], bytes]
    source_url: str
    captions: Sequence[tuple[Triplet, str, Sequence[Wrong]]]


@dataclasses.dataclass(frozen=True)
class RecipeConfig:
    """``read(folder)`` gives the images of the source; ``folder`` is below TFDS's manual_dir and names the collection.

    ``taken(folder)``: which items of the collection are used. ``hard_images(folder)``: the images that the source
    itself names as hard negatives, if any, in the form of ``mining.save``.
    """

    name: str
    description: str
    folder: str
    read: Callable[[Path], Iterator[Described]]
    taken: Callable[[Path], Iterable[str]]
    hard_images: Callable[[Path], Iterator[mining.Row]] | None = None
    short_side: int = 288
    quality: int = 92


def examples(config: RecipeConfig, folder: Path) -> Iterator[Example]:
    """(key, example) in the form of ``schema.features``. Raises ValueError for files that are not as published."""
    for image in config.read(folder):
        data = photos.to_jpeg(image.read(), config.short_side, config.quality)
        captions = [caption for group in image.captions for caption in _pairs(*group)]
        yield (
            image.image_id,
            {
                "image": data,
                "image_id": image.image_id,
                "license": "",
                "author": "",
                "source_url": image.source_url,
                "objects": [],
                "relations": [],
                "captions": [caption.as_features() for caption in captions],
            },
        )


def _pairs(triplet: Triplet, text: str, wrong: Sequence[Wrong]) -> Iterator[Caption]:
    for pair, (negative, operation, asserts) in enumerate(itertools.islice(itertools.cycle(wrong), PAIRS)):
        yield Caption(text, "complex", "positive", pair, triplet, triplet, "", "caption")
        yield Caption(negative, "complex", "negative", pair, triplet, asserts, operation, "caption")


def karpathy_train(folder: Path) -> Iterator[Described]:
    """COCO-Order for training: ``coco_karpathy_train.json`` as BLIP distributes it, and the image folders it names.

    Captions and shuffles are cleaned alike, as ARO does before scoring; shuffles that change nothing are left out.
    """
    images = iter(_karpathy_captions(folder).items())
    while some := list(itertools.islice(images, _AT_ONCE)):
        tagged = iter(order.spacy_tags([text for _, texts in some for text in texts]))
        for image, texts in some:
            wrong = [_shuffled(image, n, text, next(tagged)) for n, text in enumerate(texts)]
            yield from _coco_image(folder, image, list(zip(texts, wrong, strict=True)))


def _karpathy_captions(folder: Path) -> dict[str, list[str]]:
    path = folder / "coco_karpathy_train.json"
    captions: dict[str, list[str]] = {}
    for number, record in enumerate(json.loads(path.read_text("utf-8"))):
        image, texts = record.get("image"), record.get("caption")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(image, str) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{path}: record {number} is {record!r:.200}; expected an image path and its caption")
        captions.setdefault(image, []).extend(texts)
    return captions


def _shuffled(image: str, n: int, text: str, tagged: order.Tagged) -> list[Wrong]:
    rng = np.random.default_rng([zlib.crc32(image.encode()), n])
    shuffled = zip(order.SHUFFLES, map(order.clean, order.shuffles(text, tagged, rng)), strict=True)
    return [Wrong(wrong, operation) for operation, wrong in shuffled if wrong != order.clean(text)]


def _coco_image(folder: Path, image: str, captions: Sequence[tuple[str, list[Wrong]]]) -> Iterator[Described]:
    """The image with those of its captions that have a wrong one; nothing when none has."""
    number = coco_number(image)
    kept = [
        (Triplet(number, "captioned", str(n)), order.clean(text), wrong)
        for n, (text, wrong) in enumerate(captions)
        if wrong
    ]
    if kept:
        path = _inside(folder, image)
        yield Described(PurePosixPath(image).stem, path.read_bytes, f"{_COCO_URL}/{image}", kept)


def coco_number(image: str) -> str:
    """COCO's number of an image: ``val2014/COCO_val2014_000000391895.jpg`` is 391895. Raises ValueError."""
    digits = re.search(r"(\d{12})\.jpg$", image)
    if not digits:
        raise ValueError(f"{image!r}: not a COCO file name such as COCO_val2014_000000391895.jpg")
    return str(int(digits[1]))


def negclip_tsv(folder: Path) -> Iterator[Described]:
    """NegCLIP's own training file, ``train_neg_clip.tsv`` (title, filepath, neg_caption, neg_image), beside COCO's
    images.

    The last folder and the name of ``filepath`` count: the file holds absolute paths of its authors' machine.
    """
    for image, described in _by_image(_negclip_rows(folder)).items():
        yield from _coco_image(folder, image, [(row.title, row.wrong) for row in described])


def negclip_hard_images(folder: Path) -> Iterator[mining.Row]:
    """The images of the rows that the file's ``neg_image`` gives for each caption; those that are not in the dataset,
    for want of a negative caption, are left out. Nothing without that column."""
    rows = _negclip_rows(folder)
    by_image = _by_image(rows)
    kept = {image for image, described in by_image.items() if any(row.wrong for row in described)}
    for image, described in by_image.items():
        for n, row in enumerate(described):
            if bad := [at for at in row.hard if not (isinstance(at, int) and 0 <= at < len(rows))]:
                raise ValueError(
                    f"{folder / _NEGCLIP}: neg_image of {row.title!r:.80} has {bad[0]!r}; expected numbers of its "
                    f"{len(rows):,} rows"
                )
            hard = list(dict.fromkeys(rows[at].image for at in row.hard if rows[at].image in kept - {image}))
            if row.wrong and hard:
                triplet = Triplet(coco_number(image), "captioned", str(n))
                names = [PurePosixPath(other).stem for other in hard]
                yield PurePosixPath(image).stem, str(triplet), names, ["negclip"] * len(hard)


class _NegclipRow(NamedTuple):
    """``hard``: row numbers, from 0."""

    image: str
    title: str
    wrong: list[Wrong]
    hard: list[int]


def _negclip_rows(folder: Path) -> list[_NegclipRow]:
    path, rows = folder / _NEGCLIP, []
    with path.open(encoding="utf-8", newline="") as f:
        for number, row in enumerate(csv.DictReader(f, delimiter="\t"), 2):
            try:
                image = "/".join(PurePosixPath(row["filepath"]).parts[-2:])
                wrong = [Wrong(order.clean(text), "negclip") for text in ast.literal_eval(row["neg_caption"])]
                hard = list(ast.literal_eval(row.get("neg_image") or "[]"))
                rows.append(_NegclipRow(image, row["title"], wrong, hard))
            except (KeyError, TypeError, AttributeError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
                raise ValueError(
                    f"{path}:{number}: {row!r:.200} ({type(error).__name__}: {error}); expected title, filepath, "
                    "neg_caption (a Python list of strings) and perhaps neg_image (one of row numbers)"
                ) from error
    return rows


def _by_image(rows: Iterable[_NegclipRow]) -> dict[str, list[_NegclipRow]]:
    found: dict[str, list[_NegclipRow]] = {}
    for row in rows:
        found.setdefault(row.image, []).append(row)
    return found


def winoground_part(folder: Path) -> Iterator[Described]:
    """Both images of every item of ``_winoground_items``, the other image's caption as the wrong one."""
    archive = folder / "images.zip"
    with zipfile.ZipFile(archive) as images:
        members = {PurePosixPath(info.filename).stem: info for info in images.infolist() if not info.is_dir()}
        for item in _winoground_items(folder):
            said = [Triplet(str(item["id"]), "winoground", str(k)) for k in range(2)]
            for k in range(2):
                member = members.get(item[f"image_{k}"])
                if member is None or member.file_size > photos.MAX_BYTES:
                    limit = f"of at most {photos.MAX_BYTES:,} bytes"
                    raise ValueError(
                        f"{archive}: no image {item[f'image_{k}']!r} {limit}, which item {item['id']} needs"
                    )
                wrong = [Wrong(item[f"caption_{1 - k}"], "winoground", said[1 - k])]
                captions = [(said[k], item[f"caption_{k}"], wrong)]
                yield Described(f"{item['id']}-{k}", functools.partial(images.read, member), "", captions)


def _winoground_items(folder: Path) -> Iterator[dict[str, Any]]:
    """Half of the items in ``data/examples.jsonl``, chosen by their ids alone: the same half everywhere."""
    path = folder / "data" / "examples.jsonl"
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        item = json.loads(line)
        if missing := {"id", "image_0", "image_1", "caption_0", "caption_1"} - item.keys():
            raise ValueError(f"{path}:{number}: fields {sorted(missing)} are missing")
        if uniform(0, str(item["id"])) < _WINOGROUND_SHARE:
            yield item


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{relative!r} leads out of {folder}")
    return path


RECIPES = (
    RecipeConfig(
        "coco_order",
        "COCO captions (Karpathy train) with ARO's four order shuffles.",
        folder="coco",
        read=karpathy_train,
        taken=lambda folder: map(coco_number, _karpathy_captions(folder)),
    ),
    RecipeConfig(
        "negclip_tsv",
        "COCO captions with the negative captions of NegCLIP's training file.",
        folder="coco",
        read=negclip_tsv,
        taken=lambda folder: map(coco_number, _by_image(_negclip_rows(folder))),
        hard_images=negclip_hard_images,
    ),
    RecipeConfig(
        "winoground_part",
        "Half of Winoground's items, for training; the other half is left for evaluation.",
        folder="winoground",
        read=winoground_part,
        taken=lambda folder: (str(item["id"]) for item in _winoground_items(folder)),
    ),
)


def used(dataset: Path) -> dict[str, frozenset[str]]:
    """Which items a prepared dataset has taken from a benchmark, by collection: nothing for NatuRel itself.

    ``winoground``: item ids. ``coco``: image numbers, which COCO-Order, SugarCrepe and COCO retrieval may share.
    """
    path = dataset / "metadata.json"
    found = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {collection: frozenset(items) for collection, items in found.get("used", {}).items()}
