"""EqBen: minimally different video frames and renderings, scored like Winoground (Wang et al., arXiv 2303.14465)."""

import dataclasses
import io
import tokenize
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Origin, Source
from naturel_jax.benchmarks.files import (
    MAX_ID,
    BenchmarkError,
    Fields,
    Folder,
    Record,
    load_json,
    not_found,
    read_items,
)
from tfds_naturel.common.photos import MAX_PIXELS

SOURCE = Source(
    "Apache-2.0; images under the licences of their datasets",
    "https://github.com/Wangt-CN/EqBen (see its Google Drive links)",
    "eqben/*.json (the original annotation, or that of the 10% subset), eqben/images/<source>/",
    origins=(Origin("frames of videos, renderings, generated images", "https://arxiv.org/abs/2303.14465"),),
)
FIELDS: Fields = {"image0": str, "image1": str, "caption0": (str, list), "caption1": (str, list)}

_MAX_DEPTH = 8  # levels of an annotation file; official ones have up to 3


def read(folder: Path) -> Benchmark:
    """Reads the annotation files ``eqben/*.json`` (one for all sources, or one each) and ``eqben/images/``, where each
    source has a folder. Some sources store frames as ``.npy`` in BGR, and several captions per frame: the first
    is used.
    """
    root = folder / "eqben"
    files = sorted(root.glob("*.json"))
    if not files:
        raise not_found(root, "contains no *.json")
    images = Folder(root / "images")
    problems: list[str] = []
    items = [item for file in files for item in _items(file, images, problems)]
    metrics = rules.group_metrics("eqben", items, ["source"])
    return Benchmark("eqben", items, rules.two_by_two, metrics, problems=problems, chance=rules.GROUPS)


def _items(file: Path, images: Folder, problems: list[str]) -> list[Item]:
    def item(key: str, row: Record) -> Item:
        pair = tuple(_image(images, row[f"image{k}"]) for k in (0, 1))
        captions = tuple(_first(row[f"caption{k}"]) for k in (0, 1))
        return Item(f"{file.stem}{key}", pair, captions, {"source": PurePosixPath(row["image0"]).parts[0]})

    return read_items(file.name, _leaves(load_json(file, object), ""), FIELDS, item, problems)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The records of an annotation file: a list, or objects (video, subject) of lists."""
    if key.count("/") > _MAX_DEPTH or len(key) > MAX_ID:
        yield key, node
    elif isinstance(node, list):
        for n, child in enumerate(node):
            yield f"{key}/{n}", child
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, f"{key}/{name}")
    else:
        yield key, node


def _first(caption: str | list[Any]) -> str:
    if isinstance(caption, str):
        return caption
    if not caption or not isinstance(caption[0], str):
        raise BenchmarkError(f"caption is {caption!r:.80}, expected a string or a list of strings")
    return caption[0]


def _image(images: Folder, name: str) -> Image:
    image = images.image(name)
    return dataclasses.replace(image, read=_as_png(image.read)) if name.endswith(".npy") else image


def _as_png(read_npy: Callable[[], bytes]) -> Callable[[], bytes]:
    """A reader of the same image as a PNG with channels in RGB."""

    def read() -> bytes:
        try:
            bgr = np.load(io.BytesIO(read_npy()), allow_pickle=False, max_header_size=10_000)
        except (EOFError, SyntaxError, tokenize.TokenError, MemoryError, zipfile.BadZipFile) as error:
            raise ValueError(f"not an array ({error!r})") from error
        if not isinstance(bgr, np.ndarray):
            raise ValueError("an archive of arrays, expected one array")
        if bgr.dtype != np.uint8 or bgr.ndim != 3 or bgr.shape[2] != 3 or bgr.size > 3 * MAX_PIXELS:
            raise ValueError(f"array of {bgr.dtype} {bgr.shape}, expected uint8 [H, W, 3]")
        buffer = io.BytesIO()
        PIL.Image.fromarray(bgr[..., ::-1].copy()).save(buffer, "png", compress_level=1)
        return buffer.getvalue()

    return read
