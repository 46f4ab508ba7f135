"""Bindings and positions of a drawn world: questions to readers, and the page with photos."""

import base64
import collections
import csv
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from tests.helpers.pages import embedded, table
from tfds_naturel import naturel
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import exchanged, form, readers
from tfds_naturel.audit.attack import Pair
from tfds_naturel.captions import decisions
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import read_tsv
from tfds_naturel.common.schema import KINDS, POLARITIES, Triplet
from tfds_naturel.scenes.scene import CONFIGS, draw

CHANGES = {"name": "few_bindings", "sizes": (120, 6, 20, 6), "pairs_per_family": 3}
CONFIG = dataclasses.replace(CONFIGS["scenes_bindings"], **CHANGES)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of a dataset, and what its captions are: image id -> (kind, polarity, text)."""
    builder = naturel.Naturel(config=naturel.scenes(CONFIG), data_dir=tmp_path_factory.mktemp("world"))
    builder.download_and_prepare()
    captions = {}
    for split in builder.info.splits:
        for row in builder.as_data_source(split):
            columns = (row["captions"][name] for name in ("kind", "polarity", "text"))
            captions[row["image_id"].decode()] = [
                (KINDS[kind], POLARITIES[polarity], text.decode())
                for kind, polarity, text in zip(*columns, strict=True)
            ]
    return builder.data_path, captions


@pytest.fixture
def people(tmp_path):
    """A folder with captions of SugarCrepe's form."""
    rows = {str(n): {"filename": f"{n}.jpg", "caption": f"by {n}", "negative_caption": "not"} for n in range(20)}
    (tmp_path / "sugarcrepe").mkdir()
    (tmp_path / "sugarcrepe" / "swap_obj.json").write_text(json.dumps(rows))
    return tmp_path / "sugarcrepe"


def of_none(number):
    """Nothing out of ``number``, with the upper bound of Wilson's interval, which is z^2 / (n + z^2) there."""
    return f"0.000 (0.000-{1.96**2 / (number + 1.96**2):.3f})"


def of_all(number):
    return f"1.000 ({number / (number + 1.96**2):.3f}-1.000)"


def test_readers_are_asked_about_both_kinds_and_never_whether_it_is_true(world, people, tmp_path):
    folder, captions = world
    flags = ["--dataset", str(folder), "--captions", "8", "--pairs", "8", "--sugarcrepe", str(people)]
    audit.main(["--readers", str(tmp_path / "q"), *flags])
    key = readers.read_key(tmp_path / "q" / "key.tsv")
    assert collections.Counter((i.question, i.source) for i in key.values()) == {
        **{("natural", "binding"): 4, ("natural", "position"): 4, ("natural", "people"): 2},
        **{("choice", "binding"): 4, ("choice", "position"): 4},
    }
    said = {(kind, *rest) for of_image in captions.values() for kind, *rest in of_image}
    ours = [item for item in key.values() if item.source != "people"]
    natural = [item for item in ours if item.question == "natural"]
    polarity = {"true": "positive", "false": "negative"}
    assert all((item.source, polarity[item.label], item.first) in said for item in natural)
    assert collections.Counter(item.label for item in natural) == {"true": 4, "false": 4}
    together = [frozenset((item.first, item.second)) for item in ours if item.question == "choice"]
    assert len(set(together)) == 8 and not {item.first for item in natural} & frozenset().union(*together)
    for item in ours[8:]:
        both = (item.first, item.second) if item.label == "1" else (item.second, item.first)
        true, false = ((item.source, side, text) for side, text in zip(("positive", "negative"), both, strict=True))
        assert any(true in of_image and false in of_image for of_image in captions.values())

    def answer(item):
        """Knows all bindings, and takes the first of two positions; finds people's captions best."""
        if item.question == "natural":
            return {"people": "5", "binding": "4", "position": "2"}[item.source]
        return item.label if item.source == "binding" else "1"

    lines = [f"{item.item}\t{answer(item)}" for item in key.values()]
    (tmp_path / "a.tsv").write_text("\n".join(["item\tanswer", *lines]))
    audit.main(["--readers", str(tmp_path / "q"), "--score", str(tmp_path / "a.tsv")])
    rows, ones = table(tmp_path / "q" / "answers.md"), sum(i.label == "1" for i in ours[8:] if i.source == "position")
    assert rows["people"][:2] == ["2", "5.00 ±0.00"] and rows["binding, true"][:2] == ["2", "4.00 ±0.00"]
    assert rows["position, false"] == ["2", "2.00 ±0.00", of_none(2), of_all(2)]
    assert rows["binding"] == ["4", of_all(4)] and rows["position"][1].startswith(f"{ones / 4:.3f} (")
    assert rows["all"][1].startswith(f"{(4 + ones) / 8:.3f} (") and not any("mirrored" in name for name in rows)
    assert "## Labels" not in (tmp_path / "q" / "answers.md").read_text()


def test_the_page_shows_photos_with_boxes_and_hides_the_labels(world, tmp_path):
    folder, captions = world
    audit.main(["--review", str(tmp_path), "--dataset", str(folder), "--sample", "12", "--assign", "anna,ben,carla"])
    asked, photos = embedded(tmp_path / "review.html", "form"), embedded(tmp_path / "review.html", "shown")
    key = readers.read_key(tmp_path / "key.tsv")
    assert len(asked["screens"]) == 12 and collections.Counter(map(len, asked["people"].values())) == {8: 3}
    firsts = []
    for screen in asked["screens"]:
        items = [key[question["row"]["item"]] for question in screen["questions"]]
        firsts.append(items[0].label)
        assert {item.label for item in items} == {"true", "false"} and len({item.source for item in items}) == 1
        for item, question in zip(items, screen["questions"], strict=True):
            assert question["texts"] == [item.first] and question["row"].keys() == set(readers.SHOWN)
            side = {"true": "positive", "false": "negative"}[item.label]
            assert (item.source, side, item.first) in captions[item.about]
        (photo,) = photos[screen["title"]]
        _, split, index = items[0].about.rsplit("-", 2)
        things = {thing.label: thing.box for thing in draw(CONFIG, split, int(index)).things}
        assert photo["image_id"] == items[0].about
        assert base64.b64decode(photo["address"].removeprefix("data:image/jpeg;base64,"))[:2] == b"\xff\xd8"
        assert len(photo["boxes"]) == 2 and {label for label, *_ in photo["boxes"]} <= things.keys()
        for label, _, (xmin, xmax, ymin, ymax) in photo["boxes"]:
            np.testing.assert_allclose((xmin, ymin, xmax, ymax), things[label], atol=1e-6)
    assert set(firsts) == {"true", "false"}
    assert collections.Counter(item.source for item in key.values()) == {"binding": 12, "position": 12}


def test_what_is_wrong_is_counted_by_kind_and_relation(world, tmp_path):
    folder, _ = world
    audit.main(["--review", str(tmp_path), "--dataset", str(folder), "--sample", "12"])
    key = readers.read_key(tmp_path / "key.tsv")
    right = {"true": "yes", "false": "no"}
    said = {
        "anna": {item.item: "yes" for item in key.values()},
        "ben": {i.item: "unclear" if i.source == "position" else right[i.label] for i in key.values()},
    }
    for name, answers in said.items():
        with (tmp_path / f"answers-{name}.csv").open("w", newline="") as file:
            rows = csv.DictWriter(file, (*readers.SHOWN, "answer", "annotator"), extrasaction="ignore")
            rows.writeheader()
            rows.writerows(key[item]._asdict() | {"answer": a, "annotator": name} for item, a in answers.items())
    files = [str(tmp_path / f"answers-{name}.csv") for name in said]
    audit.main(["--readers", str(tmp_path), "--score", *files])
    report = (tmp_path / "answers.md").read_text()
    wrong, unsure = re.findall(r"## (?:Wrong|Not sure) on photos\n(.*?)(?=\n## )", report, re.DOTALL)
    half = "0.500 (0.188-0.812)"  # Wilson's interval of 3 of 6
    assert [f"| {kind}, true | 6 | {of_none(6)} |" in wrong for kind in ("binding", "position")] == [True, True]
    assert [f"| {kind}, false | 6 | {half} |" in wrong for kind in ("binding", "position")] == [True, True]
    of_relations = collections.Counter((i.source, i.label, i.relation) for i in key.values())
    for (kind, label, relation), number in of_relations.items():
        assert f"| {kind}, {label}, {relation} | {number} | {0.5 if label == 'false' else 0:.3f} (" in wrong
    assert f"| binding, true | 6 | {of_none(6)} |" in unsure and f"| position, false | 6 | {half} |" in unsure
    assert "## Naturalness" not in report and "| photo | 24 |" in report

    for read in (lambda path: decisions.rejected([path]), lambda path: decisions.read([path])):
        with pytest.raises(UserError, match=r"answers-ben.csv:1: has answers of readers or about photos, not"):
            read(tmp_path / "answers-ben.csv")


@pytest.mark.parametrize(
    ("triplet", "message"),
    [
        ("Cat|left_of|Dog", r"d.csv: Cat\|left_of\|Dog is a position, not a triplet; remove its rows"),
        ("Chair|is|Wooden || Table|is|Plastic", r"d.csv:2: triplet .* expected 'subject\|relation\|object'"),
    ],
)
def test_decisions_on_exchanges_are_refused(tmp_path, triplet, message):
    (tmp_path / "d.csv").write_text(f"triplet,text,decision\n{triplet},A cat is to the left of a dog.,reject\n")
    with pytest.raises(UserError, match=message):
        decisions.rejected([tmp_path / "d.csv"])


def test_hostile_words_stay_words(tmp_path):
    bad = '</script><script>alert(1)</script><!--{{rows}}"\t&\u2028'
    example = {"image": b"\xff\xd8", "image_id": bad.encode()}
    example["objects"] = {"label": [bad.encode()], "box": [np.array([0.1, 0.2, 0.3, 0.4], np.float32)]}
    found = exchanged.Found(Pair(bad, "x", bad, bad, kind="binding"), (Triplet(bad, "is", "Red"),), ("test", 0))
    screens, items, photos = exchanged.screens({"test": [example]}, [found], np.random.default_rng(0))
    (tmp_path / "page.html").write_text(form.page(readers.PHOTO_FORM, screens, None, photos))
    empty = form.page(readers.PHOTO_FORM, [])
    assert (tmp_path / "page.html").read_text().count("<script") == empty.count("<script")
    assert bad in [q["texts"][0] for q in embedded(tmp_path / "page.html", "form")["screens"][0]["questions"]]
    ((photo,),) = embedded(tmp_path / "page.html", "shown").values()
    assert photo["image_id"] == photo["boxes"][0][0] == bad
    readers.write_key(tmp_path, items)
    assert [row["item"] for row in read_tsv(tmp_path / "key.tsv")] == ["photo-1", "photo-2"]


def test_other_datasets_and_flags_are_refused(world, tmp_path, capsys):
    other = shutil.copytree(world[0], tmp_path / "other")
    (other / "features.json").write_text((other / "features.json").read_text().replace('"paraphrase"', '"wording"'))
    with pytest.raises(UserError, match=r"--dataset .*other: not NatuRel in its current format, .*build it again"):
        audit.main(["--readers", str(tmp_path / "q"), "--dataset", str(other)])
    dataset = ["--dataset", str(world[0])]
    with pytest.raises(UserError, match=r"--sample 9999: expected a number from 1 to \d+, the pairs of the dataset"):
        audit.main(["--review", str(tmp_path / "r"), *dataset, "--sample", "9999"])
    for more, message in (
        (["--bank", "second.tsv"], "not allowed with argument"),
        (["--label_studio"], "--label_studio: not used with --dataset"),
    ):
        with pytest.raises(SystemExit):
            audit.main(["--review", str(tmp_path / "r"), *dataset, *more])
        assert message in capsys.readouterr().err
