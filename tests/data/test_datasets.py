"""Training data: prepared datasets, and external sources and recipes."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from naturel_jax.data import datasets
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items import prepared
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


def test_prepared_dataset_opens_with_and_without_prefix():
    names = ("naturel/tiny", "tfds:naturel/tiny")
    plain, prefixed = (datasets.open_source(name, str(data_dir()), "validation") for name in names)
    assert len(plain.items) == len(prefixed.items) == 40
    assert list(plain.items.texts) == list(prefixed.items.texts) and plain.read_image(7) == prefixed.read_image(7)
    assert plain.read_image(0).startswith(b"\xff\xd8")
    assert recipe("all_pairs").check(plain.items) == (4, 4)


@pytest.mark.parametrize(
    ("dataset", "split", "match"),
    [
        ("naturel/full", "train", r"'naturel/full' is not prepared under .*See docs/naturel\.md"),
        ("mine/x", "train", r"'mine/x' is not prepared under .*Prepare it there with TFDS \(data_dir='.*'\), or name"),
        (__file__, "train", r"The path .*test_datasets\.py is there: name its source before it, such as csv:"),
        ("naturel/tiny", "dev", r"has no split 'dev'; expected one of: .*train"),
    ],
)
def test_error_names_a_dataset_that_cannot_be_opened(dataset, split, match):
    with pytest.raises(UserError, match=match):
        datasets.open_source(dataset, str(data_dir()), split)


def test_a_feature_read_alone_is_that_of_the_whole_record():
    folder = datasets.directory(str(data_dir()), "naturel/tiny")
    records = pickle.loads(pickle.dumps(prepared.open_split(folder, "validation").records))
    for n in (0, 39):
        for name, value in records[n].items():
            jax.tree.map(np.testing.assert_array_equal, records.value(n, name), value)
    assert set(records.features) == set(records[0])


@pytest.fixture
def mine(tmp_path) -> Path:
    """A copy of naturel/tiny, as the dataset ``mine`` below ``tmp_path``."""
    return shutil.copytree(next((data_dir() / "naturel/tiny").iterdir()), tmp_path / "mine/1.0.0")


def test_dataset_of_a_stranger_runs_no_code_and_stays_in_its_folder(mine, tmp_path, monkeypatch, capsys):
    features, info = ((mine / name).read_text() for name in ("features.json", "dataset_info.json"))
    (tmp_path / "hostile.py").write_text("print('hostile code runs')")
    monkeypatch.syspath_prepend(tmp_path)
    text = "tensorflow_datasets.core.features.text_feature.Text"
    old = json.dumps({"type": "hostile.Feature", "content": {}})
    template = json.loads(info)["splits"][0]["filepathTemplate"]
    for name, content, match in (
        ("features.json", features.replace(text, "hostile.Feature", 1), r"class 'hostile\.Feature'"),
        ("features.json", old, r"is of the class 'hostile\.Feature'; expected one of TFDS's own"),
        ("features.json", features.replace(text, f"{text}s", 1), r"not a readable TFDS dataset \(Unrecognized Feature"),
        ("features.json", "[", r"features\.json: not JSON"),
        ("dataset_info.json", info.replace(template, f"../../private/{template}"), r"private/.* not a file there"),
        ("dataset_info.json", "[", r"not a readable TFDS dataset"),
    ):
        (mine / "features.json").write_text(features)
        (mine / "dataset_info.json").write_text(info)
        (mine / name).write_text(content)
        with pytest.raises(UserError, match=match):
            prepared.open_split(mine, "train")
    assert "hostile" not in sys.modules and "hostile" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "metadata.json"])
def test_pipes_in_a_prepared_dataset_are_not_waited_for(name, mine, tmp_path):
    (mine / name).unlink()
    os.mkfifo(mine / name)
    with pytest.raises(UserError, match=rf"{name}: not a regular file"):
        datasets.open_source("mine", str(tmp_path), "validation")


def test_captions_whose_labels_mean_something_else_are_refused(mine, tmp_path):
    """Else all true captions of a dataset with the labels in another order would be taken for false ones."""
    (mine / "captions-polarity.labels.txt").write_text("positive\nnegative\n")
    with pytest.raises(UserError, match=r"has the labels \('positive', 'negative'\) of captions\.polarity; expected"):
        datasets.open_source("mine", str(tmp_path), "validation")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ([], r"options is \[\], expected an object"),
        ({"options": None}, "options is None, expected an object"),
        ({"used": ["coco"]}, r"used is \['coco'\], expected an object"),
        ({"used": {"coco": 5}}, "has 5 as used 'coco', expected names"),
        ({"used": {"coco": [["9"]]}}, r"has \[\['9'\]\] as used 'coco', expected names"),
    ],
)
def test_metadata_of_another_form_is_named(fields, match, mine, tmp_path):
    (mine / "metadata.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=match):
        datasets.open_source("mine", str(tmp_path), "validation")


def test_caches_of_a_prepared_dataset_are_made_from_all_of_its_files_but_the_card(mine, tmp_path):
    caches = []
    for name in ("metadata.json", "README.md", "metadata.json"):
        caches.append(datasets.open_unindexed("mine", str(tmp_path), "validation").origin.cache)
        with (mine / name).open("a") as file:
            file.write("\n")
    assert caches[0] != caches[1] == caches[2]


def test_highest_complete_version_is_used(tmp_path):
    for version in ("1.0.0", "10.0.0", "9.0.0", "11.0.0.incomplete.ABC"):
        (tmp_path / "mine" / version).mkdir(parents=True)
        (tmp_path / "mine" / version / "dataset_info.json").write_text("{}")
    assert datasets.directory(str(tmp_path), "mine").name == "10.0.0"


def test_prepared_dataset_knows_the_benchmark_items_that_it_holds(mine, tmp_path):
    path = mine / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"used": {"coco": ["9", "57"], "winoground": ["3"]}}))
    origin = datasets.open_source("mine", str(tmp_path), "validation").origin
    assert origin.used == {"coco": {"57", "9"}, "winoground": {"3"}} and not origin.photos, "the world is drawn"
    assert origin.cache.startswith(str(tmp_path / ".cache"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"captions": ["a", *map(str, range(256))]}], r"my\.jsonl, image '.*': 257 true or false captions; .* 256"),
        ([{"negatives": list(map(str, range(257)))}], r"my\.jsonl, image '.*': 257 true or false captions"),
        (
            [{"asserts": [str(n)]} for n in range(80)] + [{"shows": list(map(str, range(60)))}],
            r"image '.*' shows 60 facts, and the caption 'a dog' asserts 80; expected at most 4,096 pairs of them",
        ),
    ],
)
def test_one_record_cannot_widen_every_batch(rows, message, tmp_path):
    lines = [json.dumps({"image": "0.png", "captions": ["a dog"]} | row) for row in rows]
    (tmp_path / "my.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        datasets.open_source(f"jsonl:{tmp_path}/my.jsonl", str(tmp_path), "train")
