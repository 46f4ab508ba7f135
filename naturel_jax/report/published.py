"""Published scores, and how to tell whether a benchmark's items are the ones that they were measured on."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from naturel_jax.report.tables import PUBLISHED, Cell, ModelRow
from tfds_naturel.common.files import read_tsv

# The poster's items of NatuRel and ARO's random shuffles (coco_order, flickr30k_order) are not public, so no one can
# be scored on the same items as the published models: those benchmarks are not in ITEM_SETS.


def _scores(file: str, unit: float = 1) -> dict[str, dict[str, float]]:
    """Model -> metric -> score, from a table whose scores are given times ``unit``."""
    rows = {row.pop("model"): row for row in read_tsv(Path(__file__).with_name(file))}
    return {model: {name: float(text) / unit for name, text in row.items() if text} for model, row in rows.items()}


POSTER = _scores("poster.tsv")
VL_COMPO = _scores("vl_compo.tsv", unit=100)  # arXiv 2406.09388, in percent
_SYSTEMS = {
    **{f"{model} (NatuRel poster)": scores for model, scores in POSTER.items()},
    **{f"{model} (arXiv 2406.09388)": scores for model, scores in VL_COMPO.items()},
}


class ItemSet(NamedTuple):
    """The items of a benchmark: their number, and the ``digest`` of the official files ('' where no one has read these
    here yet)."""

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
    """Whether ``rows`` (of ``results.load_items``) are known to be the items that the published scores were measured
    on: their number is not enough."""
    expected = ITEM_SETS.get(benchmark)
    return expected is not None and bool(expected.digest) and matches(expected, rows)


def matches(expected: ItemSet, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ``rows`` (of ``results.load_items``) are the items of ``expected``, as far as it identifies them."""
    if len(rows) != expected.number:
        return False
    return expected.digest in ("", digest((row["id"], row["captions"] or ()) for row in rows))


def rows(benchmarks: Iterable[str]) -> list[ModelRow]:
    """A row for each published system, with its scores on ``benchmarks``; systems without any are left out."""
    wanted = tuple(f"{benchmark}/" for benchmark in benchmarks)
    found = []
    for system, scores in _SYSTEMS.items():
        cells = {metric: Cell(value) for metric, value in scores.items() if metric.startswith(wanted)}
        if cells:
            found.append(ModelRow(system, PUBLISHED, cells))
    return found
