"""NegBench: which of four captions, affirmed or negated, describes the image, and retrieval by captions that also say
what is not there (Alhamoud et al., CVPR 2025, arXiv 2501.09425). Its medical images and videos are not read.
"""

import functools
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from naturel_jax.benchmarks import coco, retrieval, rules
from naturel_jax.benchmarks.benchmark import (
    Benchmark,
    Entry,
    Image,
    Item,
    Metric,
    Origin,
    Source,
    Verified,
    by_value,
)
from naturel_jax.benchmarks.files import (
    BenchmarkError,
    Folder,
    Record,
    load_csv,
    numbered,
    read_items,
    strings,
)

_PAPER = "https://arxiv.org/abs/2501.09425"
_DATE = "2026-11-29"
OPTIONS = [f"caption_{n}" for n in range(4)]


class Collection(NamedTuple):
    """``folder``: where its images are. ``parts``: how many of the last parts of a path in the files name one there:
    the files begin with the authors' folders and tell users to change them."""

    folder: str
    parts: int
    licence: str
    origin: Origin

    def opener(self, root: Path) -> Callable[[str], Image]:
        """Opens the image at a path of the files. Raises BenchmarkError for one that is missing."""
        images = Folder(root / self.folder)
        return lambda path: images.image("/".join(PurePosixPath(path).parts[-self.parts :]))


COCO = Collection("coco/val2017", 1, coco.LICENCE, Origin("COCO (val2017)", _PAPER, coco.VAL_2017))
VOC = Collection(
    "voc2007/VOCdevkit/VOC2007/JPEGImages",
    1,
    "VOC2007 images under their Flickr licences",
    Origin("PASCAL VOC 2007", _PAPER),
)
SYNTHETIC = Collection(
    "negbench/synthetic_visual_negation/data", 2, "images generated", Origin("generated images", _PAPER)
)


def choice(folder: Path, name: str, file: str, collection: Collection, published: int) -> Benchmark:
    """Reads ``negbench/<file>``: four captions and the index of the true one."""
    image = collection.opener(folder)

    def item(key: str, row: Record) -> Item:
        answer = row["correct_answer"]
        if answer not in ("0", "1", "2", "3"):
            raise BenchmarkError(f"field 'correct_answer' is {answer!r:.80}, expected 0, 1, 2 or 3")
        captions = rules.true_first([row[option] for option in OPTIONS], int(answer))
        tags = {"answer": answer, "type": row["correct_answer_template"]}
        return Item(key, (image(row["image_path"]),), captions, tags)

    problems: list[str] = []
    fields = dict.fromkeys(("image_path", "correct_answer", "correct_answer_template", *OPTIONS), str)
    items = read_items(file, numbered(load_csv(folder / "negbench" / file)), fields, item, problems)
    metrics = (Metric(f"{name}/accuracy", "right"), *by_value(f"{name}/type", "right", "type", items))
    return Benchmark(
        name,
        tuple(items),
        rules.first_of_many,
        metrics,
        published,
        tuple(problems),
        true_captions=1,
        chance=rules.FIRST,
    )


def retrieve(folder: Path, name: str, file: str, collection: Collection, published: int) -> Benchmark:
    """Reads ``negbench/<file>``: images, each with a Python list of captions in one cell."""
    image = collection.opener(folder)

    def item(key: str, row: Record) -> tuple[str, Image, tuple[str, ...]]:
        return key, image(row["filepath"]), strings("captions", row["captions"])

    problems: list[str] = []
    rows = numbered(load_csv(folder / "negbench" / file))
    found = read_items(file, rows, {"filepath": str, "captions": str}, item, problems)
    return retrieval.benchmark(name, found, published, problems)


def _entry(
    read: Callable[..., Benchmark], name: str, file: str, collection: Collection, published: int, sha256: str
) -> Entry:
    source = Source(
        f"MIT; {collection.licence}",
        "https://github.com/m1k2zoo/negbench/blob/main/datasets.md (its Google Drive link; the same files are in "
        "https://github.com/sepehrkr/SpaceVLM/tree/main/data/images)",
        f"negbench/{file}, {collection.folder}/",
        origins=(collection.origin,),
        verified=Verified(sha256, published, _DATE),
    )
    return Entry(source, functools.partial(read, name=name, file=file, collection=collection, published=published))


_ROWS = (
    (
        "negbench_coco",
        choice,
        "COCO_val_mcq_llama3.1_rephrased.csv",
        COCO,
        5_914,
        "42bc853b64fb7d995e73e39212cbbe076ea3e06c8dca1ccc892910f3f91bceee",
    ),
    (
        "negbench_voc",
        choice,
        "VOC2007_mcq_llama3.1_rephrased.csv",
        VOC,
        5_031,
        "666269c3661d29c9148c702fdae7efa049b7f9b312679f845ac66ddf619979c1",
    ),
    (
        "negbench_synthetic",
        choice,
        "synthetic_mcq_llama3.1_rephrased.csv",
        SYNTHETIC,
        9_997,
        "84c3f07c6bdf96238838f4278a3d5a3f00b31f9d35549e31f83d771de8b29374",
    ),
    (
        "negbench_coco_retrieval",
        retrieve,
        "COCO_val_retrieval.csv",
        COCO,
        5_000,
        "dfe9217359b42f3f68bd93245f92a04701b8d3cde0aaf3fd1c26694d6de8d547",
    ),
    (
        "negbench_coco_negated_retrieval",
        retrieve,
        "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true.csv",
        COCO,
        5_000,
        "08a8db9b96130ab27f91f5ef14f413981d70a96bc9b3557436a26256db115b7d",
    ),
    (
        "negbench_synthetic_retrieval",
        retrieve,
        "synthetic_retrieval_v1.csv",
        SYNTHETIC,
        5_000,
        "1f6601d433c04586a31b44be63bdac1b28ffcad96d305da42a11267391e6d067",
    ),
    (
        "negbench_synthetic_negated_retrieval",
        retrieve,
        "synthetic_retrieval_v2.csv",
        SYNTHETIC,
        10_000,
        "3f49724cdc49ce85710c820f1116ef0535be83a40551c697a751cfb48b56c760",
    ),
)
ENTRIES = {
    name: _entry(read, name, file, collection, published, sha256)
    for name, read, file, collection, published, sha256 in _ROWS
}
