"""The gallery: a page that a browser opens without a server, with the images of a comparison embedded, or in a folder
next to it if there are many."""

import concurrent.futures
import hashlib
import importlib.resources
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.data.images.thumbnail import SMALL, thumbnail
from naturel_jax.report.pairs import Paired
from tfds_naturel.common import pages
from tfds_naturel.common.progress import Progress

THUMBNAIL = 640  # pixels of the longer side
EMBEDDED = 300  # most images in the page, some 20 MB, which still opens at once; more are written to a folder


def write(path: Path, a: str, b: str, benchmark: str, pairs: Sequence[Paired], images: Mapping[str, Image]) -> None:
    """Writes ``path``, and ``<stem>_images/`` if there are more than ``EMBEDDED`` images. ``images``: key -> image; one
    that is missing or cannot be read is shown as an empty frame.
    """
    keys = list(dict.fromkeys(key for pair in pairs for key in pair.images))
    folder = path.with_name(f"{path.stem}_images") if len(keys) > EMBEDDED else None
    (folder or path.parent).mkdir(parents=True, exist_ok=True)

    def address(key: str) -> tuple[str, int, int] | None:
        """(address in the page, width, height) of an image; None if it cannot be shown."""
        if key not in images:
            return None
        try:
            small = thumbnail(images[key].read(), THUMBNAIL)
        except (OSError, ValueError):
            return None
        if folder is None:
            return pages.data_uri(small.form, small.data), small.width, small.height
        name = f"{hashlib.blake2b(key.encode(), digest_size=10).hexdigest()}.{small.form}"
        (folder / name).unlink(missing_ok=True)  # a link could lead anywhere
        (folder / name).write_bytes(small.data)
        return f"{folder.name}/{name}", small.width, small.height

    with concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool:
        files = list(Progress(pool.map(address, keys), "thumbnails", len(keys)))
    number = {key: n for n, key in enumerate(keys)}
    groups = {group: n for n, group in enumerate(sorted({pair.group for pair in pairs}))}
    data = {
        "a": a,
        "b": b,
        "benchmark": benchmark,
        "small": SMALL,
        "thumbnails": files,
        "groups": list(groups),
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
            ]
            for pair in pairs
        ],
    }
    template = importlib.resources.files("naturel_jax.report") / "gallery.html"
    storage.write(epath.Path(path), pages.fill(template, data=pages.script_json(data)))
