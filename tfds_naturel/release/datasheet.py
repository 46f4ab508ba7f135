"""What a release states about its dataset: counts, and the answers of its datasheet, from what the builder knows."""

import collections
import dataclasses
from typing import Any

from tfds_naturel.captions import bank
from tfds_naturel.common import escape
from tfds_naturel.common.files import md5_of
from tfds_naturel.open_images import releases

_PEOPLE = frozenset({"Man", "Woman", "Boy", "Girl", "Person"})
_COUNTS = ("images", "objects", "relations", "captions")
_HUB = "the Community tab of the dataset's page on the Hugging Face hub"


@dataclasses.dataclass
class Split:
    """What a split holds: counts, the number of images of each triplet, and sizes of its files in bytes."""

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
    """What the pages state: the dataset's name, version, description, release notes and metadata, what its splits hold,
    its size with images, the takedown list and how many images of the dataset were on it, and the publisher's words.
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

    @property
    def triplets(self) -> collections.Counter[str]:
        """The number of images of each triplet."""
        return sum((split.triplets for split in self.splits.values()), collections.Counter())

    @property
    def licenses(self) -> collections.Counter[str]:
        """The number of images of each licence."""
        return sum((split.licenses for split in self.splits.values()), collections.Counter())

    def summary(self) -> str:
        """The size of the whole."""
        counts = ", ".join(f"{self.total(field):,} {field}" for field in _COUNTS)
        size = f"{sum(self.files.values()) / 1e6:,.2f} MB in {len(self.files)} Parquet files"
        images = (
            "" if self.has_images else f", without the images (the dataset with them: {self.built_bytes / 1e6:,.1f} MB)"
        )
        return f"{counts}, {len(self.triplets):,} triplets; {size}{images}"

    @property
    def where(self) -> str:
        """Where requests are sent."""
        return escape.markdown(self.contact) if self.contact else _HUB

    @property
    def is_official(self) -> bool:
        """Whether the annotation files are those that Google published."""
        release = releases.RELEASES[self.metadata["options"]["release"]]
        return self.metadata["inputs"] == {file.name: file.md5 for file in release.files}

    @property
    def is_own_bank(self) -> bool:
        """Whether the captions are from another bank than ours."""
        options = self.metadata["options"]
        ours = {"+".join(map(md5_of, bank.files(options["release"]))), md5_of(bank.find(bank.FIRST))}
        return self.is_photos and options["bank"] not in ours


def statements(facts: Facts) -> dict[str, str]:
    """The statements that the card, the datasheet and the Croissant metadata share, in plain Markdown."""
    return _photos(facts) if facts.is_photos else _drawn(facts)


def _photos(facts: Facts) -> dict[str, str]:
    options, triplets = facts.metadata["options"], facts.triplets
    release = options["release"].upper()
    images, people, known = (facts.total(field) for field in ("images", "people", "attributed"))
    common = sum(count for _, count in triplets.most_common(10)) / max(triplets.total(), 1)
    files = "the files that Google published" if facts.is_official else "files other than those that Google published"
    reviewed = f"Reviewers' decisions were applied (MD5 {options['decisions']}), and captions they rejected replaced."
    if options["decisions"] == "none":
        reviewed = "No reviewers' decisions were applied."
    source = (
        "a bank of its publisher"
        if facts.is_own_bank
        else "the bank of naturel_jax, where each triplet has eight or more"
    )
    return {
        "collection": f"No photo was taken or collected for this dataset. It selects photos of the training set of "
        f"Open Images {release}, which Google collected from Flickr, with the relations that people annotated there. "
        f"The annotations were read from {files}, with MD5 sums in metadata.json. Photos that could not be fetched, "
        "are damaged or blank, or are placeholders were left out.",
        "annotation": "Objects, boxes and relations are those of Open Images, annotated or verified by people "
        "(Kuznetsova et al., arXiv 1811.00982). Captions were written for triplets, not for photos: they are from "
        f"{source}, in four pairs of a true and a false one, each in one or more wordings (`paraphrase`; tests use "
        "0); a grammar writes those of triplets that the bank lacks, in one wording. A false caption swaps the two "
        "objects, names another relation or attribute, or denies the true one. Where it would state what another "
        "annotation of the same image says, the grammar replaced it. The builder does not compare captions with "
        f"photos. {reviewed}",
        "limitations": "A caption is as true as the annotation it was made from. Annotations are incomplete: a "
        "negative caption contradicts the annotated relation, but may be true of something that is not annotated. All "
        "images of a triplet have nearly the same captions, in English. Models that see only the two captions of a "
        "pair guess better than chance which is true; `python -m tfds_naturel.audit` measures how much. Photos may "
        "disappear from Open Images.",
        "biases": "The photos are what users of Flickr published, which over-represents some regions and cultures "
        f"(Shankar et al., arXiv 1711.08536). Few triplets dominate: the 10 most frequent of {len(triplets):,} make up "
        f"{common:.0%} of all (image, triplet) pairs. Man, Woman, Boy and Girl are what annotators saw in a photo, not "
        "what people say of themselves.",
        "sensitive": f"{people:,} of {images:,} images have an object labelled Man, Woman, Boy, Girl or Person; Boy "
        "and Girl are children. The photos are not part of the release. They show faces and are not anonymized. "
        f"Captions and labels name nobody. `author` has the names that photographers chose on Flickr, for {known:,} "
        "images, since their licence demands it.",
        "uses": "Training and evaluating models that relate images and text, in particular how they bind relations and "
        "attributes to objects. It must not be used to identify people, or to infer their gender, age or other traits.",
        "maintenance": "A new version follows when captions or formats change (CHANGELOG.md), or when an image is "
        f"taken down (TAKEDOWN.md). Requests and errors: {facts.where}.",
    }


def _drawn(facts: Facts) -> dict[str, str]:
    return {
        "collection": "Nothing was collected. Images, boxes and relations were drawn by the code of naturel_jax from "
        "the options in metadata.json; the same options give the same dataset.",
        "annotation": "Boxes and relations are those of the scene that was drawn, so they are exact and complete. "
        "Captions were written by a grammar, in four pairs of a true and a false one for each triplet; a false one is "
        "false of the image.",
        "limitations": "The drawings are small and simple, and few kinds of objects are drawn. A score on them says "
        "nothing about photos. Captions are in English.",
        "biases": "Relations are drawn evenly, not as often as they occur in the world; figures of people are "
        "stereotypes of a few pixels.",
        "sensitive": "None: no real person is shown or named.",
        "uses": "Testing and demonstrating code that trains and evaluates models on NatuRel without downloading "
        "photos. It is not meant for models that will be used.",
        "maintenance": "A new version follows when the drawings, captions or formats change (CHANGELOG.md). Errors: "
        f"{facts.where}.",
    }


_SAME = ""  # the drawn world's answer is that of photos
_NOBODY = "Does not apply: no real person is shown or named."
_UNKNOWN = "Not recorded."

# The questions of Gebru et al., "Datasheets for Datasets" (arXiv 1803.09010), the answer for photos, and that for the
# drawn world. Names in braces are statements and counts.
_QUESTIONS = {
    "Motivation": (
        (
            "For what purpose was the dataset created?",
            "To teach vision-language models relations and attributes, which CLIP and SigLIP ignore: they cannot tell "
            "*a mug in grass* from *grass in a mug*.",
            "To test code for NatuRel, and to show what it does, without downloading photos.",
        ),
        ("Who created the dataset and on behalf of which entity?", "The naturel_jax authors.", _SAME),
        ("Who funded the creation of the dataset?", _UNKNOWN, _SAME),
    ),
    "Composition": (
        (
            "What do the instances that comprise the dataset represent?",
            "Photos of Open Images, by id, with annotated objects and relations, and captions.",
            "Drawings, with objects, relations and captions.",
        ),
        ("How many instances are there in total?", "{summary}.", _SAME),
        (
            "Does the dataset contain all possible instances or is it a sample of a larger set?",
            "Of the training set of Open Images, it has the images with an annotated relation of the kind that this "
            "dataset keeps (`kept` in metadata.json) and a usable photo. metadata.json counts all others.",
            "A sample: the scenes that the options in metadata.json draw.",
        ),
        (
            "What data does each instance consist of?",
            "The id of a photo, its licence, author and source, objects with boxes, relations, and captions. Photos "
            "are not included.",
            "An image or its id, objects with boxes, relations, and captions.",
        ),
        (
            "Is there a label or target associated with each instance?",
            "Every caption is labelled as true or false of the image (`polarity`).",
            _SAME,
        ),
        (
            "Is any information missing from individual instances?",
            "{attributed} of {images} images have a known licence; the fields of the others are empty. Annotations are "
            "incomplete.",
            "No.",
        ),
        (
            "Are relationships between individual instances made explicit?",
            "Near-duplicate photos are in the same split, but not marked. Photos by the same author have the same "
            "`author`.",
            "There are none.",
        ),
        (
            "Are there recommended data splits?",
            "Yes: {splits}. The triplets of test_unseen_triplets are in no other split. Splits depend on ids, "
            "near-duplicates and the seed, so all selections of one release of Open Images share them.",
            "Yes: {splits}. The compositions of test_unseen_triplets are in no other split.",
        ),
        ("Are there any errors, sources of noise, or redundancies in the dataset?", "{limitations}", _SAME),
        (
            "Is the dataset self-contained, or does it rely on external resources?",
            "It relies on the photos, which Open Images hosts; there is no guarantee that they stay.",
            "It is self-contained if it includes the images; the code draws them again.",
        ),
        ("Does the dataset contain data that might be considered confidential?", "No: the sources are public.", "No."),
        (
            "Does the dataset contain data that might be offensive, insulting, threatening, or cause anxiety?",
            "Captions combine the names of objects and relations, and false ones may read oddly. Photos were not "
            "reviewed for this dataset.",
            "False captions may read oddly.",
        ),
        ("Does the dataset identify any subpopulations?", "By the labels Man, Woman, Boy and Girl. {biases}", "No."),
        (
            "Is it possible to identify individuals, directly or indirectly?",
            "Yes: photos show faces, and `author` and `source_url` lead to the photographer.",
            _NOBODY,
        ),
        ("Does the dataset contain data that might be considered sensitive in any way?", "{sensitive}", _SAME),
    ),
    "Collection process": (
        ("How was the data associated with each instance acquired?", "{collection}", _SAME),
        ("What mechanisms or procedures were used to collect the data?", "{annotation}", _SAME),
        (
            "If the dataset is a sample from a larger set, what was the sampling strategy?",
            "None: see above.",
            "A seeded random generator.",
        ),
        (
            "Who was involved in the data collection process, and how were they compensated?",
            "Photographers on Flickr, and the annotators of Open Images; for them, see the papers on Open Images.",
            "Nobody but the authors.",
        ),
        ("Over what timeframe was the data collected?", "Not recorded here; see the papers on Open Images.", _UNKNOWN),
        ("Were any ethical review processes conducted?", _UNKNOWN, _SAME),
        (
            "Did you collect the data from the individuals in question directly, or via third parties?",
            "Via Flickr and Open Images.",
            _NOBODY,
        ),
        ("Were the individuals in question notified about the data collection?", "Not by us.", _NOBODY),
        (
            "Did the individuals in question consent to the collection and use of their data?",
            "Photographers published their photos under the licence in `license`. Whether the people shown consented "
            "is not known.",
            _NOBODY,
        ),
        (
            "If consent was obtained, is there a mechanism to revoke it?",
            "Images are taken down on request (TAKEDOWN.md).",
            _NOBODY,
        ),
        ("Has an analysis of the potential impact on data subjects been conducted?", "Not by us.", _NOBODY),
    ),
    "Preprocessing, cleaning and labeling": (
        (
            "Was any preprocessing, cleaning or labeling of the data done?",
            "Malformed annotation rows and unusable photos were left out, boxes of the same object merged, "
            "near-duplicate photos kept in one split, and triplets held out of training; metadata.json has the "
            "counts. {annotation}",
            "No.",
        ),
        ("Was the raw data saved in addition?", "Open Images publishes it.", "There is none."),
        ("Is the software used available?", "Yes: naturel_jax (`tfds_naturel.build`, `tfds_naturel.release`).", _SAME),
    ),
    "Uses": (
        ("Has the dataset been used for any tasks already?", _UNKNOWN, "The demo and the tests of naturel_jax."),
        ("Is there a repository that links to papers or systems that use it?", "Not by us.", _SAME),
        ("What other tasks could the dataset be used for?", "{uses}", _SAME),
        ("Is there anything about the composition that might impact future uses?", "{biases}", _SAME),
        ("Are there tasks for which the dataset should not be used?", "{uses}", _SAME),
    ),
    "Distribution": (
        ("Will the dataset be distributed to third parties?", "Yes, without the photos.", "Yes."),
        ("How will the dataset be distributed?", "As this folder{where_published}.", _SAME),
        ("When will the dataset be distributed?", "This version: {date}.", _SAME),
        ("Will it be distributed under a licence or terms of use?", "Yes: LICENSE.md.", _SAME),
        (
            "Have any third parties imposed restrictions on the data?",
            "The licences of Google's annotations and of the photos (LICENSE.md).",
            "No.",
        ),
        ("Do any export controls or other regulatory restrictions apply?", "None that we know of.", _SAME),
    ),
    "Maintenance": (
        ("Who will be supporting, hosting or maintaining the dataset?", "{maintenance}", _SAME),
        ("How can the owner, curator or manager be contacted?", "{where}.", _SAME),
        ("Is there an erratum?", "CHANGELOG.md.", _SAME),
        ("Will the dataset be updated?", "{maintenance}", _SAME),
        (
            "Are there applicable limits on the retention of data that relates to people?",
            "None that we know of, but images are taken down on request (TAKEDOWN.md).",
            _NOBODY,
        ),
        (
            "Will older versions continue to be supported?",
            "No; they can be built again with the code of their time.",
            _SAME,
        ),
        (
            "Can others extend or contribute to the dataset?",
            "Yes, under the licences, with the code of naturel_jax.",
            _SAME,
        ),
    ),
}


def render(facts: Facts) -> str:
    """The datasheet in Markdown."""
    known = statements(facts) | {
        "summary": facts.summary(),
        "splits": ", ".join(f"{name} ({split.images:,})" for name, split in facts.splits.items()),
        "images": f"{facts.total('images'):,}",
        "attributed": f"{facts.total('attributed'):,}",
        "where": facts.where,
        "where_published": f", at <{facts.url}>" if facts.url else "",
        "date": facts.date,
    }
    parts = [f"# Datasheet of {facts.title}"]
    for section, questions in _QUESTIONS.items():
        parts.append(f"## {section}")
        for question, photos, drawn in questions:
            answer = photos if facts.is_photos or not drawn else drawn
            parts.append(f"**{question}** {answer.format_map(known)}")
    return "\n\n".join(parts) + "\n"
