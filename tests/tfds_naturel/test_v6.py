"""Open Images V6: 31 relations, 15 attributes, ten of them poses and actions of people."""

import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.helpers.open_images_files import (
    PEOPLE,
    POSES,
    V6_ATTRIBUTES,
    V6_CLASSES,
    V6_RELATIONS,
    build_dataset,
    photo,
    row,
    write_photos,
    write_release,
)
from tfds_naturel.captions import bank, checks, grammar, lexicon
from tfds_naturel.captions.relations import CONTRARIES, excluded
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images import plan


def written(*triplets: Triplet) -> bank.Bank:
    return {t: grammar.write(t, np.random.default_rng(n)) for n, t in enumerate(triplets)}


def texts(captions) -> str:
    return "\n".join(caption.text for group in captions.values() for caption in group)


def test_grammar_writes_poses_as_verbs():
    captions = written(*(Triplet(person, "is", pose) for pose in POSES for person in (*PEOPLE, "Person", "Dog")))
    assert checks.check(captions) == []
    for triplet, group in captions.items():
        words = lexicon.pose(triplet.object)
        assert group[0].text == f"{lexicon.nouns(triplet.subject)[0].text} {words[0]}"
        assert all(any(word in c.text for word in words) for c in group[::2])
    assert not re.search(r"non-|\b(stand|sit|lay|walk|run|jump|smile|cry|sing|talk)\b", texts(captions))


def test_negative_poses_exclude_the_pose():
    for seed in range(20):
        for pose in POSES:
            triplet = Triplet("Man", "is", pose)
            for caption in grammar.write(triplet, np.random.default_rng(seed))[1::2]:
                assert caption.asserts and excluded(triplet, caption.asserts)
    for pose, others in CONTRARIES.items():
        assert all(pose in CONTRARIES.get(other, ()) for other in others if {pose, other} <= set(POSES)), pose


def test_poses_are_denied_if_the_image_shows_every_other():
    group = grammar.write(Triplet("Girl", "is", "Smile"), np.random.default_rng(0), lambda claim: True)
    assert all(caption.operation == "denial" and "not smiling" in caption.text for caption in group[1::2])
    assert list(checks.texts(group)) == []


def test_names_in_the_plural_and_with_an_ampersand():
    captions = written(
        *(Triplet(person, "wears", "High heels") for person in PEOPLE),
        *(Triplet(thing, "on", "Kitchen & dining room table") for thing in ("Drink", "Cat", "Bottle")),
        Triplet("Bottle", "on", "Salt & pepper"),
    )
    assert checks.check(captions) == []
    assert "a high heels" not in texts(captions) and "&" not in texts(captions) and "high heels" in texts(captions)
    expected = {"Earrings": True, "Roller skates": True, "Dress": False, "Bus": False, "Tennis": False}
    assert {label: lexicon.nouns(label)[0].plural for label in expected} == expected


def test_bank_has_each_pose_of_each_person():
    v4 = bank.load()
    poses = {t: captions for t, captions in bank.load(release="v6").items() if t not in v4}
    assert set(poses) == {Triplet(person, "is", pose) for person in PEOPLE for pose in POSES}
    assert checks.check(poses) == []


def _triplets() -> list[Triplet]:
    """Every relation between two pairs of classes, and every attribute of people and things."""
    pairs = (("Man", "High heels"), ("Person", "Kitchen & dining room table"), ("Boy", "Girl"), ("Dog", "Drink"))
    related = [Triplet(s, label, o) for label in V6_RELATIONS if label != "is" for s, o in pairs]
    poses = [Triplet(person, "is", pose) for person in (*PEOPLE, "Person") for pose in POSES]
    things, names = ("Chair", "High heels", "Kitchen & dining room table"), set(V6_ATTRIBUTES.values()) - {*POSES}
    materials = [Triplet(thing, "is", name) for name in sorted(names) for thing in things]
    return [*related, *poses, *materials]


def _write(folder: Path, triplets: list[Triplet], images: int) -> None:
    shown = {n: [triplets[n % len(triplets)], triplets[(n * 7 + 3) % len(triplets)]] for n in range(images)}
    write_release(folder / "annotations", [row(n, *t) for n in shown for t in shown[n]], range(images), "v6")
    write_photos(folder, {n: photo(n) for n in range(images)})


def _build(folder: Path, *arguments: str) -> tfds.core.DatasetBuilder:
    return tfds.builder_from_directory(build_dataset(folder, folder / "out", *arguments, config="full_v6"))


def test_full_v6_builds_with_every_relation_and_attribute(tmp_path):
    assert (len(V6_RELATIONS), len(V6_ATTRIBUTES)) == (31, 15) and "Kitchen & dining room table" in V6_CLASSES.values()
    triplets = _triplets()
    _write(tmp_path, triplets, len(triplets))
    builder = _build(tmp_path)
    assert builder.info.metadata["options"]["bank"] == "+".join(md5_of(path) for path in bank.files("v6"))
    rows: dict[str, set[str]] = {}
    tested: set[str] = set()
    for split in (split for split in plan.SPLITS if split in builder.info.splits):
        for example in builder.as_data_source(split):
            captions = example["captions"]
            for triplet, text in zip(captions["triplet"], captions["text"], strict=True):
                rows.setdefault(triplet.decode(), set()).add(text.decode())
                tested |= {triplet.decode()} if split.startswith("test") else set()
    described = {str(triplet) for triplet in bank.load(release="v6")}
    facts = builder.info.metadata
    assert tested and tested <= described, "the grammar's words give the label away"
    assert set(facts["untested"]) == {str(triplet) for triplet in triplets} - described
    assert {*rows} | {*facts["held_out"]} == {str(triplet) for triplet in triplets}
    card = (Path(builder.data_dir) / "README.md").read_text()
    assert f"{len(facts['untested'])} triplets are left out of the test splits" in card
    assert {"The man is standing.", "The man is sitting."} <= rows["Man|is|Stand"]
    assert not [text for group in rows.values() for text in group if re.search(r"non-|&|a high heels", text)]


def test_build_stops_at_a_caption_that_fails_the_checks(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "MAX_TOKENS", 3)
    _write(tmp_path, [Triplet("Man", "ride", "Skateboard"), Triplet("Cat", "on", "Table")], 40)
    with pytest.raises(UserError, match=r"Man\|ride\|Skateboard: pair 0 .* has \d+ tokens, expected"):
        _build(tmp_path)
