"""Mined images as NegCLIP's own training code reads them: ``train_neg_clip.tsv`` with the columns title, filepath,
neg_caption (a list of captions) and neg_image (a list of row numbers, from 0), and the images as files.

Source: the ``neg_clip`` fork of OpenCLIP, which draws one of each list, so no list may be empty.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from naturel_jax.data.items import prepared
from naturel_jax.storage.state import partial
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.progress import Progress
from tfds_naturel.hard_images.mining import MinedRow

FILE = "train_neg_clip.tsv"
_COLUMNS = ("", "title", "filepath", "neg_caption", "neg_image")


def write(folder: Path, mined: Mapping[tuple[str, str], MinedRow], records: prepared.Records) -> tuple[int, int]:
    """Writes a row for each image and triplet in ``mined`` with a true and a false caption, and each of these images
    once; returns the number of rows, and of those that are left out, since none of their negatives has a row. Files
    that are there are replaced by whole ones, the table last.

    Raises UserError if the dataset's images cannot be files by their names.
    """
    rows: list[tuple[str, str, str, list[str]]] = []  # image, triplet, true caption, false ones
    number: dict[str, int] = {}
    for n in Progress(range(len(records)), "captions", len(records)):
        example = records[n]
        image = prepared.to_str(example["image_id"])
        if image in ("", ".", "..") or "/" in image:
            raise UserError(f"--negclip: image {image!r:.80} of the dataset is no name of a file; use the Parquet file")
        number[image] = n
        for group in prepared.caption_groups(example):
            for positive in group.positives[:1]:
                wrong = [caption.text for caption in group.negatives]
                if wrong and (image, positive.asserts) in mined:
                    rows.append((image, positive.asserts, positive.text, wrong))
    before = len(rows)
    while True:  # a row that goes may have been the only negative of another
        first: dict[str, int] = {}
        for place, (image, *_) in enumerate(rows):
            first.setdefault(image, place)
        listed = [[first[name] for name in mined[row[:2]][2] if name in first] for row in rows]
        if all(listed):
            break
        rows = [row for row, numbers in zip(rows, listed, strict=True) if numbers]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in first:
        with partial(epath.Path(folder / "images" / f"{image}.jpg")) as new:
            new.write_bytes(prepared.read_image(records, number[image]))
            new.replace(folder / "images" / f"{image}.jpg")
    with partial(epath.Path(folder / FILE)) as new:  # rows have no checksum: half a file would look like a whole one
        with open(new, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t")
            writer.writerow(_COLUMNS)
            for place, ((image, _, title, wrong), numbers) in enumerate(zip(rows, listed, strict=True)):
                writer.writerow([place, title, folder.absolute() / "images" / f"{image}.jpg", wrong, numbers])
        new.replace(folder / FILE)
    return len(rows), before - len(rows)
