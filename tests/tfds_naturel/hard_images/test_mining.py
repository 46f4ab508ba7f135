"""Mined negative images: which images qualify, which are excluded, and the file format."""

import ast
import itertools
import json
import os
import resource
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image as PilImage

from naturel_jax import embed, mine
from naturel_jax.data.batches import hard_images
from naturel_jax.data.items import prepared
from naturel_jax.weights import export
from tests.helpers import open_images_files
from tests.helpers.model_files import tiny
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images import mining
from tfds_naturel.hard_images.survey import Survey

CAT_ON_TABLE, TABLE_ON_CAT = Triplet("Cat", "on", "Table"), Triplet("Table", "on", "Cat")
TABLE_UNDER_CAT, CAT_UNDER_TABLE = Triplet("Table", "under", "Cat"), Triplet("Cat", "under", "Table")
PLAYS, HOLDS, HITS = (Triplet("Man", relation, "Guitar") for relation in ("plays", "holds", "hits"))
WOODEN, PLASTIC, CLEAR = (Triplet("Chair", "is", name) for name in ("Wooden", "Plastic", "Transparent"))
DOG_ON_TABLE = Triplet("Dog", "on", "Table")


def _survey(*images):
    return Survey.from_images((f"image{n}", triplets) for n, triplets in enumerate(images))


def _mine(images, count=8, **options):
    """Image number and triplet -> the numbers of the negatives, and their kinds."""
    rows = mining.mine(_survey(*images), count, **options)
    return {
        (int(image[5:]), Triplet.parse(triplet)): ([int(name[5:]) for name in negatives], kinds)
        for image, triplet, negatives, kinds in rows
    }


def test_survey_maps_images_to_triplets_and_back():
    images = [[CAT_ON_TABLE, WOODEN], [], [WOODEN], [PLAYS, CAT_ON_TABLE]]
    survey = Survey.from_bytes(_survey(*images).to_bytes())
    assert [survey.triplets_of(n) for n in range(4)] == images and survey.image_ids == [f"image{n}" for n in range(4)]
    by_triplet = {t: result.tolist() for t, result in zip(survey.triplets, survey.images_of(), strict=True)}
    assert by_triplet == {CAT_ON_TABLE: [0, 3], WOODEN: [0, 2], PLAYS: [3]}
    assert survey.count({"image0", "image2"}) == {CAT_ON_TABLE: 1, WOODEN: 2}


def test_may_hold():
    assert mining.may_hold(CAT_ON_TABLE, [WOODEN, CAT_ON_TABLE])
    assert mining.may_hold(CAT_ON_TABLE, [TABLE_UNDER_CAT]), "the same fact, with swapped roles"
    assert not mining.may_hold(CAT_ON_TABLE, [TABLE_ON_CAT, CAT_UNDER_TABLE, DOG_ON_TABLE, WOODEN])
    assert mining.may_hold(HOLDS, [PLAYS]), "someone who plays a guitar also holds it"
    assert mining.may_hold(Triplet("Man", "interacts_with", "Woman"), [Triplet("Woman", "interacts_with", "Man")])
    assert mining.may_hold(WOODEN, [WOODEN]) and not mining.may_hold(WOODEN, [PLASTIC])


def test_kinds_of_negatives():
    triplets = [CAT_ON_TABLE, TABLE_ON_CAT, CAT_UNDER_TABLE, TABLE_UNDER_CAT, DOG_ON_TABLE]
    triplets += [WOODEN, PLASTIC, HITS, PLAYS]
    assert mining.kinds_of(CAT_ON_TABLE, triplets) == {"swap": [1], "relation": [2], "attribute": []}
    assert mining.kinds_of(WOODEN, triplets) == {"swap": [], "relation": [], "attribute": [6]}
    assert mining.kinds_of(Triplet("Dog", "is", "Wooden"), triplets)["attribute"] == []


def test_negatives_come_by_kind_and_never_show_the_triplet():
    images = [[CAT_ON_TABLE], [TABLE_ON_CAT], [CAT_UNDER_TABLE]]
    images += [[CAT_UNDER_TABLE, CAT_ON_TABLE]]  # two cats: shows the triplet too
    images += [[TABLE_UNDER_CAT, TABLE_ON_CAT]]  # the same fact, with swapped roles
    images += [[DOG_ON_TABLE], [WOODEN], [PLASTIC]]
    mined = _mine(images)
    assert mined[0, CAT_ON_TABLE] == ([1, 2], ["swap", "relation"])
    assert mined[6, WOODEN] == ([7], ["attribute"]) and mined[7, PLASTIC][1] == ["attribute"]
    assert (5, DOG_ON_TABLE) not in mined
    assert _mine(images, count=1)[0, CAT_ON_TABLE][0] == [1]


def test_embeddings_order_each_kind_and_add_neighbours_but_no_copies():
    images = [[CAT_ON_TABLE], [CAT_UNDER_TABLE], [CAT_UNDER_TABLE], [DOG_ON_TABLE], [WOODEN], [CAT_ON_TABLE], [PLASTIC]]
    angles = np.radians([0, 40, 20, 30, 60, 10, 2])  # image 6 looks like a copy of image 0; 5 shows the triplet too
    zimg_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    kinds = ["relation", "relation", "nearest", "nearest"]
    assert _mine(images, zimg_ND=zimg_ND)[0, CAT_ON_TABLE] == ([2, 1, 3, 4], kinds)
    assert _mine(images, count=3, zimg_ND=zimg_ND)[0, CAT_ON_TABLE][0] == [2, 1, 3]


def test_margins_in_sentence_transformers_words():
    """Image 0 and its positive, image 1, are 30 degrees apart; the others 20, 40 and 60 degrees from image 0."""
    images = [[CAT_ON_TABLE], [CAT_ON_TABLE], [DOG_ON_TABLE], [WOODEN], [PLASTIC]]
    angles = np.radians([0, -30, 20, 40, 60])
    zimg_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    positive, far = np.cos(angles[1]), np.cos(angles[4])

    def mined(**margins):
        dropped = Counter()
        found = _mine(images, zimg_ND=zimg_ND, margins=mining.Margins(**margins), dropped=dropped)
        return found.get((0, CAT_ON_TABLE), ([], []))[0], dropped

    assert mined()[0] == [2, 3, 4]
    assert mined(max_score=0.8)[0] == [3, 4] and mined(max_score=0.8)[1]["max_score"] > 0
    assert mined(absolute_margin=0.0)[0] == [3, 4], "image 2 is nearer than the positive"
    assert mined(absolute_margin=positive - far - 0.01)[0] == [4]
    assert mined(relative_margin=1 - (far + 0.01) / positive)[0] == [4]
    assert mined(range_min=2)[0] == [3, 4], "ranks count the positive, which shows the triplet"
    assert mined(range_max=3)[0] == [2, 3] and mined()[1]["shows_triplet"] > 0


def test_what_is_left_out_is_counted_for_each_image_and_triplet():
    """Image 0 shows two triplets, image 1 is a copy of it, and image 2 shows one of the two."""
    images = [[CAT_ON_TABLE, WOODEN], [DOG_ON_TABLE], [CAT_ON_TABLE]]
    angles = np.radians([0, 2, 60])
    zimg_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    dropped = Counter()
    mined = _mine(images, zimg_ND=zimg_ND, dropped=dropped)
    assert mined[0, WOODEN] == ([2], ["nearest"]) and (0, CAT_ON_TABLE) not in mined
    # The copy is one of image 0 (two triplets) and image 0 one of it; images 0 and 2 show what the other does.
    assert {reason: number for reason, number in dropped.items() if number} == {"copy": 3, "shows_triplet": 2}
    with pytest.raises(UserError, match="embeddings on a disk: need search="):
        _mine(images, zimg_ND=memoryview(zimg_ND))


def test_cosines_do_not_depend_on_what_else_is_compared():
    z_KD = np.random.default_rng(0).normal(size=(300, 512)).astype(np.float32)
    one_by_one = [mining.cosines(z_KD[n : n + 1], z_KD[0]) for n in range(300)]
    np.testing.assert_array_equal(mining.cosines(z_KD, z_KD[0]), np.concatenate(one_by_one))


def test_neighbours_match_a_full_sort(monkeypatch):
    """With more images than fit in one matrix product."""
    monkeypatch.setattr(mining, "ROWS", 64)
    count = 150
    rng = np.random.default_rng(0)
    zimg_ND = rng.normal(size=(count, 5)).astype(np.float32)
    zimg_ND /= np.linalg.norm(zimg_ND, axis=1, keepdims=True)
    images = [[Triplet(f"C{n}", "on", "Table")] for n in range(count)]  # no kinds other than nearest
    mined = _mine(images, count=4, zimg_ND=zimg_ND)
    assert len(mined) == count
    for (n, _), (negatives, _) in mined.items():
        cosines = zimg_ND @ zimg_ND[n]
        allowed = np.flatnonzero((cosines < 0.97) & (np.arange(count) != n))
        np.testing.assert_allclose(cosines[negatives], -np.sort(-cosines[allowed])[:4], atol=1e-6)


def test_mining_is_reproducible_and_samples_large_pools():
    images = [[CAT_ON_TABLE]] * 30 + [[CAT_UNDER_TABLE]] * 400
    first, again, other = (_mine(images, count=300, seed=seed) for seed in (0, 0, 1))
    assert first == again and first != other
    mined = [negatives for (n, _), (negatives, _) in first.items() if n < 30]
    assert all(len(negatives) == 256 for negatives in mined), "at most 256 candidates per kind are compared"
    assert set(itertools.chain(*mined)) == set(range(30, 430))


def test_saved_file_is_read_back_as_image_numbers(tmp_path):
    survey = _survey([CAT_ON_TABLE, WOODEN], [CAT_UNDER_TABLE], [PLASTIC], [DOG_ON_TABLE])
    path = tmp_path / "negatives.parquet"
    assert mining.save(path, mining.mine(survey, 8)) == 4
    names = ["image2", "image3", "image0", "image1"]
    assert [*map(list, hard_images.read(path, names))] == [[2], [], [3, 0], [2]]
    with pytest.raises(UserError, match="image 'image1' is not in this dataset"):
        hard_images.read(path, names[:3])


def test_rows_of_an_image_are_joined_and_repeated_negatives_dropped(tmp_path):
    path = tmp_path / "negatives.parquet"
    rows = {"image_id": ["b", "a", "b"], "negatives": [["c", "a"], None, ["a", "b", "c"]]}
    pq.write_table(pa.table(rows), path)
    assert [*map(list, hard_images.read(path, ["a", "b", "c"]))] == [[], [2, 0, 1], []]
    several = hard_images.read(path, ["b", "a", "c", "b"])
    assert [*map(list, several)] == [[2, 1, 0], [], [], [2, 1, 0]], "of each record of an image"
    pq.write_table(pa.table({"image_id": ["a"], "negatives": ["b"]}), path)
    with pytest.raises(UserError, match="negatives are string, expected lists of image ids; mine again"):
        hard_images.read(path, ["a", "b"])
    pq.write_table(pa.table({"image_id": ["a"]}), path)
    with pytest.raises(UserError, match="has no column negatives"):
        hard_images.read(path, ["a", "b"])


def test_file_of_hard_images_is_read_within_few_times_the_memory_of_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(hard_images, "_ROWS", 1000)
    names, rng = [f"image{n}" for n in range(20_000)], np.random.default_rng(0)
    negatives = rng.integers(len(names), size=(60_000, 8))
    rows = {"image_id": [names[n // 3] for n in range(60_000)], "negatives": [[names[m] for m in r] for r in negatives]}
    pq.write_table(pa.table(rows), tmp_path / "negatives.parquet")
    tracemalloc.start()
    found = hard_images.read(tmp_path / "negatives.parquet", names)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for n in (0, 777, 19_999):
        assert found[n].tolist() == list(dict.fromkeys(negatives[3 * n : 3 * n + 3].ravel().tolist()))
    assert peak < 6 * found.values.nbytes, "numbers of 32 bits, not a few arrays of 64 beside each other"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    return open_images_files.build_dataset(open_images_files.write_world(folder / "world"), folder)


def _mine_dataset(dataset, out, *options):
    """Runs the command; returns the file's rows, what each training image shows, and the file's numbers."""
    mine.main(["--dataset", str(dataset), "--out", str(out), "--count", "4", *options])
    source = tfds.builder_from_directory(dataset).as_data_source("train")
    ids = [source[n]["image_id"].decode() for n in range(len(source))]
    by_id = {open_images_files.image_id(n): [Triplet(*t) for t in open_images_files.shown(n)] for n in range(90)}
    return pq.read_table(out).to_pylist(), {name: by_id[name] for name in ids}, list(hard_images.read(out, ids))


def test_file_of_hard_images_that_is_not_utf8_is_rejected(tmp_path):
    path = tmp_path / "hard_images.parquet"
    mining.save(path, [("image0", "Cat|on|Table", ["image1"], ["subject"])])
    path.write_bytes(path.read_bytes().replace(b"image1", b"\xffmage1"))
    with pytest.raises(UserError, match=r"not a readable Arrow or Parquet file \(.*; mine again"):
        hard_images.read(path, ["image0", "image1"])


def test_mining_a_built_dataset(dataset, tmp_path):
    rows, shown, numbers = _mine_dataset(dataset, tmp_path / "negatives.parquet")
    assert rows and max(map(len, numbers)) > 0
    for row in rows:
        triplet = Triplet.parse(row["triplet"])
        assert triplet in shown[row["image_id"]]
        assert not any(mining.may_hold(triplet, shown[name]) for name in row["negatives"])
        for name, kind in zip(row["negatives"], row["kinds"], strict=True):
            assert kind == "attribute" and {t.subject for t in shown[name] if t.relation == "is"} & {triplet.subject}
    out = tmp_path / "negatives.parquet"
    out.write_bytes(out.read_bytes().replace(b"negatives", b"negativer"))  # one bit in the footer: no negatives at all
    with pytest.raises(UserError, match=r"negatives\.parquet: damaged, or not the file that .*parquet\.json describes"):
        hard_images.read(out, list(shown))


def test_negclips_training_code_reads_what_was_mined(dataset, tmp_path):
    """As its ``CsvDataset`` does: pandas with ``ast.literal_eval``; a caption and an image are drawn from each list."""
    rows, *_ = _mine_dataset(dataset, tmp_path / "out.parquet", "--negclip", str(tmp_path / "negclip"))
    converters = {"neg_caption": ast.literal_eval, "neg_image": ast.literal_eval}
    found = pd.read_csv(tmp_path / "negclip/train_neg_clip.tsv", sep="\t", converters=converters)
    images = [Path(path).stem for path in found["filepath"]]
    negatives = {(row["image_id"], row["triplet"]): row["negatives"] for row in rows}
    assert 0 < len(found) <= len(negatives)
    assert all(map(len, found["neg_caption"])) and all(map(len, found["neg_image"]))
    for image, path, title, wrong, numbers in zip(
        images, found["filepath"], found["title"], found["neg_caption"], found["neg_image"], strict=True
    ):
        with PilImage.open(path) as picture:
            picture.verify()
        assert title not in wrong
        listed = [names for (name, _), names in negatives.items() if name == image]
        assert any({images[n] for n in numbers} <= set(names) for names in listed)
    assert {path.stem for path in (tmp_path / "negclip/images").iterdir()} == set(images)


@pytest.mark.parametrize("part", ["images", "table"])
def test_a_full_disk_leaves_negclips_files_as_they_were(dataset, tmp_path, monkeypatch, part):
    if part == "table":
        monkeypatch.setattr(prepared, "read_image", lambda *_: b"small")
    folder, out = tmp_path / "negclip", tmp_path / "out.parquet"
    command = [f"--dataset={dataset}", f"--out={out}", f"--negclip={folder}"]
    mine.main([*command, "--count=4"])
    before = {path: path.read_bytes() for path in folder.glob("**/*.*")}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            mine.main([*command, "--count=3"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert {path: path.read_bytes() for path in folder.glob("**/*.*")} == before


@pytest.mark.slow
def test_mining_a_built_dataset_with_a_model(dataset, tmp_path):
    model, pool = tmp_path / "tiny", tmp_path / "pool"
    export.save(model, *tiny("tiny-clip"), form="hf")
    rows, shown, numbers = _mine_dataset(dataset, tmp_path / "out.parquet", f"--model={model}")
    assert len(rows) == sum(len(triplets) for triplets in shown.values())
    assert all(len(row["negatives"]) == 4 for row in rows), "neighbours fill the remaining slots"
    assert all(len(negatives) >= 4 for negatives in numbers)
    source = [f"--source=naturel/{dataset.parent.name}", f"--data_dir={dataset.parents[2]}"]
    embed.main([f"--model={model}", *source, "--dtype=float32", "--store=float32", f"--out={pool}"])
    pooled, _, _ = _mine_dataset(dataset, tmp_path / "pooled.parquet", f"--pool={pool}")
    assert pooled == rows, "the index is exact for so few images"
    report = json.loads((tmp_path / "pooled.parquet.json").read_text())
    assert report["rows"] == len(rows) and report["index"]["kind"] == "Flat" and report["dropped"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--split", "dev"], "has no split 'dev'; expected one of: .*train"),
        (["--max_score", "0.9"], "add --pool or --model"),
        (["--range_min", "3", "--range_max", "3"], "expected 0 <= min < max"),
        (["--max_score", "nan", "--model", "x"], "--max_score nan: expected a finite number"),
        (["--memory_gb", "nan"], "--memory_gb nan: expected 0.01 to"),
        (["--memory_gb", "1e308"], "expected 0.01 to"),
        (["--seed", "-1"], "--seed -1: expected a whole number"),
        (["--count", "0"], "--count is 0, expected 1 to"),
        (["--beam", "runner=DirectRunner", "--model", "tiny"], "--beam needs --pool in place of --model"),
        (["--beam", "runner=DirectRunner", "--out", "gs://bucket/x.parquet"], "--beam needs .* an --out on a disk"),
        (["--query", "text"], "--query text compares captions: add --model, whose text tower embeds them"),
        (["--foils", "foils.parquet"], "--foils compares captions: add --model"),
        (["--pool", "pool", "--model", "tiny"], "--model beside it would embed captions: add --query text"),
        (["--gallery", "-1"], "--gallery -1: expected 0 to 1,000 rows"),
        (["--dataset", "/nowhere"], "/nowhere is not a prepared dataset"),
    ],
)
def test_invalid_options_are_rejected(dataset, tmp_path, options, match):
    with pytest.raises(UserError, match=match):
        _mine_dataset(dataset, tmp_path / "x.parquet", *options)
    assert not list(tmp_path.iterdir())


def test_contrast_does_not_show_the_triplet_and_shows_the_false_claim_if_it_can():
    inside = Triplet("Cat", "inside_of", "Table")
    images = [CAT_ON_TABLE], [TABLE_ON_CAT], [inside], [CAT_ON_TABLE, inside], [DOG_ON_TABLE]
    contrasts = mining.Contrasts(_survey(*images))
    assert contrasts.find(0, CAT_ON_TABLE, TABLE_ON_CAT) == (1, True)
    assert contrasts.find(0, CAT_ON_TABLE, CAT_UNDER_TABLE) == (1, True), "the same fact, with swapped roles"
    assert contrasts.find(0, CAT_ON_TABLE, inside) == (2, True), "image 3 shows the triplet as well"
    other_claim, denial = (contrasts.find(0, CAT_ON_TABLE, claim) for claim in (DOG_ON_TABLE, None))
    assert other_claim is not None and other_claim.image in (1, 2) and not other_claim.mirrored
    assert denial is not None and denial.image in (1, 2) and denial.mirrored
    assert contrasts.find(4, DOG_ON_TABLE, None) is None


def test_full_disk_is_named_and_nothing_is_left_on_it(tmp_path):
    """A process of its own may write files of 4 kB at most."""
    code = (
        "import resource; from collections import Counter; from etils import epath\n"
        "from naturel_jax.evaluators.pool import mining as pool; from tfds_naturel.hard_images import mining\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, -1))\n"
        "rows = ((str(n) * 9, 'Cat|on|Table', [str(-n)], ['swap']) for n in range(9999))\n"
        "pool.save(epath.Path('a.parquet'), rows, None, Counter(), mining.Margins(), {})"
    )
    env = os.environ | {"PYTHONPATH": os.fspath(ROOT)}
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.stderr.splitlines()[-1].endswith("File too large: 'a.parquet'"), run.stderr
    assert not list(tmp_path.iterdir())
