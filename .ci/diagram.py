"""Draws docs/assets/batch_and_ring.svg: a batch with its counts, and the ring of devices.

python .ci/diagram.py      # make pages

The counts in its cells are those that ``losses.batch.cell_counts`` gives the losses.
"""

import html
import math
from pathlib import Path

import numpy as np

from naturel_jax.losses.batch import CaptionLabels, ImageLabels, cell_counts

# Two photos of a cat on a table and the blank image; the caption that both drew as their positive, and a hard negative
# of each.
IMAGES = (("photo", 1), ("another photo", 1), ("blank image (sentinel)", 2))
CAPTIONS = (("a cat on a table", 2), ("a table on a cat", 1), ("a cat under a table", 1))
POSITIVES, NEGATIVES = [[0], [0], [-1]], [[1], [2], [-1]]

_TIMES, _MINUS = "\u00d7", "\u2212"
_STYLE = """
svg { font: 13px system-ui, sans-serif; color-scheme: light dark; }
.page { fill: #ffffff; } text { fill: #1f2328; } .soft { fill: #59636e; } .line { stroke: #59636e; fill: none; }
.positive { fill: #c6ecd0; } .hard { fill: #ffd3d0; } .other { fill: #eceff2; } .images { fill: #d3e5fb; }
.captions { fill: #fde6b3; }
@media (prefers-color-scheme: dark) {
  .page { fill: #171c25; } text { fill: #e7eaf0; } .soft { fill: #a3adba; } .line { stroke: #a3adba; }
  .positive { fill: #1d5b34; } .hard { fill: #7d2b2b; } .other { fill: #2a323e; } .images { fill: #1f4470; }
  .captions { fill: #6b4e0e; }
}"""
_ALT = (
    "Left: a batch of three distinct images and three distinct captions; each cell says for how many pairs of the "
    "conventional batch it stands. Right: four devices in a ring; their images stay, blocks of captions go round."
)


def batch_and_ring() -> str:
    """The file. Always the same bytes."""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 330" role="img" aria-label="{_ALT}">',
            f"<title>{_ALT}</title>",
            f"<style>{_STYLE}</style>",
            '<rect class="page" width="860" height="330" rx="8"/>',
            *_batch(),
            *_ring(),
            "</svg>\n",
        )
    )


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{kind}">{html.escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" class="{kind}"/>'


def _batch() -> list[str]:
    """The cells, from ``cell_counts``; a copy that is no positive is a negative."""
    none = np.full((3, 1), -2)
    images = ImageLabels(np.float32([n for _, n in IMAGES]), np.int32(POSITIVES), np.int32(NEGATIVES), none + 1)
    captions = CaptionLabels(np.float32([n for _, n in CAPTIONS]), np.arange(3), none)
    positive_IU = np.asarray(cell_counts(images, captions, "published").positive_IU)
    total_IU = images.mult_I[:, None] * captions.mult_U
    drawn = [_text(20, 28, "A batch: two photos of a cat on a table, three captions", anchor="start")]
    for u, (caption, copies) in enumerate(CAPTIONS):
        words = caption.split(" a ")
        drawn.append(_text(252 + 104 * u, 66, f"“{words[0]}"))
        drawn.append(_text(252 + 104 * u, 82, f"a {words[1]}” {_TIMES} {copies}"))
    for i, (image, copies) in enumerate(IMAGES):
        drawn.append(_text(190, 126 + 60 * i, f"{image} {_TIMES} {copies}", anchor="end"))
        for u in range(3):
            positive, total = int(positive_IU[i, u]), int(total_IU[i, u])
            kind = "positive" if positive else "hard" if u in NEGATIVES[i] else "other"
            counts = [f"+{positive}"] * (positive > 0) + [f"{_MINUS}{total - positive}"] * (total > positive)
            drawn.append(_box(204 + 104 * u, 96 + 60 * i, 96, 52, kind))
            drawn.append(_text(252 + 104 * u, 126 + 60 * i, "  ".join(counts)))
    legend = (
        (60, "positive", "sampled as its positive"),
        (242, "hard", "as its hard negative"),
        (406, "other", "for another"),
    )
    for x, kind, name in legend:
        drawn.append(_box(x, 289, 14, 14, kind))
        drawn.append(_text(x + 20, 301, name, "soft", "start"))
    return drawn


def _ring() -> list[str]:
    """Four devices, clockwise from the top, and arrows from one to the next."""
    centre, radius, drawn = (690, 178), 98, [_text(560, 28, "The ring of devices", anchor="start")]
    head = '<path d="M0,0 L7,3.5 L0,7 z" style="fill: #808890"/>'
    drawn.append(
        f'<marker id="head" markerWidth="7" markerHeight="7" refX="6" refY="3.5" orient="auto">{head}</marker>'
    )
    for n in range(4):
        angle = math.pi * (n / 2 - 0.5)
        x, y = centre[0] + 1.1 * radius * math.cos(angle), centre[1] + radius * math.sin(angle)
        drawn += [_box(x - 50, y - 27, 100, 24, "images"), _text(x, y - 10, f"images {n}")]
        drawn += [_box(x - 50, y + 1, 100, 24, "captions"), _text(x, y + 18, f"captions {n}")]
        start, end = angle + 0.62, angle + 0.98
        (x0, y0), (x1, y1) = ((centre[0] + 118 * math.cos(a), centre[1] + 106 * math.sin(a)) for a in (start, end))
        arc = f"M{x0:.1f},{y0:.1f} A118,106 0 0 1 {x1:.1f},{y1:.1f}"
        drawn.append(f'<path class="line" stroke-width="1.5" marker-end="url(#head)" d="{arc}"/>')
    drawn.append(_text(centre[0], centre[1] - 8, "images stay,", "soft"))
    drawn.append(_text(centre[0], centre[1] + 10, "captions travel:", "soft"))
    drawn.append(_text(centre[0], centre[1] + 28, "three hops", "soft"))
    return drawn


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs/assets/batch_and_ring.svg").write_text(batch_and_ring(), "utf-8")
