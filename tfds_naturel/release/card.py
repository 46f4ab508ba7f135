"""The dataset card: describes a built dataset from its metadata alone."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath

from tfds_naturel.captions import bank, exchanges
from tfds_naturel.common import escape, pages
from tfds_naturel.common.files import unlinked
from tfds_naturel.common.schema import PAIRS, Triplet, facts_of

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

# SPDX identifier and licence text, by a metadata key that only this source has.
_LICENCES = {
    "inputs": (
        "cc-by-4.0",
        "Annotations: Open Images, Google LLC, CC BY 4.0. Photos: the features `license`, `author` and `source_url` "
        "give the licence, author and URL of each photo; check them before you publish one.",
    ),
    "used": (
        "other",
        "Images and captions are the user's copies of COCO or Winoground, under the terms of their publishers. They "
        "must not be redistributed. Evaluation must exclude the items listed under `used` in metadata.json.",
    ),
    "options": ("apache-2.0", "Images are drawn by this code and are covered by its licence."),
}


def write(builder: "tfds.core.DatasetBuilder") -> epath.Path:
    """Writes ``README.md`` to a prepared dataset's folder; the same dataset gives the same bytes."""
    info, config = builder.info, builder.builder_config
    assert config is not None and info.metadata is not None  # NatuRel's builder has both
    sizes = {name: (split.num_examples, split.num_bytes) for name, split in info.splits.items()}
    path = epath.Path(builder.data_dir) / "README.md"
    card = render(info.full_name, config.description, sizes, info.metadata)
    # One that is there stays as it is: caches of a dataset are made again if its files change.
    if not path.is_file() or path.read_bytes() != card.encode():
        if "://" not in str(path):  # no store has links
            unlinked(Path(path))
        path.write_text(card, encoding="utf-8")
    return path


def render(name: str, description: str, sizes: dict[str, tuple[int, int]], facts: dict[str, Any]) -> str:
    """The card in Markdown. ``sizes``: examples and bytes by split; ``facts``: the dataset's metadata."""
    spdx, licence = next(text for key, text in _LICENCES.items() if key in facts)
    captions = (
        f"Every image has {PAIRS} pairs of a true and a false caption for each triplet it shows, and some in several "
        "wordings."
    )
    if "inputs" in facts:
        edition = bank.edition(facts["options"])
        captions += (
            f" They are of the {edition} edition of the caption bank."
            if edition
            else " The caption bank is the user's."
        )
    if "used" in facts:
        captions = "Every true caption of an image comes with the false captions derived from it."
    parts = [
        f"---\nlicense: {spdx}\n---",
        f"# {name}\n\n{description} {captions}",
        "## Splits\n\n" + table(["split", "images", "MB"], ([s, n, f"{b / 1e6:,.1f}"] for s, (n, b) in sizes.items())),
        f"## Licence\n\n{licence}",
        "## Options\n\n" + table(["option", "value"], facts["options"].items()),
    ]
    if "inputs" in facts:
        parts += _photo_parts(facts)
    return "\n\n".join(parts) + "\n"


def _photo_parts(facts: dict[str, Any]) -> Iterable[str]:
    images = facts["images"]
    image_counts = {"annotated images": images["annotated"], "images without attribution": facts["unattributed"]}
    image_counts |= {f"photo {kind}": count for kind, count in images["refused"].items()}
    image_counts |= images["dropped"]
    for key, what in (("rows", "annotation rows"), ("boxes", "box rows")):
        image_counts |= {f"valid {what}": facts[key]["valid"]}
        image_counts |= {f"rejected {what}: {kind}": count for kind, count in facts[key]["rejected"].items()}
    splits, shown = list(facts["splits"]), {split: part["triplets"] for split, part in facts["splits"].items()}
    counts = {
        Triplet.parse(text): {split: triplets.get(text, 0) for split, triplets in shown.items()}
        for text in sorted(set().union(*shown.values()))
    }
    by_relation: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for triplet, by_split in counts.items():
        by_relation[triplet.relation].update(by_split)
    yield "## Images\n\n" + table(["", "count"], image_counts.items())
    yield "## Input files\n\n" + table(["file", "md5"], facts["inputs"].items())
    if untested := facts["untested"]:
        listed = escape.markdown(", ".join(untested))
        yield (
            "## Triplets that are not tested\n\nDescribed by a grammar alone, whose words tell true captions from "
            f"false ones, {len(untested)} triplets are left out of the test splits: {listed}."
        )
    relations = table(["relation", *splits], _rows(by_relation, splits))
    yield f"## Relations\n\nNumber of (image, triplet) pairs, by split.\n\n{relations}"
    exchanged = table(["kind", "relation", *splits], _exchanged(facts["exchanges"], splits))
    yield f"## Bindings and positions\n\nNumber of their caption pairs, by what they claim and by split.\n\n{exchanged}"
    yield (
        f"## Triplets\n\nNumber of images by split, {len(counts)} triplets. {len(facts['held_out'])} are held out of "
        f"training and appear only in `{splits[-1]}`.\n\n{table(['triplet', *splits], _rows(counts, splits))}"
    )


def _exchanged(counts: Mapping[str, Any], splits: Sequence[str]) -> Iterable[list[Any]]:
    """For each kind and relation, its number in each split."""
    found: dict[tuple[str, str], collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for split in splits:
        for kind, by_name in counts[split].items():
            for name, number in by_name.items():
                found[kind, exchanges.relations_of(facts_of(name))][split] += number
    for (kind, relation), by_split in sorted(found.items()):
        yield [kind, relation, *(by_split[split] for split in splits)]


def _rows(counts: Mapping[Any, Mapping[str, int]], splits: Sequence[str]) -> Iterable[list[Any]]:
    for key, by_split in counts.items():
        yield [" ".join(key) if isinstance(key, Triplet) else key, *(by_split[split] for split in splits)]


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; text is escaped, integers have thousands separators."""
    lines = pages.table(
        header, ((f"{x:,}" if isinstance(x, int) else escape.markdown(str(x)) for x in row) for row in rows)
    )
    return "\n".join(lines)
