"""Records of the benchmark twins in the official formats: what a file says of an item."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfds_naturel.scenes.items import (
    BLA,
    DESCRIBED,
    HARD_POSITIVES,
    NEGATION,
    PHRASES,
    SUGARCREPE_PP,
    Item,
    Kind,
    Statement,
    apart,
    make_items,
    of_different_classes,
)
from tfds_naturel.scenes.scene import ScenesConfig

TAGS = {
    "Object": {"tag": "Noun", "collapsed_tag": "Object", "num_main_preds": 1},
    "Relation": {"tag": "Adjective-Color", "collapsed_tag": "Relation", "num_main_preds": 1},
    "Both": {"tag": "Noun, Adjective-Color", "collapsed_tag": "Both", "num_main_preds": 1},
}


def sentence(statement: Statement) -> str:
    """The text with a capital and a full stop."""
    return f"{statement.text[0].upper()}{statement.text[1:]}."


def aro_record(image_id: str, item: Item) -> dict[str, Any]:
    """The fields shared by ARO's two files: captions, and a box in whole pixels around both objects. The box is square,
    so that models that resize every crop to a square see objects with the proportions of their training images."""
    scene = item.scenes[0]
    size = scene.image.shape[0]
    boxes = np.array([thing.box for thing in scene.things[:2]]) * size
    low, high = np.floor(boxes[:, :2].min(0)), np.ceil(boxes[:, 2:].max(0))
    side = int((high - low).max())
    left, top = (int(v) for v in ((low + high - side) // 2).clip(0, size - side))
    true, false = (statement.text for statement in item.statements)
    return {
        "image_id": image_id,
        "true_caption": true,
        "false_caption": false,
        "bbox_x": left,
        "bbox_y": top,
        "bbox_w": side,
        "bbox_h": side,
        "image_path": f"{image_id}.jpg",
    }


def relation_record(image_id: str, item: Item) -> dict[str, Any]:
    """What VG-Relation's file says besides."""
    triplet = item.scenes[0].triplet
    phrase = PHRASES[triplet.relation]
    return {
        "relation_info": {"object": f"{image_id}1", "name": phrase},
        "primary_object_id": f"{image_id}0",
        "primary_object_name": triplet.subject.lower(),
        "relation_name": phrase,
    }


def attribution_record(image_id: str, item: Item) -> dict[str, Any]:
    """What VG-Attribution's file says besides."""
    claims = item.statements[0].claims
    return {
        "attributes": [claim.object.lower() for claim in claims],
        "obj1_name": claims[0].subject.lower(),
        "obj2_name": claims[1].subject.lower(),
    }


# ---- For experiments -------------------------------------------------------------------------------------------------

_SUPPLY = 5  # items that are made for each one that ``select`` should leave

Record = Callable[[str, Item], dict[str, Any]]  # (image name, item) -> record of a file


class Files(NamedTuple):
    """Files with a record for each item, and the folder of their images. ``select``: which items are written."""

    kinds: tuple[Kind, ...]
    images: str
    files: Mapping[str, Record]
    select: Callable[[Iterator[Item]], Iterator[Item]] = iter

    def items(self, config: ScenesConfig, seed: int, count: int) -> Iterator[Item]:
        """``count`` items, or fewer where ``select`` leaves fewer."""
        supply = count if self.select is iter else count * _SUPPLY
        made = make_items(config, f"further/{next(iter(self.files))}", self.kinds, seed, supply)
        return itertools.islice(self.select(made), count)


def _pp_record(name: str, item: Item) -> dict[str, Any]:
    texts = dict(zip(("caption", "caption2", "negative_caption"), map(sentence, item.statements), strict=True))
    return {"id": int(name.partition(".")[0]), "filename": name} | texts


def _replaced_record(name: str, item: Item, which: int) -> dict[str, Any]:
    """``which``: 0 for the caption, 1 for the hard positive."""
    true, false = item.statements[which].text, item.statements[2].text
    return {"image_path": f"data/VG_100K/{name}", "true_caption": true, "false_caption": false}


def _swapped_record(name: str, item: Item, which: int) -> dict[str, Any]:
    one = dataclasses.replace(item, statements=(item.statements[which], item.statements[2]))
    return aro_record(name.partition(".")[0], one)


def _hard_positives(file: str, record: Callable[..., dict[str, Any]]) -> dict[str, Record]:
    parts = ("data", "swapped_data")
    return {f"hard_positives/{part}/{file}": functools.partial(record, which=n) for n, part in enumerate(parts)}


def _bla_record(name: str, item: Item) -> dict[str, Any]:
    texts = dict(zip(("True1", "True2", "False1", "False2"), map(sentence, item.statements), strict=True))
    return {"image_id": name.partition(".")[0], "caption_group": [texts]}


def _negbench_record(name: str, item: Item) -> dict[str, Any]:
    """The true caption's place goes round."""
    answer = int(name.partition(".")[0]) // len(NEGATION) % len(item.statements)
    true, *false = (sentence(statement) for statement in item.statements)
    texts = [*false[:answer], true, *false[answer:]]
    captions = {f"caption_{n}": text for n, text in enumerate(texts)}
    path = {"image_path": f"data/synthetic_visual_negation/data/images/{name}", "correct_answer": answer}
    return path | captions | {"correct_answer_template": item.tag}


def _captioned(name: str, item: Item, folder: str) -> dict[str, Any]:
    return {"image": f"{folder}/{name}", "caption": [sentence(item.statements[0])]}


FILES = (
    *(
        Files((kind,), "coco/val2017", {f"sugarcrepe_pp/{name}.json": _pp_record})
        for name, kind in SUGARCREPE_PP.items()
    ),
    *(
        Files(
            (HARD_POSITIVES[name],),
            "hard_positives/data/VG_100K",
            _hard_positives(f"vl_checklist_{name}.json", _replaced_record),
        )
        for name in ("attributes", "relations")
    ),
    Files((HARD_POSITIVES["swap"],), "aro/images", _hard_positives("visual_genome_attribution.json", _swapped_record)),
    *(Files((kind,), "bla/images", {f"bla/annotations/{n}_captions.json": _bla_record}) for n, kind in BLA.items()),
    Files(
        NEGATION,
        "negbench/synthetic_visual_negation/data/images",
        {"negbench/synthetic_mcq_llama3.1_rephrased.csv": _negbench_record},
    ),
    Files(
        DESCRIBED,
        "coco/val2014",
        {"coco/coco_karpathy_test.json": functools.partial(_captioned, folder="val2014")},
        apart,
    ),
    Files(
        DESCRIBED[:1],
        "flickr30k/flickr30k-images",
        {"flickr30k/flickr30k_test.json": functools.partial(_captioned, folder="flickr30k-images")},
        of_different_classes,
    ),
)
