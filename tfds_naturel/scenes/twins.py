"""Offline twins of Winoground, ARO and SugarCrepe: drawn scenes in the benchmarks' official file formats.

    python -m tfds_naturel.scenes.twins --out DIR

Every image is drawn for the twins alone and is in no split of the scenes world. Half of the items show
compositions that are held out of training. Formats: https://huggingface.co/datasets/facebook/winoground,
https://github.com/mertyg/vision-language-models-are-bows, https://github.com/RAIVNLab/sugar-crepe.
"""

import argparse
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes.items import PHRASES, SUGARCREPE, VG_ATTRIBUTION, VG_RELATION, WINOGROUND, Item, make_items
from tfds_naturel.scenes.render import encode_jpeg
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig

_README = """# Generated twins of compositional benchmarks

These are **not** the real benchmarks. The images are drawn by `python -m tfds_naturel.scenes.twins`; only the folder
layout and file formats match the originals:

- `winoground/data/examples.jsonl`, `winoground/images.zip` (`secondary_tag` is `unseen` for held-out compositions)
- `aro/visual_genome_relation.json`, `aro/visual_genome_attribution.json`, `aro/images/`, and the (empty) list of
  symmetric relations `aro/vgr_excluded_relations.json`
- `sugarcrepe/*.json` (seven files) with `coco/val2017/`

World: `{config}`, image seed {seed}, {items} items per file.
"""


def write(
    out_dir: epath.PathLike, config: ScenesConfig, seed: int, items: int, check: Callable[[], None] = lambda: None
) -> None:
    """Writes the twins with ``items`` items per file; README.md is written last. The same arguments give the same
    bytes, even over files left by an interrupted call.

    ``check`` is called before each item, and may raise. Raises UserError for a world without suitable compositions.
    """
    out_dir = epath.Path(out_dir)
    _write_winoground(
        out_dir / "winoground", _checked(make_items(config, "winoground", WINOGROUND, seed, items), check)
    )
    aro = out_dir / "aro"
    (aro / "images").mkdir(parents=True, exist_ok=True)
    for name, kind, record in (
        ("visual_genome_relation", VG_RELATION, _relation_record),
        ("visual_genome_attribution", VG_ATTRIBUTION, _attribution_record),
    ):
        records = []
        for i, item in enumerate(_checked(make_items(config, name, (kind,), seed, items), check)):
            image_id = f"{1 + i + items * (kind is VG_ATTRIBUTION)}"
            (aro / "images" / f"{image_id}.jpg").write_bytes(encode_jpeg(item.scenes[0].image))
            records.append(_aro_record(image_id, item) | record(image_id, item))
        _write_json(aro / f"{name}.json", records)
    _write_json(aro / "vgr_excluded_relations.json", [])  # none of the relations is symmetric
    _write_sugarcrepe(out_dir, config, seed, items, check)
    (out_dir / "README.md").write_text(_README.format(config=config.name, seed=seed, items=items), encoding="utf-8")


def _write_winoground(folder: epath.Path, items: Iterator[Item]) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows = []
    with (folder / "images.zip").open("wb") as f, zipfile.ZipFile(f, "w") as archive:
        for i, item in enumerate(items):
            names = [f"ex_{i}_img_{k}" for k in range(2)]
            for name, scene in zip(names, item.scenes, strict=True):
                png = cv2.imencode(".png", scene.image[..., ::-1])[1].tobytes()
                archive.writestr(zipfile.ZipInfo(f"images/{name}.png"), png)
            row = {"id": i, "image_0": names[0], "image_1": names[1]}
            row |= {f"caption_{k}": statement.text for k, statement in enumerate(item.statements)}
            rows.append(row | _TAGS[item.tag] | {"secondary_tag": "unseen" if item.unseen else ""})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "examples.jsonl").write_text(lines, encoding="utf-8")


_TAGS = {
    "Object": {"tag": "Noun", "collapsed_tag": "Object", "num_main_preds": 1},
    "Relation": {"tag": "Adjective-Color", "collapsed_tag": "Relation", "num_main_preds": 1},
    "Both": {"tag": "Noun, Adjective-Color", "collapsed_tag": "Both", "num_main_preds": 1},
}


def _aro_record(image_id: str, item: Item) -> dict[str, Any]:
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


def _relation_record(image_id: str, item: Item) -> dict[str, Any]:
    triplet = item.scenes[0].triplet
    phrase = PHRASES[triplet.relation]
    return {
        "relation_info": {"object": f"{image_id}1", "name": phrase},
        "primary_object_id": f"{image_id}0",
        "primary_object_name": triplet.subject.lower(),
        "relation_name": phrase,
    }


def _attribution_record(image_id: str, item: Item) -> dict[str, Any]:
    claims = item.statements[0].claims
    return {
        "attributes": [claim.object.lower() for claim in claims],
        "obj1_name": claims[0].subject.lower(),
        "obj2_name": claims[1].subject.lower(),
    }


def _checked(items: Iterator[Item], check: Callable[[], None]) -> Iterator[Item]:
    for item in items:
        check()
        yield item


def _write_sugarcrepe(
    out_dir: epath.Path, config: ScenesConfig, seed: int, items: int, check: Callable[[], None]
) -> None:
    images, folder = out_dir / "coco" / "val2017", out_dir / "sugarcrepe"
    images.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, kind) in enumerate(SUGARCREPE.items()):
        records = {}
        for i, item in enumerate(_checked(make_items(config, name, (kind,), seed, items), check)):
            filename = f"{1 + number * items + i:012d}.jpg"
            (images / filename).write_bytes(encode_jpeg(item.scenes[0].image))
            true, false = (f"{text[0].upper()}{text[1:]}." for text in (s.text for s in item.statements))
            records[str(i)] = {"filename": filename, "caption": true, "negative_caption": false}
        _write_json(folder / f"{name}.json", records)


def _write_json(path: epath.Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_naturel.scenes.twins",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=epath.Path, metavar="DIR")
    parser.add_argument("--config", choices=CONFIGS, default="scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=400, help="items per file (default 400, the size of Winoground)")
    options = parser.parse_args(arguments)
    if options.items < 1:
        raise UserError(f"--items {options.items}: expected at least 1")
    write(options.out, CONFIGS[options.config], options.seed, options.items)


if __name__ == "__main__":
    cli.run(main)
