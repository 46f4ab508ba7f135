"""VL-CheckList: short phrases of scene graphs against phrases with a wrong object, attribute or relation (Zhao et al.,
arXiv 2207.00221).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Origin, Overlap, Source, Verified, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Folder, Record, load_json, not_found, numbered, read_items

ASPECTS = ("Object", "Attribute", "Relation")
FIELDS = {"image": str, "POS": list, "NEG": list}


def _object_files(kind: str, sizes: tuple[str, ...]) -> Iterator[str]:
    folder = f"Object/{kind}"
    where = kind.lower()
    for size in sizes:
        yield f"{folder}/hake_{where}/hake_obj_{size}"
        for role in ("agent", "destination", "item", "tool"):
            yield f"{folder}/swig_{where}/swig_{role}/swig_{role}_{size}"
        for role in ("obj", "subj"):
            yield f"{folder}/vg_{where}/vg_{role}_{size}"


FILES = (  # those that the official configs name, under ``data``
    *_object_files("Location", ("center", "mid", "margin")),
    *_object_files("Size", ("large", "medium", "small")),
    *(f"Attribute/{c}/{kind}" for c in ("vg", "vaw") for kind in ("action", "color", "material", "size", "state")),
    *("Relation/hake_action", "Relation/swig_action", "Relation/vg/action", "Relation/vg/spatial"),
)


def read(folder: Path) -> Benchmark:
    """Reads ``vl_checklist/data/**.json`` and ``vl_checklist/{vg,swig,hake}/``. Files that are missing are left out, as
    are records whose image is; both are reported in ``problems``, one line a file.

    The score of an aspect is the mean over its files. The official code takes what fits its sample config's ``MAX_NUM``
    from each file; here all records count.
    """
    root = folder / "vl_checklist"
    problems: list[str] = []
    present = [file for file in FILES if (root / "data" / f"{file}.json").exists()]
    if not present:
        raise not_found(root / "data" / f"{FILES[0]}.json")
    if missing := [file for file in FILES if file not in present]:
        names = ", ".join(missing[:3]) + (", ..." if missing[3:] else "")
        problems.append(f"{len(missing)} of {len(FILES)} files not found and not in the means: {names}")
    images = {name: Folder(root / name) for name in ("vg", "swig", "hake")}
    items = [item for file in present for item in _items(root, file, images, problems)]
    metrics = (
        *(Metric(f"vl_checklist/{aspect.lower()}", "right", macro=aspect) for aspect in ASPECTS),
        *by_value("vl_checklist/file", "right", "file", items),
    )
    return Benchmark("vl_checklist", items, rules.pair, metrics, problems=problems, true_captions=1, chance=rules.PAIR)


def _items(root: Path, file: str, images: dict[str, Folder], problems: list[str]) -> list[Item]:
    folder = images[next((name for name in ("swig", "hake") if name in file), "vg")]
    tags = {"file": file, file.partition("/")[0]: file}

    def item(key: str, row: Record) -> Item:
        texts = row["POS"][:1] + row["NEG"][:1]  # the first of each, as in the official code
        if len(texts) != 2 or not all(isinstance(text, str) for text in texts):
            raise BenchmarkError(f"POS and NEG are {[row['POS'], row['NEG']]!a:.80}, expected strings in each")
        return Item(f"{file}/{key}", (folder.image(row["image"]),), tuple(texts), tags)

    found: list[str] = []
    rows = map(_named, load_json(root / "data" / f"{file}.json", list))
    items = read_items(f"{file}.json", numbered(rows), FIELDS, item, found)
    if found:
        more = f" (and {len(found) - 1:,} more of the {len(items) + len(found):,} records)" if found[1:] else ""
        problems.append(found[0] + more)
    return items


def _named(row: Any) -> Any:
    """[image, {POS, NEG}] as one record."""
    named = isinstance(row, list) and len(row) == 2 and isinstance(row[1], dict)
    return {"image": row[0], **row[1]} if named else row


_PAPER = "https://arxiv.org/abs/2207.00221"
_RAW = "https://raw.githubusercontent.com/om-ai-lab/VL-CheckList/6f8d6a3281c401b89e4e154f46c6974ec2df3a82"
SOURCE = Source(
    "no licence stated; images under the licences of their datasets",
    "https://github.com/om-ai-lab/VL-CheckList; images as in its DATASETS.md",
    "vl_checklist/data/{Object,Attribute,Relation}/ (56 files), vl_checklist/{vg,swig,hake}/",
    {f"vl_checklist/data/{file}.json": f"{_RAW}/data/{file}.json" for file in FILES},
    origins=(
        Origin("Visual Genome", _PAPER, coco.VISUAL_GENOME),
        Origin("SWiG", _PAPER),
        Origin("HICO-DET (HAKE)", _PAPER),
        Origin("COCO (V-COCO, HAKE)", _PAPER, (Overlap("COCO", "V-COCO is of train2014 and val2014"),)),
        Origin("Open Images (HAKE)", _PAPER, (Overlap("Open Images", "no count is known"),)),
    ),
    verified=Verified(
        "a105955e2de520d033c9f09420bfec766d3dbb4a69e6c8d97ca70a6164ea2bc4", 372_274, "2026-11-29", "46 of 56 files"
    ),
)
