"""NegBench: which of four captions, affirmed or negated, describes the image, and retrieval by captions that also say
what is not there (Alhamoud et al., CVPR 2025, arXiv 2501.09425). Its medical images and videos are not read.
"""

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from naturel_jax.benchmarks import coco
from naturel_jax.benchmarks.benchmark import Entry, Origin, Source, Verified
from naturel_jax.benchmarks.table import CHOICE, Format, entry

_PAPER = "https://arxiv.org/abs/2501.09425"


class Collection(NamedTuple):
    """``folder``: where its images are. ``parts``: how many of the last parts of a path in the files name one there:
    the files begin with the authors' folders and tell users to change them."""

    folder: str
    parts: int
    licence: str
    origin: Origin

    def records(self, rows: Iterable[dict[str, str]]) -> Iterator[Any]:
        """Records with the path that an image has in the folder."""
        for row in rows:
            path = row.get("image_path", row.get("filepath"))
            yield row if path is None else row | {"name": "/".join(PurePosixPath(path).parts[-self.parts :])}


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
# Four captions and the index of the true one; or a Python list of captions.
_CHOICE = {
    "rule": CHOICE,
    "captions": tuple(f"{{caption_{n}}}" for n in range(4)),
    "answer": "correct_answer",
    "part": "type",
    "part_field": "correct_answer_template",
}
_RETRIEVAL = {"rule": None, "more_captions": "captions"}


# Benchmark -> how a record has its captions, images, number of items, and file.
_ROWS: dict[str, tuple[dict[str, Any], Collection, int, str]] = {
    "coco": (_CHOICE, COCO, 5_914, "COCO_val_mcq_llama3.1_rephrased"),
    "voc": (_CHOICE, VOC, 5_031, "VOC2007_mcq_llama3.1_rephrased"),
    "synthetic": (_CHOICE, SYNTHETIC, 9_997, "synthetic_mcq_llama3.1_rephrased"),
    "coco_retrieval": (_RETRIEVAL, COCO, 5_000, "COCO_val_retrieval"),
    "coco_negated_retrieval": (_RETRIEVAL, COCO, 5_000, "COCO_val_negated_retrieval_llama3.1_rephrased_affneg_true"),
    "synthetic_retrieval": (_RETRIEVAL, SYNTHETIC, 5_000, "synthetic_retrieval_v1"),
    "synthetic_negated_retrieval": (_RETRIEVAL, SYNTHETIC, 10_000, "synthetic_retrieval_v2"),
}
_SHA256 = {
    "coco": "42bc853b64fb7d995e73e39212cbbe076ea3e06c8dca1ccc892910f3f91bceee",
    "voc": "666269c3661d29c9148c702fdae7efa049b7f9b312679f845ac66ddf619979c1",
    "synthetic": "84c3f07c6bdf96238838f4278a3d5a3f00b31f9d35549e31f83d771de8b29374",
    "coco_retrieval": "dfe9217359b42f3f68bd93245f92a04701b8d3cde0aaf3fd1c26694d6de8d547",
    "coco_negated_retrieval": "08a8db9b96130ab27f91f5ef14f413981d70a96bc9b3557436a26256db115b7d",
    "synthetic_retrieval": "1f6601d433c04586a31b44be63bdac1b28ffcad96d305da42a11267391e6d067",
    "synthetic_negated_retrieval": "3f49724cdc49ce85710c820f1116ef0535be83a40551c697a751cfb48b56c760",
}


def _entry(name: str, kind: dict[str, Any], collection: Collection, published: int, file: str) -> Entry:
    path = f"negbench/{file}.csv"
    row = Format(
        files={"": path},
        folders=(collection.folder,),
        images=("{name}",),
        records=collection.records,
        published=published,
        **kind,
    )
    source = Source(
        f"MIT; {collection.licence}",
        "https://github.com/m1k2zoo/negbench/blob/main/datasets.md (its Google Drive link; the same files are in "
        "https://github.com/sepehrkr/SpaceVLM/tree/main/data/images)",
        f"{path}, {collection.folder}/",
        origins=(collection.origin,),
        verified=Verified(_SHA256[name], published, "2026-11-29"),
    )
    return entry(f"negbench_{name}", row, source)


ENTRIES = {f"negbench_{name}": _entry(name, *row) for name, row in _ROWS.items()}
