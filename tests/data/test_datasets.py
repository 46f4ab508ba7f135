"""Training data: prepared datasets, and external sources and recipes."""

import itertools
import json
import pickle
import shutil

import jax
import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.batches.recipes import RECIPES, Recipe, recipe
from naturel_jax.data.items import prepared
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import preset
from tests.helpers.caption_groups import processor, source
from tests.helpers.outside_source import open_folder
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


def test_prepared_dataset_opens_with_and_without_prefix():
    plain, prefixed = (
        datasets.open_source(name, str(data_dir()), "validation") for name in ("naturel/tiny", "tfds:naturel/tiny")
    )
    assert len(plain.items) == len(prefixed.items) == 40
    assert list(plain.items.texts) == list(prefixed.items.texts) and plain.read_image(7) == prefixed.read_image(7)
    assert plain.read_image(0).startswith(b"\xff\xd8")
    assert recipe("all_pairs").check(plain.items) == (4, 4)


@pytest.mark.parametrize(
    ("dataset", "split", "match"),
    [
        ("naturel/full", "train", r"'naturel/full' is not prepared under .*See 'Build NatuRel' in the README"),
        ("naturel/tiny", "dev", r"has no split 'dev'; expected one of: .*train"),
        ("video:a", "train", r"dataset 'video:a' has prefix 'video'; expected tfds"),
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


def test_highest_complete_version_is_used(tmp_path):
    for version in ("1.0.0", "10.0.0", "9.0.0", "11.0.0.incomplete.ABC"):
        (tmp_path / "mine" / version).mkdir(parents=True)
        (tmp_path / "mine" / version / "dataset_info.json").write_text("{}")
    assert datasets.directory(str(tmp_path), "mine").name == "10.0.0"


def test_prepared_dataset_knows_the_benchmark_items_that_it_holds(tmp_path):
    shutil.copytree(next((data_dir() / "naturel/tiny").iterdir()), tmp_path / "mine/1.0.0")
    path = tmp_path / "mine/1.0.0/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"used": {"coco": ["9", "57"], "winoground": ["3"]}}))
    origin = datasets.open_source("mine", str(tmp_path), "validation").origin
    assert origin.used == {"coco": {"57", "9"}, "winoground": {"3"}} and not origin.photos, "the world is drawn"
    assert origin.cache.startswith(str(tmp_path / ".cache"))


@pytest.fixture
def outside(monkeypatch, tmp_path):
    """An external recipe and data source, registered with one line each."""
    monkeypatch.setitem(RECIPES, "mine", Recipe(positives=1, negatives=2, sentinel=True))
    monkeypatch.setitem(datasets.SOURCES, "outside", open_folder)
    original = source(6)
    rows = [
        {"image": f"{n}.jpg", "positives": [f"a true {n}", f"as true {n}"], "negatives": list("xyz")} for n in range(6)
    ]
    for n in range(6):
        (tmp_path / f"{n}.jpg").write_bytes(original.read_image(n))
    (tmp_path / "train.json").write_text(json.dumps(rows))
    return tmp_path


def test_external_recipe_and_source(outside):
    """Mixed with a prepared dataset; batches are a function of the step, also after resuming."""
    raw = c.base()
    raw.preset, raw.data.dir, raw.data.batch_size = "tiny-clip", str(data_dir()), 16
    raw.data.mixture.mine = c.part(f"outside:{outside}", "mine", weight=0.5)
    raw.data.mixture.scenes = c.part("naturel/tiny", "all_pairs", weight=0.5)
    config = c.load(raw)
    sources = [datasets.open_source(p.dataset, config.data.dir, p.split) for p in config.data.mixture.values()]
    texts = list(itertools.chain(*(s.items.texts for s in sources)))

    def batches(start):
        model, mesh = preset("tiny-clip"), make_mesh({"data": -1})
        return make_pipeline(config, sources, model, processor("clip", texts), mesh).batches(start, 4)

    first, resumed = list(batches(0)), list(batches(2))
    assert len(first) == 4 and len(resumed) == 2
    for one, other in zip(first[2:], resumed, strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)
    for batch in first:
        positives, negatives = ((np.asarray(ids) >= 0).sum(axis=1) for ids in batch.image_labels[1:3])
        sampled = list(zip(positives.tolist(), negatives.tolist(), strict=True))
        assert sampled.count((1, 2)) == 8 and sampled.count((4, 4)) == 8 and sampled.count((0, 0)) == 8
