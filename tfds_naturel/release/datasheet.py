"""Statements of a release about its dataset: counts, and the answers of its datasheet, from the builder's records."""

import collections
import dataclasses
from pathlib import Path
from typing import Any

from tfds_naturel.captions import bank
from tfds_naturel.common import escape
from tfds_naturel.common.files import read_tsv
from tfds_naturel.open_images import releases

_PEOPLE = frozenset({"Man", "Woman", "Boy", "Girl", "Person"})
_COUNTS = ("images", "objects", "relations", "captions")
_HUB = "the Community tab of the dataset's page on the Hugging Face hub"


@dataclasses.dataclass
class Split:
    """The contents of a split: counts, the number of images of each triplet, and sizes of its files in bytes."""

    images: int = 0
    objects: int = 0
    relations: int = 0
    captions: int = 0
    people: int = 0  # images with an object labelled as a person
    attributed: int = 0  # images whose licence is known
    triplets: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    licenses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    files: dict[str, int] = dataclasses.field(default_factory=dict)
    arrow_bytes: int = 0  # in memory

    def add(self, row: dict[str, Any]) -> None:
        """Counts a row of the release."""
        self.images += 1
        self.objects += len(row["objects"])
        self.relations += len(row["relations"])
        self.captions += len(row["captions"])
        self.people += any(thing["label"] in _PEOPLE for thing in row["objects"])
        self.attributed += bool(row["license"])
        shown = {"|".join((r["subject"], r["relation"], r["object"])) for r in row["relations"]}
        self.triplets.update(shown)
        self.licenses[row["license"]] += 1


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts for the pages: the dataset's name, version, description, release notes and metadata, the contents of its
    splits, its size with images, the takedown list and how many of the images were on it, and the publisher's words.
    """

    name: str
    version: str
    description: str
    notes: dict[str, str]
    metadata: dict[str, Any]
    splits: dict[str, Split]
    built_bytes: int
    removed: list[str]
    left_out: int
    has_images: bool
    date: str
    url: str | None
    contact: str | None

    @property
    def is_photos(self) -> bool:
        """Whether the images are photos of Open Images; otherwise they are drawn."""
        return "inputs" in self.metadata

    @property
    def title(self) -> str:
        """The name in a citation."""
        return f"NatuRel {self.name.rpartition('/')[2]} {self.version}"

    @property
    def files(self) -> dict[str, int]:
        """The sizes of the Parquet files, in bytes."""
        return {name: size for split in self.splits.values() for name, size in split.files.items()}

    def total(self, field: str) -> int:
        """The sum of a count over the splits."""
        return sum(getattr(split, field) for split in self.splits.values())

    def images_by(self, field: str) -> collections.Counter[str]:
        """Number of images per triplet (``triplets``) or licence (``licenses``)."""
        return sum((getattr(split, field) for split in self.splits.values()), collections.Counter())

    def summary(self) -> str:
        """The size of the whole release, in words."""
        counts = ", ".join(f"{self.total(field):,} {field}" for field in _COUNTS)
        size = f"{sum(self.files.values()) / 1e6:,.2f} MB in {len(self.files)} Parquet files"
        images = (
            "" if self.has_images else f", without the images (the dataset with them: {self.built_bytes / 1e6:,.1f} MB)"
        )
        return f"{counts}, {len(self.images_by('triplets')):,} triplets; {size}{images}"

    @property
    def where(self) -> str:
        """Where to send requests."""
        return escape.markdown(self.contact) if self.contact else _HUB

    @property
    def is_official(self) -> bool:
        """Whether the annotation files are the ones that Google published."""
        release = releases.RELEASES[self.metadata["options"]["release"]]
        return self.metadata["inputs"] == {file.name: file.md5 for file in release.files}

    @property
    def is_own_bank(self) -> bool:
        """Whether the captions are from a bank other than ours."""
        if not self.is_photos:
            return False
        return not bank.edition(self.metadata["options"])


def statements(facts: Facts) -> dict[str, str]:
    """The statements that the card, the datasheet and the Croissant metadata share, in plain Markdown."""
    kind, values = "photos" if facts.is_photos else "drawn", _values(facts)
    rows = read_tsv(Path(__file__).with_name("statements.tsv"))
    return {row["statement"]: row[kind].format_map(values) for row in rows}


def _values(facts: Facts) -> dict[str, Any]:
    """Values of the names in braces in ``statements.tsv`` and ``datasheet.tsv``."""
    options, triplets = facts.metadata["options"], facts.images_by("triplets")
    decisions, files = options.get("decisions", "none"), "files other than those that Google published"
    reviewed = f"Reviewers' decisions were applied (MD5 {decisions}), and captions that most of them rejected replaced."
    edition = bank.edition(options) if facts.is_photos else ""
    bank_of_ours = f"the {edition} edition of the bank of naturel_jax, where each triplet has eight or more"
    return {
        "release": options.get("release", "").upper(),
        "files": "the files that Google published" if facts.is_photos and facts.is_official else files,
        "reviewed": "No reviewers' decisions were applied." if decisions == "none" else reviewed,
        "source": "a bank of its publisher" if facts.is_own_bank else bank_of_ours,
        "common": sum(count for _, count in triplets.most_common(10)) / max(triplets.total(), 1),
        "triplets": len(triplets),
        **{field: facts.total(field) for field in ("images", "people", "attributed")},
        "summary": facts.summary(),
        "splits": ", ".join(f"{name} ({split.images:,})" for name, split in facts.splits.items()),
        "where": facts.where,
        "where_published": f", at <{facts.url}>" if facts.url else "",
        "date": facts.date,
    }


def render(facts: Facts) -> str:
    """The datasheet in Markdown. ``datasheet.tsv`` has the questions of Gebru et al., "Datasheets for Datasets" (arXiv
    1803.09010), the answers for photos, and those for the drawn world where they differ; names in braces are statements
    and counts.
    """
    known = _values(facts) | statements(facts)
    parts, section = [f"# Datasheet of {facts.title}"], ""
    for row in read_tsv(Path(__file__).with_name("datasheet.tsv")):
        if row["section"] != section:
            section = row["section"]
            parts.append(f"## {section}")
        answer = row["photos"] if facts.is_photos else row["drawn"] or row["photos"]
        parts.append(f"**{row['question']}** {answer.format_map(known)}")
    return "\n\n".join(parts) + "\n"
