"""The gallery: a page that a browser opens without a server, with the images of a benchmark's items embedded, or in a
folder next to it if there are many."""

import concurrent.futures
import hashlib
import importlib.resources
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Metric
from naturel_jax.data.images.thumbnail import SMALL, thumbnail
from naturel_jax.evaluators import results
from naturel_jax.report.pairs import Judged, judge
from tfds_naturel.common import pages
from tfds_naturel.common.progress import Progress

FOLDER = "galleries"  # of an evaluation, in its results
THUMBNAIL = 640  # pixels of the longer side
EMBEDDED = 300  # most images in the page, some 20 MB, which still opens at once; more are written to a folder


def address(benchmark: str, model: str, metric: Metric) -> str:
    """Where a report finds the items that a model's score is about: those that it gets wrong, a press from the others;
    as in ``write_all``."""
    state = {"outcome": metric.outcome, "right": f"wrong:{model}"}
    state |= {"group": metric.where[1]} if metric.where else {}
    return f"{FOLDER}/{results.file_name(benchmark)}.html#{urllib.parse.urlencode(state)}"


def write_all(out: Path, benchmarks: Sequence[Benchmark]) -> list[str]:
    """Writes a gallery of each benchmark, with all models that have results in ``out``, to a folder there; returns the
    names of those with any."""
    (out / FOLDER).mkdir(exist_ok=True)
    found, written = results.load(out), []
    for benchmark in benchmarks:
        of_benchmark = [result for result in found if result.benchmark == benchmark.name]
        rows = [results.load_items(out, result.model, benchmark.name) for result in of_benchmark]
        outcomes = list(dict.fromkeys(m.outcome for result in of_benchmark[:1] for m in result.metrics.values()))
        if outcomes and all(rows) and (items := judge(rows, outcomes)):
            images = {image.key: image for item in benchmark.whole.items for image in item.images}
            page = out / FOLDER / f"{results.file_name(benchmark.name)}.html"
            write(page, [result.model for result in of_benchmark], benchmark.name, items, images, outcomes)
            written.append(benchmark.name)
    return written


def write(
    path: Path,
    models: Sequence[str],
    benchmark: str,
    items: Sequence[Judged],
    images: Mapping[str, Image],
    outcomes: Sequence[str] = ("right",),
) -> None:
    """Writes ``path``, and ``<stem>_images/`` if there are more than ``EMBEDDED`` images. ``images``: key -> image; one
    that is missing or cannot be read is shown as an empty frame. ``outcomes``: those of ``items``.
    """
    keys = list(dict.fromkeys(key for item in items for key in item.images))
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
    groups = {group: n for n, group in enumerate(sorted({item.group for item in items}))}
    data = {
        "models": list(models),
        "outcomes": list(outcomes),
        "benchmark": benchmark,
        "small": SMALL,
        "thumbnails": files,
        "groups": list(groups),
        "items": [
            [
                item.id,
                [number[key] for key in item.images],
                item.boxes,
                item.captions,
                [sum(right << n for n, right in enumerate(of)) if of else -1 for of in item.right],
                [[round(cosine, 4) for cosine in cosines] for cosines in item.cosines],
                groups[item.group],
            ]
            for item in items
        ],
    }
    template = importlib.resources.files("naturel_jax.report") / "gallery.html"
    storage.write(epath.Path(path), pages.fill(template, data=pages.script_json(data)))
