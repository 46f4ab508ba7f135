"""Offline twins of benchmarks: drawn scenes in the official file formats.

    python -m tfds_naturel.scenes.twins --out DIR

Those of the demo are Winoground, ARO and SugarCrepe; those for experiments, with --further, are SugarCrepe++, hard
positives, BLA, NegBench, COCO retrieval and zero-shot classification. Every image is drawn for the twins alone and is
in no split of the scenes world. Half of the items show compositions that are held out of training. Formats:
https://huggingface.co/datasets/facebook/winoground, https://github.com/mertyg/vision-language-models-are-bows,
https://github.com/RAIVNLab/sugar-crepe; of the others, the readers in naturel_jax/benchmarks name them.
"""

import argparse
import csv
import dataclasses
import io
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes.formats import FILES, TAGS, Files, aro_record, attribution_record, relation_record, sentence
from tfds_naturel.scenes.items import DESCRIBED, SUGARCREPE, VG_ATTRIBUTION, VG_RELATION, WINOGROUND, Item, make_items
from tfds_naturel.scenes.render import encode_jpeg
from tfds_naturel.scenes.scene import CONFIGS, ScenesConfig, portrait

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
        ("visual_genome_relation", VG_RELATION, relation_record),
        ("visual_genome_attribution", VG_ATTRIBUTION, attribution_record),
    ):
        records = []
        for i, item in enumerate(_checked(make_items(config, name, (kind,), seed, items), check)):
            image_id = f"{1 + i + items * (kind is VG_ATTRIBUTION)}"
            (aro / "images" / f"{image_id}.jpg").write_bytes(encode_jpeg(item.scenes[0].image))
            records.append(aro_record(image_id, item) | record(image_id, item))
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
            rows.append(row | TAGS[item.tag] | {"secondary_tag": "unseen" if item.unseen else ""})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data" / "examples.jsonl").write_text(lines, encoding="utf-8")


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
            true, false = map(sentence, item.statements)
            records[str(i)] = {"filename": filename, "caption": true, "negative_caption": false}
        _write_json(folder / f"{name}.json", records)


def _write_json(path: epath.Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


# ---- For experiments -------------------------------------------------------------------------------------------------

FURTHER = (
    "sugarcrepe_pp",
    "hard_positives_replace",
    "hard_positives_swap",
    "bla",
    "negbench_synthetic",
    "coco_retrieval",
    "flickr30k_retrieval",
    "zeroshot",
)
_FURTHER_README = """# Generated twins for experiments

These are **not** the real benchmarks. The images are drawn by `python -m tfds_naturel.scenes.twins --further`; only the
folder layout and file formats match the originals: `sugarcrepe_pp/`, `hard_positives/`, `bla/`, `negbench/`,
`coco/coco_karpathy_test.json`, `flickr30k/` and `zeroshot/`.

World: `{config}`, image seed {seed}, {items} items per file.
"""
_FIRST_IMAGE = 10  # times the items of a file: behind the numbers of the images above
_TEMPLATES = ("the photo shows the {}.", "here is the {}.", "this is the {}.", "you can see the {}.")
_PORTRAITS = 0x0A1E  # differs from other streams of the seed


def write_further(
    out_dir: epath.PathLike, config: ScenesConfig, seed: int, items: int, check: Callable[[], None] = lambda: None
) -> None:
    """Writes the twins for experiments, as ``write`` does, also into the same folder; FURTHER.md is written last.
    Retrieval has fewer images where no more scenes are found that share no true caption."""
    out_dir = epath.Path(out_dir)
    for number, files in enumerate(FILES, _FIRST_IMAGE):
        _write_records(out_dir, files, _checked(files.items(config, seed, items), check), number * items)
    _write_zeroshot(out_dir, config, seed, items, check)
    text = _FURTHER_README.format(config=config.name, seed=seed, items=items)
    (out_dir / "FURTHER.md").write_text(text, encoding="utf-8")


def _write_records(out_dir: epath.Path, files: Files, items: Iterator[Item], first: int) -> None:
    images = out_dir / files.images
    images.mkdir(parents=True, exist_ok=True)
    records: dict[str, list[dict[str, Any]]] = {path: [] for path in files.files}
    for n, item in enumerate(items, first):
        name = f"{n:012d}.jpg"
        (images / name).write_bytes(encode_jpeg(item.scenes[0].image))
        for path, record in files.files.items():
            records[path].append(record(name, item))
    for path, rows in records.items():
        (out_dir / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith(".csv"):
            text = io.StringIO()
            table = csv.DictWriter(text, rows[0], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
            (out_dir / path).write_text(text.getvalue(), encoding="utf-8")
        else:
            _write_json(out_dir / path, rows)


def _write_zeroshot(
    out_dir: epath.Path, config: ScenesConfig, seed: int, items: int, check: Callable[[], None]
) -> None:
    """Single things by class, and scenes of two things, and of nothing else, by both classes."""
    alone = dataclasses.replace(config, distractors=(0, 0))
    things = (
        (label.lower(), portrait(label, config, np.random.default_rng([seed, _PORTRAITS, n])))
        for n, label in zip(range(items), itertools.cycle(config.classes), strict=False)
    )
    scenes = (item.scenes[0] for item in make_items(alone, "further/zeroshot", DESCRIBED[:1], seed, items))
    pairs = ((" and ".join(sorted(thing.label.lower() for thing in scene.things)), scene.image) for scene in scenes)
    for dataset, images in (("things", things), ("scenes", pairs)):
        folder = out_dir / "zeroshot" / dataset
        for n, (name, image) in enumerate(images):
            check()
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{n:06d}.jpg").write_bytes(encode_jpeg(image))
        (folder / "templates.txt").write_text("\n".join(_TEMPLATES) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_naturel.scenes.twins",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=epath.Path, metavar="DIR")
    parser.add_argument("--config", choices=CONFIGS, default="scenes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--further", action="store_true", help="the twins for experiments, in place of the demo's")
    parser.add_argument("--items", type=int, default=400, help="items per file (default 400, the size of Winoground)")
    options = parser.parse_args(arguments)
    if options.items < 1:
        raise UserError(f"--items {options.items}: expected at least 1")
    writer = write_further if options.further else write
    writer(options.out, CONFIGS[options.config], options.seed, options.items)


if __name__ == "__main__":
    cli.run(main)
