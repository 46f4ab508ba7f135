"""Writes small files in Open Images' published formats, for tests."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from tfds_naturel import build
from tfds_naturel.naturel import Naturel
from tfds_naturel.open_images import boxes as box_file
from tfds_naturel.open_images.annotations import COLUMNS
from tfds_naturel.open_images.releases import RELEASES

CLASSES = {
    **{"/m/01yrx": "Cat", "/m/04bcr3": "Table", "/m/0bt9lr": "Dog", "/m/04yx4": "Man", "/m/03bt1vf": "Woman"},
    **{"/m/0342h": "Guitar", "/m/01mzpv": "Chair", "/m/04dr76w": "Bottle", "/m/05r5c": "Piano"},
}
ATTRIBUTES = {"/m/083vt": "Wooden", "/m/05z87": "Plastic", "/m/02gy9n": "Transparent"}
PEOPLE = ("Man", "Woman", "Boy", "Girl")
POSES = ("Stand", "Sit", "Lay", "Walk", "Run", "Jump", "Smile", "Cry", "Sing", "Talk")
V6_CLASSES = CLASSES | {
    **{"/m/01bl7v": "Boy", "/m/05r655": "Girl", "/m/01g317": "Person", "/m/06k2mb": "High heels"},
    **{"/m/0h8n5zk": "Kitchen & dining room table", "/m/0271t": "Drink", "/m/06_fw": "Skateboard"},
}
V6_ATTRIBUTES = ATTRIBUTES | {"/m/0dnr7": "(made of)Textile", "/m/04lbp": "(made of)Leather"}
V6_ATTRIBUTES |= {f"/m/pose{n}": name for n, name in enumerate(POSES)}
_V6 = (
    "at contain holds ride on hang plays interacts_with wears is inside_of skateboard surf hits kick throw catch drink "
    "eat ski talk_on_phone dance handshake hug highfive read cut kiss holding_hands under snowboard"
)
V6_RELATIONS = tuple(_V6.split())
RELATIONS = ("at", "on", "holds", "plays", "interacts_with", "wears", "is", "inside_of", "under", "hits")

_IMAGE_COLUMNS = (
    "ImageID Subset OriginalURL OriginalLandingURL License AuthorProfileURL Author Title OriginalSize OriginalMD5 "
    "Thumbnail300KURL Rotation"
)

_MID = {name: mid for mid, name in (V6_CLASSES | V6_ATTRIBUTES).items()}
_VOCABULARIES = {"v4": (CLASSES, ATTRIBUTES, RELATIONS), "v6": (V6_CLASSES, V6_ATTRIBUTES, V6_RELATIONS)}


def image_id(n: int) -> str:
    """A valid image id; consecutive numbers are in different buckets."""
    return f"{n * 0x9E3779B97F4A7C15 % 2**64:016x}"


Corners = tuple[float, float, float, float]


def row(
    n: int,
    subject: str,
    relation: str,
    object_: str,
    box: Corners = (0.1, 0.5, 0.2, 0.6),
    box2: Corners = (0.3, 0.9, 0.4, 1),
) -> str:
    """One official CSV row; boxes are (XMin, XMax, YMin, YMax)."""
    box2 = box if relation == "is" else box2
    return ",".join([image_id(n), _MID[subject], _MID[object_], *map(str, (*box, *box2)), relation])


_CLICKS = tuple(f"XClick{n}{axis}" for axis in "XY" for n in range(1, 5))  # further columns of V6's box file


def box_row(n: int, label: str, box: Corners = (0.1, 0.5, 0.2, 0.6), *, group=0, depiction=0, inside=0) -> str:
    """One row of V4's box file; the flags are 0, 1, or -1 for unknown."""
    coordinates = (f"{x:.6f}" for x in box)
    return ",".join([image_id(n), "xclick", _MID[label], "1", *coordinates, f"0,0,{group},{depiction},{inside}"])


def _boxes_of(rows: Iterable[str]) -> Iterator[str]:
    """The boxes of the things in ``rows``, each once."""
    found = {}
    for name, one, two, *numbers, relation in (line.split(",") for line in rows if line.count(",") == 11):
        found[name, one, *numbers[:4]] = found[name, one if relation == "is" else two, *numbers[4:]] = True
    for name, mid, *numbers in found:
        yield ",".join([name, "xclick", mid, "1", *numbers, "0,0,0,0,0"])


def write_release(
    folder: Path, rows: Iterable[str], images: Iterable[int] = (), release: str = "v4", boxes: Iterable[str] = ()
) -> Path:
    """Writes the annotation folder of a release: ``rows``, the descriptions, metadata for ``images``, and a box for
    each thing of the rows, before ``boxes``."""
    rows = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    files = RELEASES[release]
    classes, attributes, relations = _VOCABULARIES[release]
    (folder / files.rows.name).write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    (folder / files.classes.name).write_text("".join(f"{mid},{name}\n" for mid, name in classes.items()))
    (folder / files.attributes.name).write_text("".join(f"{mid},{name}\n" for mid, name in attributes.items()))
    (folder / files.relations.name).write_text("".join(f"{label},{label}\n" for label in relations))
    clicks = _CLICKS if release == "v6" else ()
    lines = [",".join(box_file.COLUMNS + clicks), *(line + ",-1" * len(clicks) for line in (*_boxes_of(rows), *boxes))]
    (folder / files.boxes.name).write_text("\n".join(lines) + "\n")
    with (folder / files.images.name).open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(_IMAGE_COLUMNS.split())
        for n in images:
            license_, page = "https://creativecommons.org/licenses/by/2.0/", f"https://example.org/photo/{n}"
            title = 'a title, with "quotes"\nand a second line'
            writer.writerow(
                [image_id(n), "train", page, page, license_, page, f"Author {n}", title, 1, "==", page, "0.0"]
            )
    return folder


def photo(seed: int, width: int = 96, height: int = 64, quality: int = 90) -> bytes:
    """A JPEG of smooth random colours; equal seeds give the same content at any size and quality."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    pixels = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return simplejpeg.encode_jpeg(pixels, quality=quality)


def write_photos(folder: Path, photos: Mapping[int, bytes]) -> None:
    """Writes the photos of images by their numbers, where the fetcher does."""
    (folder / "images" / "train").mkdir(parents=True)
    for n, data in photos.items():
        (folder / "images" / "train" / f"{image_id(n)}.jpg").write_bytes(data)


_COMMON = [
    *(("Cat", "on", "Table"), ("Dog", "on", "Table"), ("Cat", "on", "Chair"), ("Man", "plays", "Guitar")),
    *(("Woman", "plays", "Guitar"), ("Man", "holds", "Bottle"), ("Woman", "holds", "Bottle")),
    *(("Man", "plays", "Piano"), ("Table", "is", "Wooden"), ("Chair", "is", "Wooden")),
    *(("Bottle", "is", "Plastic"), ("Chair", "is", "Plastic")),
]
_RARE = [("Dog", "on", "Chair"), ("Woman", "plays", "Piano"), ("Table", "is", "Plastic")]
WORLD_IMAGES = 90


def shown(n: int) -> list[tuple[str, str, str]]:
    """The triplets annotated for image ``n`` of the world, including a rare one for every seventh image."""
    return [_COMMON[n % 12], _COMMON[(n + 5) % 12]] + ([_RARE[n // 7 % 3]] if n % 7 == 0 else [])


def write_world(folder: Path) -> Path:
    """Writes a folder as left by the fetcher, with 90 images of two or three triplets.

    Image 0 has no photo, image 40 is image 2 at another quality, and the last image has no metadata.
    """
    rows = [row(n, *triplet) for n in range(WORLD_IMAGES) for triplet in shown(n)]
    write_release(folder / "annotations", rows, images=range(WORLD_IMAGES - 1))
    photos = {n: photo(n, 400, 300) for n in range(1, WORLD_IMAGES)}
    write_photos(folder, photos | {40: photo(2, 400, 300, quality=60)})
    return folder


def build_dataset(world: Path, data_dir: Path, *options: object, config: str = "full", name: str = "photos") -> Path:
    """Builds NatuRel from ``world``, as its command does; returns the dataset's folder."""
    command = [config, "--manual_dir", world, "--data_dir", data_dir, "--unofficial", "--name", name, *options]
    build.main([str(part) for part in command])
    return data_dir / "naturel" / name / str(Naturel.VERSION)
