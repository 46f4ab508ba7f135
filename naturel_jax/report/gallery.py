"""The gallery: one HTML file and a folder of thumbnails next to it, which a browser opens without a server."""

import concurrent.futures
import hashlib
import importlib.resources
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image as PilImage
from tqdm import tqdm

from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.data.processor import open_image
from naturel_jax.report.pairs import Paired
from tfds_naturel import pages

THUMBNAIL = 320  # pixels of the longer side


def write(path: Path, a: str, b: str, benchmark: str, pairs: Sequence[Paired], images: Mapping[str, Image]) -> None:
    """Writes ``path`` and ``<stem>_images/``. ``images``: key -> image; one that is missing or cannot be read is shown
    as an empty frame.
    """
    keys = list(dict.fromkeys(key for pair in pairs for key in pair.images))
    folder = path.with_name(f"{path.stem}_images")
    folder.mkdir(parents=True, exist_ok=True)
    with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        thumbnails = pool.map(lambda key: _thumbnail(images.get(key), key, folder), keys)
        files = list(tqdm(thumbnails, "thumbnails", len(keys)))
    number = {key: n for n, key in enumerate(keys)}
    groups, patterns = _numbered(pair.group for pair in pairs), _numbered(pair.pattern for pair in pairs)
    data = {
        "a": a,
        "b": b,
        "benchmark": benchmark,
        "thumbnails": files,
        "groups": list(groups),
        "patterns": list(patterns),
        "items": [
            [
                pair.id,
                [number[key] for key in pair.images],
                pair.boxes,
                pair.captions,
                int(pair.a) + 2 * int(pair.b),
                [round(cosine, 4) for cosine in pair.cosines_a],
                [round(cosine, 4) for cosine in pair.cosines_b],
                groups[pair.group],
                patterns[pair.pattern],
            ]
            for pair in pairs
        ],
    }
    template = importlib.resources.files("naturel_jax.report").joinpath("gallery.html").read_text("utf-8")
    path.write_text(template.replace("{{data}}", pages.script_json(data)), "utf-8")


def _numbered(values: Iterable[str]) -> dict[str, int]:
    return {value: n for n, value in enumerate(sorted(set(values)))}


def _thumbnail(image: Image | None, key: str, folder: Path) -> tuple[str, int, int] | None:
    """(file relative to the gallery, width and height of the original image), or None."""
    if image is None:
        return None
    try:
        opened = open_image(image.read())
    except (OSError, ValueError):
        return None
    width, height = opened.size
    name = hashlib.blake2b(key.encode(), digest_size=10).hexdigest() + ".jpg"
    opened.thumbnail((THUMBNAIL, THUMBNAIL), PilImage.Resampling.LANCZOS)
    opened.save(folder / name, "jpeg", quality=82)
    return f"{folder.name}/{name}", width, height
