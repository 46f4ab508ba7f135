"""Published scores, and how to tell that a benchmark's items are those they were measured on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from naturel_jax.report.tables import PUBLISHED, Cell, Row

# The poster's items of NatuRel and ARO's random shuffles (coco_order, flickr30k_order) are not public, so no one can
# be scored on the same items as the published models: those benchmarks are not in ITEM_SETS.

_POSTER_1 = """
CLIP        0.59 0.47 0.52 0.31 0.36
SigLIP      0.46 0.38 0.49 0.14 0.12
SigLIP-TP   0.53 0.45 0.31 0.14 0.12
NegCLIP     0.81 0.87 0.62 0.31 0.31
NegCLIP-SP  0.65 0.70 0.84 0.19 0.23
NegCLIP-AP  0.80 0.99 0.84 0.28 0.33
"""
_POSTER_2 = """
CLIP        0.91 0.80 0.69 0.61 0.63 0.77 0.68
NegCLIP     0.93 0.86 0.76 0.76 0.75 0.89 0.83
NegCLIP-SP  0.89 0.74 0.68 0.60 0.62 0.81 0.66
NegCLIP-AP  0.91 0.83 0.73 0.69 0.72 0.84 0.76
"""
_POSTER_1_METRICS = (
    "vg_relation/macro",
    "naturel/simple",
    "naturel/complex",
    "winoground/text",
    "winoground/text/Object",
)
_POSTER_2_METRICS = tuple(f"sugarcrepe/{subset}" for subset in SUBSETS)

# Percent, from vl_compo (arXiv 2406.09388).
_VL_COMPO_MODELS = ("CLIP B/32", "NegCLIP B/32", "SigLIP B/16", "SigLIP L/16-256", "SigLIP SO400M/14")
_VL_COMPO = {
    "vg_relation/macro": (59.90, 81.76, 35.12, 36.53, 35.41),
    "vg_attribution/macro": (63.20, 72.07, 55.98, 62.89, 65.06),
    "coco_order/precision@1": (47.56, 82.56, 33.05, 33.95, 37.82),
    "flickr30k_order/precision@1": (59.56, 87.14, 39.78, 39.48, 41.52),
    "sugarcrepe/replace_obj": (90.92, 93.83, 95.34, 96.19, 96.19),
    "sugarcrepe/replace_att": (80.08, 87.94, 86.68, 85.91, 82.87),
    "sugarcrepe/replace_rel": (69.20, 74.40, 70.41, 69.99, 73.33),
    "sugarcrepe/swap_obj": (61.22, 75.92, 59.59, 68.57, 61.63),
    "sugarcrepe/swap_att": (63.96, 77.03, 71.47, 77.03, 76.88),
    "sugarcrepe/add_obj": (77.21, 90.06, 89.14, 90.59, 84.00),
    "sugarcrepe/add_att": (68.79, 85.12, 83.82, 82.95, 84.68),
    "winoground/text": (31.25, 30.25, 33.00, 37.25, 38.50),
    "winoground/image": (11.00, 11.00, 12.75, 15.25, 20.25),
    "winoground/group": (8.75, 8.00, 10.25, 13.75, 15.75),
    "whatsup/A": (30.58, 33.25, 27.91, 26.70, 27.67),
    "whatsup/B": (30.88, 37.75, 27.21, 28.43, 28.43),
}


def _poster() -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    for text, metrics in ((_POSTER_1, _POSTER_1_METRICS), (_POSTER_2, _POSTER_2_METRICS)):
        for line in text.strip().splitlines():
            model, *values = line.split()
            rows.setdefault(model, {}).update(zip(metrics, map(float, values), strict=True))
    return rows


POSTER = _poster()
VL_COMPO = {
    model: {metric: values[n] / 100 for metric, values in _VL_COMPO.items()} for n, model in enumerate(_VL_COMPO_MODELS)
}
_SYSTEMS = {
    **{f"{model} (NatuRel poster)": scores for model, scores in POSTER.items()},
    **{f"{model} (arXiv 2406.09388)": scores for model, scores in VL_COMPO.items()},
}


class ItemSet(NamedTuple):
    """The items of a benchmark: their number, and the ``digest`` of the official files ('' where those are too large
    to be read here, and the number has to do)."""

    number: int
    digest: str = ""


ITEM_SETS = {
    "sugarcrepe": ItemSet(7_511, "71d4040639e9d68e03b1a1429701a041"),
    "winoground": ItemSet(400, "d3184fd1b21dfa48d49214c6e1f89f1e"),
    "vg_relation": ItemSet(23_937),
    "vg_attribution": ItemSet(28_748),
    "whatsup": ItemSet(4_958),
}


def digest(items: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Identifies a set of (item id, captions), whatever their order, case and spaces."""
    lines = sorted("\x1f".join((key, *(" ".join(text.split()).casefold() for text in texts))) for key, texts in items)
    return hashlib.blake2b("\n".join(lines).encode("utf-8", "replace"), digest_size=16).hexdigest()


def is_official(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ``rows`` (of ``results.load_items``) are the items that the published scores are about."""
    return benchmark in ITEM_SETS and matches(ITEM_SETS[benchmark], rows)


def matches(expected: ItemSet, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ``rows`` (of ``results.load_items``) are the items of ``expected``."""
    if len(rows) != expected.number:
        return False
    return expected.digest in ("", digest((row["id"], row["captions"] or ()) for row in rows))


def rows(benchmarks: Iterable[str]) -> list[Row]:
    """A row for each published system, with its scores on ``benchmarks``; systems without any are left out."""
    wanted = tuple(f"{benchmark}/" for benchmark in benchmarks)
    found = []
    for system, scores in _SYSTEMS.items():
        cells = {metric: Cell(value) for metric, value in scores.items() if metric.startswith(wanted)}
        if cells:
            found.append(Row(system, PUBLISHED, cells))
    return found
