"""Published scores of checkpoints, and how to tell whether a benchmark's items are the ones that they were measured on.

The rows of ``published.tsv`` are

- NatuRel's poster;
- arXiv 2406.09388: https://github.com/ytaek-oh/vl_compo at 43e2eae, ``individual_results.csv`` (``results.csv`` for all
  of ImageCoDe): the models that docs/benchmarks.md, Published numbers, says, on the benchmarks whose items and rule are
  ours, which ARO's random shuffles are not;
- arXiv 2410.05210: https://github.com/ytaek-oh/fsc-clip at 604015d, ``assets/extended_results.csv``: its two columns
  that are scores of ours.

``weights`` says where a model lies: sources of ``naturel_jax.load`` (``hf:owner/name``, also for OpenCLIP's files;
``preset:file`` for a file that has to be downloaded by hand) and addresses for people. ``reports``: whether reports
show the row.

``--known FILE`` adds others: JSON with ``REPOSITORY@REVISION`` -> the fields of ``Checkpoint``,

    {"google/siglip-large-patch16-256@main": {"name": "SigLIP L/16-256", "source": "hf:google/siglip-large-patch16-256",
      "scores": {"winoground/text": 0.3725}, "items": {"winoground": {"number": 400}}, "origin": "arXiv 2406.09388"}}
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from naturel_jax.benchmarks.files import Fields, Record, records
from naturel_jax.report.tables import PUBLISHED, Cell, ModelRow
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular, load_json, read_tsv


class ItemSet(NamedTuple):
    """The items of a benchmark: their number, and the ``digest`` of the official files ('' where no one has read these
    here yet)."""

    number: int
    digest: str = ""


# The poster's items of NatuRel are not public, so no one can be scored on the same items.
ITEM_SETS = {
    "sugarcrepe": ItemSet(7_511, "71d4040639e9d68e03b1a1429701a041"),
    "winoground": ItemSet(400, "d3184fd1b21dfa48d49214c6e1f89f1e"),
    "vg_relation": ItemSet(23_937),
    "vg_attribution": ItemSet(28_748),
    "whatsup": ItemSet(4_958),
    "valse": ItemSet(7_702, "a58bbff8794938dd2b9a86a6f788e5f3"),
    "colorswap": ItemSet(300),
    "imagecode": ItemSet(2_302, "45e7419b84953352233ad41959c928a7"),
    "coco_retrieval": ItemSet(5_000),
    "flickr30k_retrieval": ItemSet(1_000),
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """``name``: its row in the tables. ``source``: what ``naturel_jax.load`` reads; '' if that reads no such file.
    ``scores``: metric -> score in [0, 1]; ``origin``: who measured them; ``items``: benchmark -> the items that it was
    measured on. ``by_hand``: how to get a file that no program may download. ``same``: further sources of these
    weights. ``shown``: whether reports have a row for it."""

    name: str
    source: str
    scores: Mapping[str, float]
    origin: str
    items: Mapping[str, ItemSet] = dataclasses.field(default_factory=lambda: ITEM_SETS)
    by_hand: str = ""
    same: Sequence[str] = ()
    shown: bool = False

    @property
    def row(self) -> str:
        """Its name, and who measured it."""
        return f"{self.name} ({self.origin})"

    def is_at(self, source: str) -> bool:
        """Whether ``source`` names these weights."""
        return _place(source) in {_place(each) for each in (self.source, *self.same) if each}


def _place(source: str) -> str:
    """What ``source`` says of its weights: ``owner/name@revision`` on the hub, or preset and name of a file."""
    prefix, _, rest = source.partition(":")
    if prefix in ("hf", "open_clip"):
        name, _, revision = rest.partition("@")
        return f"{name}@{revision or 'main'}"
    return f"{prefix}:{rest.rpartition('/')[2]}" if rest else source


def _of_row(row: Mapping[str, str]) -> Checkpoint:
    scores = {metric: float(text) for metric, text in row.items() if "/" in metric and text}
    source, *same = [place for place in row["weights"].split() if "://" not in place] or [""]
    return Checkpoint(row["model"], source, scores, row["by"], same=same, shown=row["reports"] == "yes")


CHECKPOINTS = {one.row: one for one in map(_of_row, read_tsv(Path(__file__).with_name("published.tsv")))}


def read(path: Path | None) -> dict[str, Checkpoint]:
    """The checkpoints in the file ``path`` of ``--known``; none without a file. Raises UserError for a malformed
    file."""
    if path is None:
        return {}
    check_regular(path)
    rows = load_json(f"--known {path}", path.read_bytes(), f"expected {_FORM}")
    try:
        return {key: _parsed(key, fields) for key, fields in _records("the file", "the file's", rows, _FIELDS)}
    except ValueError as error:
        raise UserError(f"--known {path}: {error}; expected {_FORM}") from error


_FORM = "JSON as in docs/reproduce.md, Known scores: REPOSITORY@REVISION -> name, source, scores, items, origin"
_FIELDS = {"name": str, "source": str, "scores": dict, "items": dict, "origin": str}


def _records(what: str, of: str, rows: Any, fields: Fields) -> Sequence[tuple[str, Record]]:
    """The (key, record) of a JSON object of records. Raises ValueError for anything else."""
    if not isinstance(rows, dict):
        raise ValueError(f"{what} is {rows!r:.80}, expected an object")
    problems: list[str] = []
    found = list(records(of, rows.items(), fields, problems))
    if problems:
        raise ValueError(problems[0])
    return found


def _parsed(key: str, fields: Record) -> Checkpoint:
    scores = fields["scores"]
    for metric, value in scores.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise ValueError(f"{key}: score of {metric} is {value!r:.80}, expected a share from 0 to 1")
    rows = _records(f"{key}: items", f"{key}: the items'", fields["items"], {"number": int})
    items = {name: ItemSet(one["number"], str(one.get("digest", ""))) for name, one in rows}
    if unknown := {metric.split("/")[0] for metric in scores} - items.keys():
        raise ValueError(f"{key}: items of {min(unknown)} are missing")
    name, source, origin = (fields[field] for field in ("name", "source", "origin"))
    return Checkpoint(name, source, scores, origin, items, str(fields.get("by_hand", "")))


def find(source: str, checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The first checkpoint whose weights ``source`` names; None for a run, whatever it is called."""
    return None if source.startswith("run:") else next((one for one in checkpoints if one.is_at(source)), None)


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


def rows(
    benchmarks: Iterable[str], chosen: Callable[[Checkpoint], bool] = lambda checkpoint: checkpoint.shown
) -> list[ModelRow]:
    """A row for each ``chosen`` checkpoint, with its scores on ``benchmarks``; those without any are left out."""
    wanted = tuple(f"{benchmark}/" for benchmark in benchmarks)
    found = []
    for one in filter(chosen, CHECKPOINTS.values()):
        cells = {metric: Cell(value) for metric, value in one.scores.items() if metric.startswith(wanted)}
        if cells:
            found.append(ModelRow(one.row, PUBLISHED, cells))
    return found
