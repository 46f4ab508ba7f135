"""The dataset card: what a built dataset holds, from its metadata alone."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from tfds_naturel.schema import PAIRS, Triplet

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# SPDX identifier and text, by the key of the metadata that only this source has.
_LICENCES = {
    "inputs": (
        "cc-by-4.0",
        "Annotations: Open Images, Google LLC, CC BY 4.0. Photos: each has its own licence, author and address in the "
        "features `license`, `author` and `source_url`; check them before you publish a photo.",
    ),
    "used": (
        "other",
        "Images and captions are the user's copies of COCO or Winoground, under the terms of their publishers. They "
        "must not be republished. Evaluation must leave out the items that metadata.json lists as `used`.",
    ),
    "options": ("apache-2.0", "Images are drawn by this code and carry its licence."),
}


def write(builder: "tfds.core.DatasetBuilder") -> epath.Path:
    """Writes ``README.md`` into a prepared dataset's folder; the same dataset gives the same bytes."""
    info, config = builder.info, builder.builder_config
    assert config is not None and info.metadata is not None  # NatuRel's builder has both
    sizes = {name: (split.num_examples, split.num_bytes) for name, split in info.splits.items()}
    path = epath.Path(builder.data_dir) / "README.md"
    card = render(info.full_name, config.description, sizes, info.metadata)
    path.write_text(card, encoding="utf-8")
    return path


def render(name: str, description: str, sizes: dict[str, tuple[int, int]], facts: dict[str, Any]) -> str:
    """The card in Markdown. ``sizes``: examples and bytes by split; ``facts``: the dataset's metadata."""
    spdx, licence = next(text for key, text in _LICENCES.items() if key in facts)
    captions = f"Every image has {2 * PAIRS} captions for each triplet it shows: four pairs of one true and one false."
    if "used" in facts:
        captions = "Every true caption of an image comes with the false ones made from it."
    parts = [
        f"---\nlicense: {spdx}\n---",
        f"# {name}\n\n{description} {captions}",
        "## Splits\n\n" + _table(["split", "images", "MB"], ([s, n, f"{b / 1e6:,.1f}"] for s, (n, b) in sizes.items())),
        f"## Licence\n\n{licence}",
        "## Options\n\n" + _table(["option", "value"], facts["options"].items()),
    ]
    if "inputs" in facts:
        parts += _photo_parts(facts)
    return "\n\n".join(parts) + "\n"


def _photo_parts(facts: dict[str, Any]) -> Iterable[str]:
    images, rows = facts["images"], facts["rows"]
    left_out = {"annotated images": images["annotated"], "of them without attribution": facts["unattributed"]}
    left_out |= {f"photo {kind}": count for kind, count in images["refused"].items()}
    left_out |= images["dropped"]
    left_out |= {"valid annotation rows": rows["valid"]}
    left_out |= {f"rejected rows: {kind}": count for kind, count in rows["rejected"].items()}
    counts = {Triplet.parse(text): _by_split(facts, text) for text in _triplets(facts)}
    splits = list(facts["splits"])
    by_relation: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for triplet, by_split in counts.items():
        by_relation[triplet.relation].update(by_split)
    yield "## Images\n\n" + _table(["", "count"], left_out.items())
    yield "## Input files\n\n" + _table(["file", "md5"], facts["inputs"].items())
    relations = _table(["relation", *splits], _rows(by_relation, splits))
    yield f"## Relations\n\nPairs of an image and a triplet it shows, by split.\n\n{relations}"
    yield (
        f"## Triplets\n\nImages by split, {len(counts)} triplets. {len(facts['held_out'])} are held out of training: "
        f"they are in `{splits[-1]}` only.\n\n{_table(['triplet', *splits], _rows(counts, splits))}"
    )


def _triplets(facts: dict[str, Any]) -> list[str]:
    return sorted({text for split in facts["splits"].values() for text in split["triplets"]})


def _by_split(facts: dict[str, Any], text: str) -> dict[str, int]:
    return {split: counts["triplets"].get(text, 0) for split, counts in facts["splits"].items()}


def _rows(counts: Mapping[Any, Mapping[str, int]], splits: Sequence[str]) -> Iterable[list[Any]]:
    for key, by_split in counts.items():
        yield [" ".join(key) if isinstance(key, Triplet) else key, *(by_split[split] for split in splits)]


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
