"""The scenes world: drawings, captions, and stored examples."""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from naturel_jax.benchmarks import registry
from naturel_jax.data.items import prepared
from tfds_naturel import naturel
from tfds_naturel.common.errors import Stopped, UserError
from tfds_naturel.common.schema import EXCHANGED_KINDS, KINDS, POLARITIES, Triplet, facts_of
from tfds_naturel.scenes import __main__ as contact_sheet
from tfds_naturel.scenes import examples, processes
from tfds_naturel.scenes.layouts import LAYOUTS
from tfds_naturel.scenes.scene import CONFIGS, SPLITS, ScenesConfig, compose, draw
from tfds_naturel.scenes.sprite import COLOURS
from tfds_naturel.scenes.world import FAMILIES, attributes_of

SCENES, HARD = CONFIGS["scenes"], CONFIGS["scenes_hard"]
CONVERSE = {
    **{"on": "under", "under": "on", "left_of": "right_of", "right_of": "left_of", "inside_of": "contain"},
    **{"contain": "inside_of", "interacts_with": "interacts_with"},
}


def converse(triplet: Triplet) -> Triplet | None:
    other = CONVERSE.get(triplet.relation)
    return Triplet(triplet.object, other, triplet.subject) if other else None


@pytest.fixture(scope="module")
def drawn() -> list:
    return [draw(SCENES, split, index) for split in SPLITS for index in range(100)]


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return [examples.example(config, split, i) for config in (SCENES, HARD) for split in SPLITS for i in range(40)]


# Geometric checks of each relation, from the boxes alone. Boxes are xmin, ymin, xmax, ymax.


def _centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _stacked(a, b):
    """a stands on b: its feet are in the upper part of b, and its centre is above b's."""
    foot = (a[3] - b[1]) / (b[3] - b[1])
    return -0.05 < foot < 0.65 and _centre(a)[1] < _centre(b)[1] and abs(_centre(a)[0] - _centre(b)[0]) < 0.08


def _left(a, b):
    return _centre(b)[0] - _centre(a)[0] > 0.08


def _within(a, b):
    return b[0] < a[0] and b[1] < a[1] and a[2] < b[2] and a[3] < b[3]


def _gap(a, b):
    return max(b[0] - a[2], a[0] - b[2])


def _covers_middle(a, b):
    x, y = _centre(b)
    return a[0] < x < a[2] and a[1] < y < a[3]


GEOMETRY = {
    "on": _stacked,
    "under": lambda a, b: _stacked(b, a),
    "left_of": _left,
    "right_of": lambda a, b: _left(b, a),
    "inside_of": _within,
    "holds": lambda a, b: _gap(a, b) < 0.1 and b[3] < 0.97 * a[3] + 0.03,
    "wears": _covers_middle,
    "plays": _covers_middle,
    "hits": lambda a, b: _gap(a, b) < 0.25 and (_left(a, b) or _left(b, a)),
    "interacts_with": lambda a, b: _gap(a, b) < 0.25 and (_left(a, b) or _left(b, a)),
    "at": lambda a, b: (_left(a, b) or _left(b, a)) and a[3] < b[3],
}


def test_boxes_show_the_relation(drawn):
    for scene in drawn:
        subject, obj = scene.things[:2]
        assert GEOMETRY[scene.triplet.relation](subject.box, obj.box), (scene.triplet, subject.box, obj.box)


def test_boxes_enclose_their_objects():
    """Repainting an object in another colour changes only pixels in its box."""
    for index, label in enumerate(name for name in HARD.classes if attributes_of(name)):
        triplet = Triplet(label, "left_of", "Man")
        red, blue = (
            compose(triplet, (colour, None), SCENES, np.random.default_rng([5, index])) for colour in ("Red", "Blue")
        )
        changed = np.argwhere(np.abs(red.image.astype(int) - blue.image).max(-1) > 8) / SCENES.size
        xmin, ymin, xmax, ymax = red.things[0].box
        low, high = changed.min(0), changed.max(0) + 1 / SCENES.size
        slack = 3 / SCENES.size
        assert xmin - slack < low[1] and high[1] < xmax + slack and ymin - slack < low[0] and high[0] < ymax + slack
        area = (high - low).prod() / ((xmax - xmin) * (ymax - ymin))
        assert area > 0.4, f"{label}: repainting changes only {area:.0%} of its box"


def test_painted_colours_match_their_names():
    """The median saturated hue of a painted object is that of the named colour (in OpenCV's range, 0 to 180)."""
    hues = {"Red": 0, "Yellow": 25, "Green": 60, "Blue": 110}
    for colour, label in itertools.product(COLOURS, ("Drum", "Car", "Cat", "Mug")):
        scene = compose(Triplet(label, "left_of", "Elephant"), (colour, None), SCENES, np.random.default_rng([3, 1]))
        xmin, ymin, xmax, ymax = (np.array(scene.things[0].box) * SCENES.size).astype(int)
        hsv = cv2.cvtColor(scene.image[ymin:ymax, xmin:xmax], cv2.COLOR_RGB2HSV).reshape(-1, 3)
        strong = hsv[(hsv[:, 1] > 150) & (hsv[:, 2] > 100), 0].astype(int)
        distance = np.abs((strong - hues[colour] + 90) % 180 - 90)
        assert np.median(distance) < 12, (colour, label, np.median(distance))


CONTRASTS = (  # a caption that says one thing of the two and denies another
    r"instead of (?P<denied>.+?), (?P<said>.+)",
    r"(?P<said>.+) rather than (?P<denied>.+)",
    r".+ is not (?P<denied>.+) but (?P<said>.+)",
    r"(?P<said>.+), not (?P<denied>.+)",
)
WORDS = {
    "on": "on|on top of|atop|upon|supporting|supports|under|beneath|underneath|below",
    "under": "under|beneath|underneath|below|above|over|on|on top of|atop|upon|supporting|supports",
    "left_of": "left|right",
    "right_of": "left|right",
    **dict.fromkeys(("inside_of", "contain"), "inside|in|within|containing|contains|contained"),
    "holds": "holds?|holding|held|grips?|gripping|gripped|clutch|clutches|clutching|clutched",
    "wears": "wears?|wearing|worn|sports?|sporting|sported",
    "plays": "plays?|playing|played",
    "hits": "hits?|hitting|strikes?|striking|struck",
    "interacts_with": "interacts?|interacting|engages?|engaging",
    "at": "at|by|close",
}


def contrast(text: str) -> dict[str, str]:
    """What a caption says and what it denies; empty if it denies nothing."""
    matches = (re.fullmatch(pattern, text.removesuffix("."), re.IGNORECASE) for pattern in CONTRASTS)
    return next((match.groupdict() for match in matches if match), {})


def test_contrasts_say_one_triplet_and_deny_the_other(rows):
    """A true one denies what the image does not show, or that it shows "just" that; a false one denies what it shows.
    A claim that the image may show is only made so."""
    counted = collections.Counter()
    for row in rows:
        name, split, index = row["image_id"].split("-")
        scene = draw(CONFIGS[name], split, int(index))
        for true, false in zip(row["captions"][::2], row["captions"][1::2], strict=True):
            own, claim = Triplet.parse(true["triplet"]), Triplet.parse(false["asserts"])
            said, denied = contrast(true["text"]), contrast(false["text"])
            assert bool(said) == bool(denied)
            if not said:
                assert not scene.is_true(claim), (row["image_id"], false)
                continue
            for text, relation in ((said["said"], own), (denied["denied"], own), (said["denied"], claim)):
                assert re.search(rf"\b({WORDS[relation.relation]})\b", text), (text, relation)
            if scene.is_true(claim):
                assert re.search(r"\bjust\b", said["denied"]) and re.search(r"\bjust\b", denied["said"]), false
            counted["just" if scene.is_true(claim) else "false"] += 1
    assert min(counted.values()) > 100


def test_captions_are_true_or_false_of_the_image(rows):
    """Every positive claims an annotated triplet; no negative claims one or its converse, or a side seen in the boxes
    without a denial of what the image shows."""
    counted = collections.Counter()
    for row in rows:
        labels = [thing["label"] for thing in row["objects"]]
        middles = {thing["label"]: (thing["box"].xmin + thing["box"].xmax) / 2 for thing in row["objects"]}
        assert len(set(labels)) == len(labels)
        shown = {Triplet(r["subject"], r["relation"], r["object"]) for r in row["relations"]}
        for caption in row["captions"]:
            claim = Triplet.parse(caption["asserts"]) if caption["asserts"] else None
            counted[caption["polarity"]] += 1
            if caption["polarity"] == "positive":
                assert claim in shown or converse(claim) in shown
                continue
            assert claim is None or (claim not in shown and converse(claim) not in shown), (row["image_id"], caption)
            if claim and claim.relation == "is" and claim.subject in labels:
                assert any(t.subject == claim.subject and t.relation == "is" for t in shown), caption
            side = claim and claim.relation in ("left_of", "right_of") and not contrast(caption["text"])
            if side and {claim.subject, claim.object} <= set(labels):
                ahead = middles[claim.object] - middles[claim.subject]
                assert (ahead if claim.relation == "left_of" else -ahead) < 0.1, (row["image_id"], caption)
    assert counted["positive"] == counted["negative"] > 0


def test_captions_come_in_sets_of_eight_for_every_triplet(rows):
    for row in rows:
        triplets = ["|".join((r["subject"], r["relation"], r["object"])) for r in row["relations"]]
        assert len(row["captions"]) == 8 * len(triplets)
        for triplet, start in zip(triplets, range(0, len(row["captions"]), 8), strict=True):
            eight = row["captions"][start : start + 8]
            assert [c["polarity"] for c in eight] == ["positive", "negative"] * 4
            assert [c["pair"] for c in eight] == [0, 0, 1, 1, 2, 2, 3, 3]
            assert [c["kind"] for c in eight] == ["simple"] * 2 + ["complex"] * 6
            assert {c["triplet"] for c in eight} == {triplet}
            assert all(c["operation"] != "denial" for c in eight), "a mere denial"


def test_no_caption_of_a_seen_triplet_claims_a_held_out_one(rows):
    hidden = {config.name: config.compositions()[1].triplets for config in CONFIGS.values()}
    for row in rows:
        name, split, _ = row["image_id"].split("-")
        for caption in row["captions"] if split != "test_unseen_triplets" else ():
            claim = Triplet.parse(caption["asserts"]) if caption["asserts"] else None
            assert claim not in hidden[name] and (claim is None or converse(claim) not in hidden[name])


def test_negatives_are_true_of_other_images(rows):
    """A negative's claim or its converse is a triplet that another image shows, so that no wording is always false."""
    shown = {config.name: frozenset.union(*(c.triplets for c in config.compositions())) for config in CONFIGS.values()}
    claims = [(row["image_id"].split("-")[0], caption) for row in rows for caption in row["captions"]]
    claims = [(name, Triplet.parse(c["asserts"])) for name, c in claims if c["polarity"] == "negative" and c["asserts"]]
    assert all(claim in shown[name] or converse(claim) in shown[name] for name, claim in claims)
    assert len({claim for _, claim in claims}) > 200


def test_is_true_handles_converses():
    scene = compose(Triplet("Cat", "on", "Table"), ("Red", None), SCENES, np.random.default_rng(0))
    assert scene.is_true(Triplet("Cat", "on", "Table")) and scene.is_true(Triplet("Table", "under", "Cat"))
    assert not scene.is_true(Triplet("Table", "on", "Cat")) and not scene.is_true(Triplet("Cat", "under", "Table"))
    assert not scene.is_true(Triplet("Cat", "left_of", "Table")) and not scene.is_true(Triplet("Dog", "on", "Table"))
    assert scene.is_true(Triplet("Cat", "is", "Red")) and not scene.is_true(Triplet("Cat", "is", "Blue"))
    assert scene.is_true(Triplet("Table", "is", "Wooden")), "an unpainted table may be wooden"
    beside = compose(Triplet("Dog", "right_of", "Car"), (None, None), SCENES, np.random.default_rng(0))
    assert beside.is_true(Triplet("Car", "left_of", "Dog")) and not beside.is_true(Triplet("Dog", "left_of", "Car"))


def test_roles_are_swapped_equally_often():
    seen, _ = SCENES.compositions()
    counts = collections.Counter(draw(SCENES, "train", i).triplet for i in range(len(seen.pairs)))
    assert set(counts.values()) == {1}
    assert all(counts[Triplet(t.object, t.relation, t.subject)] == 1 for t in counts)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_held_out_compositions(config):
    seen, unseen = config.compositions()
    assert not set(seen.pairs) & set(unseen.pairs) and not seen.attributes & unseen.attributes
    assert not {converse(t) for t in seen.pairs} & set(unseen.pairs)
    assert {t.relation for t in seen.pairs} == {t.relation for t in unseen.pairs} == set(LAYOUTS)
    assert {t.subject for t in seen.pairs} == {t.object for t in seen.pairs} == set(config.classes)
    assert {t.object for t in unseen.attributes} <= {t.object for t in seen.attributes}
    assert {t.subject for t in unseen.attributes} <= {t.subject for t in seen.attributes}
    for family in FAMILIES:
        orders = {frozenset((t.subject, t.object)) for t in seen.pairs if t.relation in family.relations}
        assert all(family.either & pair and pair <= family.both for pair in orders)


def test_splits_are_disjoint_and_unseen_triplets_are_unseen(drawn):
    shown = collections.defaultdict(set)
    for split, scene in zip(np.repeat(SPLITS, 100), drawn, strict=True):
        shown[split] |= {scene.triplet, *(triplet for _, triplet in scene.attributes)}
    for split in SPLITS[:3]:
        assert not shown[split] & shown["test_unseen_triplets"]
    assert len({hashlib.sha256(scene.image).digest() for scene in drawn}) == len(drawn)


def test_example_is_a_pure_function_of_its_index():
    """Another process that draws in another order gets the same bytes, without importing TensorFlow."""
    numbers = [(name, split, i) for name in CONFIGS for split in SPLITS for i in (0, 7)]
    code = """if True:
        import hashlib, json, sys
        from tfds_naturel.scenes import examples, processes
        from tfds_naturel.scenes.scene import CONFIGS
        numbers = json.loads(sys.argv[1])
        made = {str(n): examples.example(CONFIGS[n[0]], *n[1:]) for n in reversed(numbers)}
        assert "tensorflow" not in sys.modules
        print(json.dumps({n: [hashlib.sha256(e["image"]).hexdigest(), e["captions"]] for n, e in made.items()}))
    """
    run = subprocess.run([sys.executable, "-c", code, json.dumps(numbers)], capture_output=True, text=True, check=True)
    other = json.loads(run.stdout)
    for number in numbers:
        here = examples.example(CONFIGS[number[0]], *number[1:])
        assert other[str(list(number))] == [hashlib.sha256(here["image"]).hexdigest(), here["captions"]]


@pytest.fixture
def started(monkeypatch) -> list[subprocess.Popen]:
    """The processes that draw, two for 6 images or more."""
    monkeypatch.setattr(processes, "_IMAGES", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **options: started.append(popen(*a, **options)) or started[-1])
    return started


def test_several_processes_draw_the_same_in_the_same_order(started):
    made = list(processes.examples(SCENES, "test", 7))
    assert made == [examples.example(SCENES, "test", index) for index in range(7)]
    next(stopped := processes.examples(SCENES, "test", 7))
    stopped.close()
    assert len(started) == 4 and all(process.returncode is not None for process in started)


def test_sigterm_to_all_leaves_the_processes_to_their_reader(started):
    made = processes.examples(SCENES, "test", 200)  # more than their pipes hold
    drawn = list(itertools.islice(made, 2))
    for process in started:
        process.terminate()
    drawn += itertools.islice(made, 100)
    assert drawn == [examples.example(SCENES, "test", index) for index in range(102)]
    started[0].stdout.close()  # as if the reader were killed
    assert started[0].wait(60) == -signal.SIGPIPE


def test_a_process_that_cannot_draw_ends_the_build(monkeypatch, tmp_path):
    def stop() -> None:
        raise Stopped("by a signal to all")

    monkeypatch.setattr(processes, "_IMAGES", 3)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    config = naturel.scenes(_tiny("tiny_broken"))
    with pytest.raises(RuntimeError, match="the process that draws image 0 of train ended"):
        naturel.Naturel(config=config, data_dir=tmp_path).download_and_prepare()
    with pytest.raises(Stopped):
        naturel.Naturel(config=config, data_dir=tmp_path, check=stop).download_and_prepare()


def _tiny(name: str, **changes) -> ScenesConfig:
    return dataclasses.replace(SCENES, **{"name": name, "sizes": (24, 6, 6, 6)} | changes)


def _build(config: ScenesConfig, folder) -> naturel.Naturel:
    builder = naturel.Naturel(config=naturel.scenes(config), data_dir=folder)
    builder.download_and_prepare()
    return builder


def test_builder_round_trip(tmp_path):
    config = _tiny("tiny")
    builder = _build(config, tmp_path / "a")
    ids = []
    for split, size in zip(SPLITS, config.sizes, strict=True):
        source = builder.as_data_source(split)
        assert len(source) == size
        for row in (source[i] for i in range(size)):
            ids.append(row["image_id"].decode())
            scene = draw(config, split, int(ids[-1].rsplit("-", 1)[1]))
            assert np.abs(row["image"].astype(int) - scene.image).mean() < 6, "JPEG of quality 95"
            assert [label.decode() for label in row["objects"]["label"]] == [thing.label for thing in scene.things]
            boxes = [[t.box[1], t.box[0], t.box[3], t.box[2]] for t in scene.things]
            np.testing.assert_allclose(np.asarray(row["objects"]["box"]), boxes, atol=1e-6)
    assert len(set(ids)) == sum(config.sizes)


@pytest.fixture(scope="module")
def exchanged(tmp_path_factory):
    """The folder and the training rows of a world with bindings and positions."""
    config = _tiny("exchanged", exchanges=True, sizes=(300, 20, 200, 20), pairs_per_family=3)
    builder = _build(config, tmp_path_factory.mktemp("exchanged"))
    return config, builder.data_path, list(builder.as_data_source("train"))


def test_bindings_and_positions_are_what_the_scene_shows(exchanged):
    config, _, rows = exchanged
    for row in rows:
        scene = draw(config, "train", int(row["image_id"][-7:]))
        boxes = {thing.label: thing.box for thing in scene.things}
        colours = {thing.label: thing.attribute for thing in scene.things}
        columns = (row["captions"][name] for name in ("kind", "polarity", "asserts"))
        for kind, polarity, asserts in zip(*columns, strict=True):
            is_true = POLARITIES[polarity] == "positive"
            claims = facts_of(asserts.decode()) if KINDS[kind] in EXCHANGED_KINDS else ()
            if KINDS[kind] == "binding":
                painted = [fact for fact in claims if fact.relation == "is"]
                assert len(painted) == 2 and all(map(scene.is_true, set(claims) - set(painted)))
                assert all(colours[fact.subject] == fact.object for fact in painted) == is_true
            if KINDS[kind] == "position":
                *at, (subject, relation, object_) = claims
                assert all(fact.relation == "at" and scene.is_true(fact) for fact in at)
                here, there = _centre(boxes[subject])[0], _centre(boxes[object_])[0]
                xmin, _, xmax, _ = boxes[object_]
                apart = abs(here - there) > (xmax - xmin) / 4 if at else min(abs(here - 0.5), abs(there - 0.5)) > 0.04
                assert apart and ((here < there) == (relation == "left_of")) == is_true


def test_words_are_as_often_true_as_false(exchanged):
    _, folder, rows = exchanged
    texts = collections.defaultdict(lambda: ([], []))  # kind -> false and true texts
    for row in rows:
        for kind, polarity, text in zip(*(row["captions"][name] for name in ("kind", "polarity", "text")), strict=True):
            texts[KINDS[kind]][polarity].append(text.decode())
    for kind in EXCHANGED_KINDS:
        false, true = texts[kind]
        assert len(true) > 100 and sorted(true) == sorted(false), kind
    for name in ("naturel_bindings", "naturel_positions"):
        items = registry.BENCHMARKS[name].read(folder).items
        assert len(items) > 10 and all(first != second for first, second in (item.captions for item in items))


def test_two_agents_exchange_their_things(tmp_path):
    """An oracle that sees the scene graph, or in which half of the image each box is, answers every item; whoever sees
    the text alone gets half of the pairs, as each caption is as often true as false."""
    classes = ("Man", "Woman", "Dog", "Cat", "Guitar", "Drum", "Backpack", "Football")
    changes = {"name": "few_agents", "sizes": (32, 4, 32, 8), "pairs_per_family": 12, "held_out": 0.5}
    config = dataclasses.replace(CONFIGS["scenes_agents"], classes=classes, **changes)
    builder = _build(config, tmp_path)
    claims = {}
    for split in SPLITS:
        texts = [], []  # false and true
        for row in builder.as_data_source(split):
            kinds = [KINDS[kind] for kind in row["captions"]["kind"]]
            assert set(kinds) in ({"binding"}, {"simple", "complex"}, {"simple", "complex", "position"})
            for number in np.flatnonzero(np.array(kinds) == "binding"):
                text, polarity, asserts = (row["captions"][name][number] for name in ("text", "polarity", "asserts"))
                claims[text.decode()] = facts_of(asserts.decode())
                texts[polarity].append(text)
        assert texts[0] and sorted(texts[0]) == sorted(texts[1])
    items = registry.BENCHMARKS["naturel_bindings"].read(builder.data_path).items
    assert collections.Counter(item.tags["trained"] for item in items) == {"seen": 8, "unseen": 2}
    for item in items:
        scenes = [draw(config, *name) for name in _drawn_in(item.id)]
        for (n, scene), (k, text) in itertools.product(enumerate(scenes), enumerate(item.captions)):
            on_left = {thing.label: _centre(thing.box)[0] < 0.5 for thing in scene.things}
            assert all(map(scene.is_true, claims[text])) == (n == k)
            assert all(on_left[fact.subject] == on_left[fact.object] for fact in claims[text]) == (n == k)
            assert len(on_left) == 4 and all({fact.subject, fact.object} <= on_left.keys() for fact in claims[text])
            left, right = sorted((scene.things[:2], scene.things[2:]), key=lambda pair: pair[0].box)
            assert max(thing.box[2] for thing in left) < min(thing.box[0] for thing in right)
    opened = (prepared.open_source(builder.data_path, "train", tmp_path / f"{k}", k) for k in (None, "binding"))
    trained_on = [source.items for source in opened]
    assert [len(one) for one in trained_on] == [16, 16]
    assert sorted(np.concatenate([one.left_out for one in trained_on])) == [*range(32)]


def _drawn_in(item: str) -> list[tuple[str, int]]:
    """(split, index) of the scenes that an item's id names."""
    return [(split, int(index)) for split, index in re.findall(r"few_agents-(\w+)-(\d+)", item)]


def test_invalid_configs_are_rejected():
    with pytest.raises(ValueError, match="Unicorn"):
        dataclasses.replace(SCENES, classes=("Dog", "Unicorn"))
    with pytest.raises(ValueError, match=r"held_out = 0\.0 .* raise one of the two"):
        dataclasses.replace(SCENES, held_out=0.0)
    with pytest.raises(ValueError, match=r"no two agents can exchange .* raise one of the two"):
        dataclasses.replace(SCENES, agents=True, pairs_per_family=10)
    with pytest.raises(ValueError, match="30 images in train; expected a multiple of 4"):
        dataclasses.replace(CONFIGS["scenes_agents"], sizes=(30, 4, 4, 4))


def test_contact_sheet_command(tmp_path):
    command = ["--sheet", str(tmp_path / "sheet.png")]
    contact_sheet.main([*command, "--columns", "2"])
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size == (2 * 192, 11 * 216) and image.mode == "RGB"
    for arguments, match in {
        (*command, "--columns", "0"): "--columns is 0, expected 1 to 1,024",
        ("--sheet", "sheet.txt"): "--sheet sheet.txt: expected a path ending in .png",
        ("--sheet", str(tmp_path / "none" / "sheet.png"), "--columns", "1"): "none/sheet.png",
    }.items():
        with pytest.raises((UserError, FileNotFoundError), match=match):
            contact_sheet.main(arguments)
