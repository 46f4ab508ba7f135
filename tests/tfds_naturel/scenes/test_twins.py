"""The benchmark twins: official formats, and captions that are true or false of their images."""

import collections
import dataclasses
import hashlib
import io
import json
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scene_facts import holds
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes import items as scene_items
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS, SPLITS, Scene, draw
from tfds_naturel.scenes.sprite import COLOURS

SCENES = CONFIGS["scenes"]
ITEMS = 60
RELATIONS = {phrase: relation for relation, phrase in scene_items.PHRASES.items()}
NAMES = {label.lower(): label for label in SCENES.classes}
NOUN = rf"the (?:({'|'.join(c.lower() for c in COLOURS)}) )?({'|'.join(NAMES)})"
SENTENCE = re.compile(rf"{NOUN} (?:is ({'|'.join(RELATIONS)})|and) {NOUN}(?: with {NOUN})?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("twins")
    twins.write(out, SCENES, seed=3, items=ITEMS)
    return out


def is_true(text: str, scene: Scene) -> bool:
    """Whether a caption is true of a scene: parsed from its text, judged by labels, attributes, boxes and triplet."""
    match = SENTENCE.fullmatch(text.lower().rstrip("."))
    assert match, text
    first_colour, first, phrase, second_colour, second, third_colour, third = match.groups()
    named = [(NAMES[n], c) for n, c in ((first, first_colour), (second, second_colour), (third, third_colour)) if n]
    facts: list[tuple[str, ...]] = [("here", label) for label, _ in named]
    facts += [("is", label, colour.capitalize()) for label, colour in named if colour]
    if phrase:
        facts.append((RELATIONS[phrase], NAMES[first], NAMES[second]))
    return all(holds(fact, scene) for fact in facts)


def make_items(name: str, *kinds) -> list:
    return list(scene_items.make_items(SCENES, name, kinds, 3, ITEMS))


def test_winoground(folder):
    items = make_items("winoground", *scene_items.WINOGROUND)
    rows = [json.loads(line) for line in (folder / "winoground/data/examples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(ITEMS))
    seen, unseen = (set(c.pairs) for c in SCENES.compositions())
    with zipfile.ZipFile(folder / "winoground/images.zip") as archive:
        for row, item in zip(rows, items, strict=True):
            captions = row["caption_0"], row["caption_1"]
            assert sorted(captions[0].split()) == sorted(captions[1].split()) and captions[0] != captions[1]
            truth = [[is_true(caption, scene) for scene in item.scenes] for caption in captions]
            assert truth == [[True, False], [False, True]], (captions, item.scenes[0].things)
            for k, scene in enumerate(item.scenes):
                stored = Image.open(io.BytesIO(archive.read(f"images/{row[f'image_{k}']}.png")))
                np.testing.assert_array_equal(np.asarray(stored), scene.image)
                assert scene.triplet in (unseen if row["secondary_tag"] == "unseen" else seen)
    tags = collections.Counter(row["collapsed_tag"] for row in rows)
    assert tags == {"Object": 24, "Relation": 24, "Both": 12}
    assert 0.2 < np.mean([row["secondary_tag"] == "unseen" for row in rows]) < 0.8


@pytest.mark.parametrize(
    ("name", "kind"),
    [("visual_genome_relation", scene_items.VG_RELATION), ("visual_genome_attribution", scene_items.VG_ATTRIBUTION)],
)
def test_aro(folder, name, kind):
    rows = json.loads((folder / "aro" / f"{name}.json").read_text())
    for row, item in zip(rows, make_items(name, kind), strict=True):
        (scene,) = item.scenes
        assert is_true(row["true_caption"], scene) and not is_true(row["false_caption"], scene)
        assert sorted(row["true_caption"].split()) == sorted(row["false_caption"].split())
        with Image.open(folder / "aro" / "images" / row["image_path"]) as image:
            width, height = image.size
        left, top, wide, high = (row[f"bbox_{side}"] for side in "xywh")
        assert all(isinstance(side, int) for side in (left, top, wide, high))
        assert wide == high and 0 <= left < left + wide <= width and 0 <= top < top + high <= height
        for thing in scene.things[:2]:
            xmin, ymin, xmax, ymax = np.array(thing.box) * width
            assert left <= xmin and top <= ymin and xmax <= left + wide and ymax <= top + high
    if kind is scene_items.VG_RELATION:
        assert all(f"is {row['relation_name']} the" in row["true_caption"] for row in rows)
        assert not {"playing", "interacting with"} & {row["relation_name"] for row in rows}
        assert json.loads((folder / "aro" / "vgr_excluded_relations.json").read_text()) == []
    else:
        pairs = collections.Counter("_".join(row["attributes"]) for row in rows)
        assert min(pairs.values()) >= 25, "VG-Attribution scores only pairs with at least 25 cases"
        assert all(
            row["true_caption"] == f"the {a} {row['obj1_name']} and the {b} {row['obj2_name']}"
            for row in rows
            for a, b in [row["attributes"]]
        )


@pytest.mark.parametrize("name", scene_items.SUGARCREPE)
def test_sugarcrepe(folder, name):
    rows = json.loads((folder / "sugarcrepe" / f"{name}.json").read_text())
    assert list(rows) == [str(i) for i in range(ITEMS)]
    operation = name.split("_")[0]
    for row, item in zip(rows.values(), make_items(name, scene_items.SUGARCREPE[name]), strict=True):
        (scene,) = item.scenes
        assert is_true(row["caption"], scene) and not is_true(row["negative_caption"], scene), (row, scene.triplet)
        words, negative = (row[key].lower().rstrip(".").split() for key in ("caption", "negative_caption"))
        same, added = sorted(words) == sorted(negative), len(negative) > len(words)
        assert (same, added) == (operation == "swap", operation == "add") or (operation == "replace" and not same)
        assert re.fullmatch(r"\d{12}\.jpg", row["filename"])
        with Image.open(folder / "coco" / "val2017" / row["filename"]) as image:
            assert image.format == "JPEG" and image.size == scene.image.shape[:2]


def test_images_are_unique_and_in_no_split(folder):
    stored = [hashlib.sha256(p.read_bytes()).digest() for d in ("aro", "coco") for p in folder.glob(f"{d}/**/*.jpg")]
    assert len(set(stored)) == len(stored) == 9 * ITEMS
    items = make_items("swap_obj", scene_items.SUGARCREPE["swap_obj"])
    twin = {hashlib.sha256(scene.image).digest() for item in items for scene in item.scenes}
    drawn = {hashlib.sha256(draw(SCENES, split, i).image).digest() for split in SPLITS for i in range(ITEMS)}
    assert not twin & drawn


def test_world_without_suitable_compositions_is_rejected(tmp_path):
    poor = dataclasses.replace(SCENES, pairs_per_family=2, held_out=0.0, sizes=(1, 1, 1, 0))
    with pytest.raises(UserError, match=r"held-out.*raise pairs_per_family"):
        twins.write(tmp_path, poor, seed=0, items=30)


def test_command_line_errors(tmp_path):
    with pytest.raises(UserError, match="--items 0: expected at least 1"):
        twins.main(["--out", str(tmp_path), "--items", "0"])
