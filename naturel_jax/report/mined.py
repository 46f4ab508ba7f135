"""The gallery of mined images: a page with a sample of the rows of a file, each image beside its negatives."""

import importlib.resources
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from naturel_jax import storage
from naturel_jax.data.images.thumbnail import thumbnail
from naturel_jax.evaluators.examples import SIDE
from tfds_naturel.common import escape, pages
from tfds_naturel.hard_images.mining import MinedRow


def sample(rows: Iterable[MinedRow], count: int, kept: list[MinedRow]) -> Iterator[MinedRow]:
    """Yields ``rows``; ``count`` of them, drawn at random with a fixed seed, are then in ``kept``, in any order."""
    rng = np.random.default_rng(0)
    for n, row in enumerate(rows):
        place = n if n < count else int(rng.integers(n + 1))
        if place < count:
            kept[place : place + 1] = [row]
        yield row


def write(path: epath.Path, rows: Sequence[MinedRow], read: Callable[[str], bytes], dropped: Mapping[str, int]) -> None:
    """Writes the page ``path``, which loads nothing. ``read``: the encoded image of an id; what is no image is
    named. ``dropped``: reason -> how many candidates were left out."""
    left_out = ", ".join(f"{reason} {number:,}" for reason, number in dropped.items() if number) or "none"
    cards = "".join(_card(row, read) for row in sorted(rows))
    listed = f'<ul class=cards style="grid-template-columns: 1fr">{cards}</ul>'
    body = f"<p>Candidates left out: {escape.html(left_out)}.</p>{listed}"
    template = importlib.resources.files("naturel_jax.report") / "report.html"
    title = f"{len(rows):,} of the rows of {path.stem}"
    storage.write(path, pages.fill(template, title=escape.html(title), body=body))


def _card(row: MinedRow, read: Callable[[str], bytes]) -> str:
    image, triplet, negatives, kinds = row
    frames = "".join(map(_frame, (image, *negatives), ("", *kinds), map(read, (image, *negatives))))
    title = f"<b>{escape.html(triplet)}</b> <small>{escape.html(image)}</small>"
    return f"<li><p>{title}</p><div class=frames>{frames}</div></li>"


def _frame(name: str, kind: str, data: bytes) -> str:
    name, kind = escape.html(name), escape.html(kind)
    try:
        small = thumbnail(data, SIDE)
    except ValueError:
        return f"<div>{name} is not a readable image <small>{kind}</small></div>"
    address = pages.data_uri(small.form, small.data)
    return f'<div><img loading="lazy" alt="{name}" src="{address}"><small>{kind}</small></div>'
