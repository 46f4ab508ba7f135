"""The pages of a release (card, licences, takedown procedure, changelog) and its Croissant metadata."""

import json
from pathlib import Path
from typing import Any

from tfds_naturel.common import escape
from tfds_naturel.common.files import read_tsv
from tfds_naturel.common.pages import fill
from tfds_naturel.release import card, datasheet
from tfds_naturel.release.datasheet import Facts

_HERE = Path(__file__).parent
_MAX_LICENCES = 20  # most photo licences that the card lists
_LICENCES = {  # by SPDX identifier
    "cc-by-4.0": ("Creative Commons Attribution 4.0 International", "https://creativecommons.org/licenses/by/4.0/"),
    "apache-2.0": ("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
}
_SIZES = {"n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000}
_RAI = {  # properties of Croissant's vocabulary for responsible AI
    "rai:dataCollection": "collection",
    "rai:dataAnnotationProtocol": "annotation",
    "rai:dataLimitations": "limitations",
    "rai:dataBiases": "biases",
    "rai:personalSensitiveInformation": "sensitive",
    "rai:dataUseCases": "uses",
    "rai:dataReleaseMaintenancePlan": "maintenance",
}

# Types of the columns; a column with fields is a list of records.
_TRIPLET = dict.fromkeys(("subject", "relation", "object"), "string")
TEXTS = ("image_id", "license", "author", "source_url")
BOX = ("ymin", "xmin", "ymax", "xmax")  # TFDS's order
FIELDS: dict[str, dict[str, str]] = {
    "objects": {"label": "string"} | dict.fromkeys(BOX, "float32"),
    "relations": _TRIPLET | {"subject_index": "int32", "object_index": "int32"},
    "captions": {"text": "string", "group": "int32", "kind": "string", "polarity": "string", "pair": "int32"}
    | {"paraphrase": "int32"}
    | dict.fromkeys(("triplet", "asserts", "operation", "shape"), "string"),
}
_COLUMNS = {row["column"]: row["description"] for row in read_tsv(_HERE / "columns.tsv")}
_IMAGE = "the encoded image"
_CROISSANT_TYPES = {"string": "sc:Text", "int32": "sc:Integer", "float32": "sc:Float"}

_CONTEXT = json.loads((_HERE / "croissant_context.json").read_text("utf-8"))


def render(facts: Facts) -> dict[str, str]:
    """The text of every page, by file name; equal facts give equal bytes."""
    pages = {"README.md": _readme(facts), "DATASHEET.md": datasheet.render(facts), "LICENSE.md": _licences(facts)}
    versions = sorted(facts.notes, key=lambda version: [int(part) for part in version.split(".")], reverse=True)
    notes = [f"## {version}\n\n{facts.notes[version]}" for version in versions]
    published = (
        f"## {facts.date}\n\nThis release, of version {facts.version}. Left out on request: {facts.left_out:,} images."
    )
    pages["CHANGELOG.md"] = "\n\n".join([f"# Changes of {facts.title}", published, *notes]) + "\n"
    if facts.is_photos:
        pages["takedown.txt"] = "\n".join(["# Images that were taken down; see TAKEDOWN.md.", *facts.removed, ""])
        counts = {"listed": f"{len(facts.removed):,} images", "left_out": f"{facts.left_out:,}"}
        pages["TAKEDOWN.md"] = fill(_HERE / "takedown.md", where=facts.where, **counts)
    return pages


def sizes(facts: Facts) -> str:
    """A table of the contents of each split."""
    header = ["split", "images", "objects", "relations", "captions", "triplets", "MB"]
    rows = [
        [name, s.images, s.objects, s.relations, s.captions, len(s.triplets), f"{sum(s.files.values()) / 1e6:,.2f}"]
        for name, s in facts.splits.items()
    ]
    return card.table(header, rows)


def _readme(facts: Facts) -> str:
    columns = _COLUMNS | ({"image": _IMAGE} if facts.has_images else {})
    return fill(
        _HERE / "card.md",
        front_matter=_front_matter(facts),
        title=facts.title,
        description=escape.markdown(facts.description),
        summary=facts.summary(),
        sizes=sizes(facts),
        join=fill(_HERE / "join.md") + "\n" if facts.is_photos else "",
        columns="\n".join(f"- `{name}`: {text}" for name, text in columns.items()),
        licence=_licence_summary(facts),
        citation=_citation(facts),
        **datasheet.statements(facts),
    )


def _front_matter(facts: Facts) -> str:
    """The card's YAML, written as JSON, a subset of YAML: splits for `datasets`, and the types of the columns."""
    count = facts.total("images")
    splits = [
        {"name": name, "num_examples": split.images, "num_bytes": split.arrow_bytes}
        for name, split in facts.splits.items()
    ]
    fields: dict[str, Any] = {
        "pretty_name": facts.title,
        "license": _spdx(facts),
        "language": ["en"],
        "tags": [
            "compositionality",
            "hard negatives",
            "vision-language",
            "open-images" if facts.is_photos else "synthetic",
        ],
        "size_categories": [next((name for name, most in _SIZES.items() if count < most), "1M<n<10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": name, "path": f"data/{name}-*.parquet"} for name in facts.splits],
            }
        ],
        "dataset_info": {
            "features": [
                *map(_feature, _COLUMNS),
                *([{"name": "image", "dtype": "image"}] if facts.has_images else []),
            ],
            "splits": splits,
            "download_size": sum(facts.files.values()),
            "dataset_size": facts.total("arrow_bytes"),
        },
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in fields.items())


def _feature(column: str) -> dict[str, Any]:
    if column not in FIELDS:
        return {"name": column, "dtype": "string"}
    return {"name": column, "list": [{"name": name, "dtype": dtype} for name, dtype in FIELDS[column].items()]}


def _spdx(facts: Facts) -> list[str]:
    if not facts.is_photos:
        return ["apache-2.0"]
    return ["cc-by-4.0", "other" if facts.is_own_bank else "apache-2.0"]


def _known_licences(facts: Facts) -> list[tuple[str, str]]:
    return [_LICENCES[spdx] for spdx in _spdx(facts) if spdx in _LICENCES]


def _licence_summary(facts: Facts) -> str:
    if not facts.is_photos:
        return "Images, annotations and captions: the naturel_jax authors, Apache-2.0."
    captions = (
        "of another bank than ours: as its publisher says"
        if facts.is_own_bank
        else "the naturel_jax authors, Apache-2.0"
    )
    return (
        f"Annotations: Open Images, Google LLC, CC BY 4.0. Captions: {captions}. Photos are not included; each has its "
        "own licence and author (`license`, `author`)."
    )


def _licences(facts: Facts) -> str:
    parts = [f"# Licences of {facts.title}", _licence_summary(facts)]
    links = [f"- {title}: <{url}>" for title, url in _known_licences(facts)]
    if facts.is_photos:
        parts += [
            "The annotations are `image_id`, `license`, `author`, `source_url`, `objects` and `relations`. Changes to "
            "what Google published: images selected, invalid rows left out, rows of an image merged, ids of classes "
            "replaced by their names, splits assigned.",
            "The licences of the photos, as Open Images lists them; check that of a photo before you publish it:",
            _photo_licences(facts),
        ]
    return "\n\n".join([*parts, "\n".join(links)]) + "\n"


def _photo_licences(facts: Facts) -> str:
    counts = facts.images_by("licenses")
    rows: list[tuple[str, int]] = [(text or "unknown", count) for text, count in counts.most_common(_MAX_LICENCES)]
    if len(counts) > _MAX_LICENCES:
        rows.append((f"{len(counts) - _MAX_LICENCES:,} others", counts.total() - sum(count for _, count in rows)))
    return card.table(["licence", "photos"], rows)


def _citation(facts: Facts) -> str:
    url = f",\n  url = {{{facts.url}}}" if facts.url else ""
    own = (
        f"@misc{{naturel,\n  title = {{{escape.latex(facts.title)}}},\n  author = {{{{The naturel\\_jax authors}}}},\n"
        f"  year = {{{facts.date[:4]}}}{url}\n}}"
    )
    open_images = (
        "@article{openimages,\n  title = {The {Open Images} Dataset {V4}},\n"
        "  author = {Kuznetsova, Alina and others},\n"
        "  journal = {International Journal of Computer Vision},\n  year = {2020},\n"
        "  url = {https://arxiv.org/abs/1811.00982}\n}"
    )
    return f"{own}\n\n{open_images}" if facts.is_photos else own


def croissant(facts: Facts, digests: dict[str, str]) -> dict[str, Any]:
    """The release as Croissant 1.0 (https://docs.mlcommons.org/croissant), with its vocabulary for responsible AI.

    ``digests``: SHA-256 of the Parquet files by path.
    """
    statements = datasheet.statements(facts)
    files = [
        {
            "@type": "cr:FileObject",
            "@id": path,
            "name": path,
            "contentUrl": path,
            "contentSize": f"{facts.files[path.rpartition('/')[2]]} B",
            "encodingFormat": "application/x-parquet",
            "sha256": digest,
        }
        for path, digest in digests.items()
    ]
    every = {
        "@type": "cr:FileSet",
        "@id": "parquet",
        "encodingFormat": "application/x-parquet",
        "includes": "data/*.parquet",
    }
    splits = {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [{"@type": "cr:Field", "@id": "splits/name", "dataType": "sc:Text"}],
        "data": [{"splits/name": name} for name in facts.splits],
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "name": facts.name.replace("/", "-"),
        "description": f"{facts.title}: {escape.line(facts.description)} {facts.summary()}.",
        "version": facts.version,
        "license": [url for _, url in _known_licences(facts)],
        "creator": {"@type": "sc:Organization", "name": "The naturel_jax authors"},
        "datePublished": facts.date,
        **({"url": facts.url} if facts.url else {}),
        "citeAs": _citation(facts),
        **{name: statements[key] for name, key in _RAI.items()},
        "distribution": [*files, every],
        "recordSet": [splits, _example_records(facts)],
    }


def _example_records(facts: Facts) -> dict[str, Any]:
    # mlcroissant applies the transform of a reference to its result again.
    pattern = r"(?:data/)?(\w+)(?:-\d{5}-of-\d{5}\.parquet)?$"
    split = _field("split", "sc:Text", {"fileProperty": "fullpath"}, {"regex": pattern})
    fields = [split | {"references": {"field": {"@id": "splits/name"}}}]
    for column, text in _COLUMNS.items():
        if column in FIELDS:
            sub = [
                _field(f"{column}/{name}", _CROISSANT_TYPES[dtype], {"column": column}, {"jsonPath": name})
                for name, dtype in FIELDS[column].items()
            ]
            own = {"@type": "cr:Field", "@id": f"examples/{column}", "repeated": True, "subField": sub}
        else:
            own = _field(column, "sc:Text", {"column": column})
        fields.append(own | {"description": text})
    if facts.has_images:
        fields.append(
            _field("image", "sc:ImageObject", {"column": "image"}, {"jsonPath": "bytes"}) | {"description": _IMAGE}
        )
    return {"@type": "cr:RecordSet", "@id": "examples", "key": {"@id": "examples/image_id"}, "field": fields}


def _field(name: str, kind: str, extract: dict[str, str], transform: dict[str, str] | None = None) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": "parquet"}, "extract": extract}
    if transform:
        source["transform"] = transform
    return {"@type": "cr:Field", "@id": f"examples/{name}", "dataType": kind, "source": source}
