"""The other training sources of the recipes, from small files in the formats of their publishers."""

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from open_images_files import photo
from PIL import Image

from naturel_jax.data.items import collect
from naturel_jax.data.prepared import caption_groups
from tfds_naturel import build, mining, order, recipe_sources
from tfds_naturel.naturel import HARD_IMAGES

TAGS = {"man": "NN", "horse": "NN", "dog": "NN", "brown": "JJ", "small": "JJ"}


@pytest.fixture
def tagger(monkeypatch):
    """Stands for spaCy's model: tags by word."""
    monkeypatch.setattr(
        order, "spacy_tags", lambda texts: [[(word, TAGS.get(word, "X")) for word in text.split()] for text in texts]
    )


def _build(config, manual_dir, out):
    build.main([config, "--manual-dir", str(manual_dir), "--data-dir", str(out)])
    folder = Path(out) / "naturel" / config / "1.0.0"
    examples = tfds.builder_from_directory(folder).as_data_source("train")
    return folder, {examples[n]["image_id"].decode(): examples[n] for n in range(len(examples))}


def _captions(example):
    captions = example["captions"]
    columns = (captions[name] for name in ("triplet", "pair", "polarity", "text", "asserts", "operation"))
    decoded = ([v.decode() if isinstance(v, bytes) else int(v) for v in column] for column in columns)
    return list(zip(*decoded, strict=True))


def _coco(folder, *numbers):
    names = [f"train2014/COCO_train2014_{number:012d}.jpg" for number in numbers]
    (folder / "coco" / "train2014").mkdir(parents=True)
    for name, number in zip(names, numbers, strict=True):
        (folder / "coco" / name).write_bytes(photo(number, 640, 480))
    return names


def test_coco_order_from_karpathys_training_captions(tmp_path, tagger):
    first, second = _coco(tmp_path, 57870, 9)
    records = [
        {"caption": "A brown horse; and a small man.", "image": first, "image_id": "coco_57870"},
        {"caption": "Dog", "image": second, "image_id": "coco_9"},
        {"caption": "a man walks the small dog", "image": first, "image_id": "coco_57870"},
        {"caption": "the brown dog", "image": second, "image_id": "coco_9"},
    ]
    (tmp_path / "coco" / "coco_karpathy_train.json").write_text(json.dumps(records))
    folder, examples = _build("coco_order", tmp_path, tmp_path / "out")
    assert set(examples) == {"COCO_train2014_000000057870", "COCO_train2014_000000000009"}
    assert recipe_sources.used(folder) == {"coco": {"57870", "9"}}

    rows = _captions(examples["COCO_train2014_000000057870"])
    assert [row[:3] for row in rows] == [
        (f"57870|captioned|{n}", pair, polarity) for n in range(2) for pair in range(4) for polarity in (1, 0)
    ]
    for n, caption in enumerate(["a brown horse and a small man", "a man walks the small dog"]):
        mine = rows[8 * n : 8 * n + 8]
        assert {row[3] for row in mine[::2]} == {caption}
        assert all(row[3] != caption and sorted(row[3].split()) == sorted(caption.split()) for row in mine[1::2])
        assert {row[4] for row in mine[1::2]} == {""} and {row[4] for row in mine[::2]} == {f"57870|captioned|{n}"}
        assert {row[5] for row in mine[1::2]} <= set(order.SHUFFLES)
    assert "a man walks the small dog" not in {row[3] for row in rows[1::2]}

    # "Dog" has no other order, so it is no pair; the other caption of that image stays.
    assert {row[0] for row in _captions(examples["COCO_train2014_000000000009"])} == {"9|captioned|1"}
    items = collect("coco", ((name, caption_groups(example)) for name, example in examples.items()))
    assert [len(items.groups(n)) for n in range(len(items))] == [len(_captions(e)) // 8 for e in examples.values()]


def _negclip(folder, rows):
    """``train_neg_clip.tsv`` as its authors write it, with their own absolute paths."""
    with (folder / "coco" / "train_neg_clip.tsv").open("w", newline="") as f:
        writer = csv.writer(f, delimiter="\t")
        writer.writerow(["", "title", "filepath", "neg_caption", "neg_image"])
        writer.writerows(
            [n, title, f"/home/author/coco/{name}", *lists] for n, (title, name, *lists) in enumerate(rows)
        )


def test_negclips_own_training_file(tmp_path):
    first, second = _coco(tmp_path, 1, 2)
    negatives = "['A horse on a man.', 'Man a.']"
    _negclip(tmp_path, [("A man on a horse.", first, negatives, "[1]"), ("Two dogs", second, "[]", "[0]")])
    folder, examples = _build("negclip_tsv", tmp_path, tmp_path / "out")
    rows = _captions(examples.pop("COCO_train2014_000000000001"))
    assert [row[3] for row in rows] == ["a man on a horse", "a horse on a man", "a man on a horse", "man a"] * 2
    assert not examples and recipe_sources.used(folder) == {"coco": {"1", "2"}}


def test_negclips_hard_images_are_those_of_the_rows_that_it_names(tmp_path):
    """Row numbers count from 0. An image is no hard image of itself; one without negatives is not in the dataset."""
    first, second, third, bare = _coco(tmp_path, 1, 2, 3, 4)
    wrong = "['other words']"
    rows = [("a", first, wrong, "[2, 3]"), ("b", first, wrong, "[0, 4]"), ("c", second, wrong, "[0, 1]")]
    _negclip(tmp_path, [*rows, ("d", third, wrong, "[2, 4]"), ("e", bare, "[]", "[2]")])
    folder, examples = _build("negclip_tsv", tmp_path, tmp_path / "out")
    names = [f"COCO_train2014_{n:012d}" for n in (1, 2, 3)]
    assert sorted(examples) == names
    table = pq.read_table(folder / HARD_IMAGES).to_pylist()
    assert {row["triplet"]: row["negatives"] for row in table} == {
        "1|captioned|0": [names[1], names[2]],
        "2|captioned|0": [names[0]],
        "3|captioned|0": [names[1]],
    }
    assert mining.hard_images(folder / HARD_IMAGES, names) == [(1, 2), (0,), (1,)]


@pytest.mark.parametrize("numbers", ["[7]", "[-1]", "['1']"])
def test_hard_images_outside_of_negclips_file_are_refused_and_nothing_is_left(tmp_path, numbers):
    (name,) = _coco(tmp_path, 1)
    _negclip(tmp_path, [("A man", name, "['Man a']", numbers)])
    with pytest.raises(SystemExit, match=r"neg_image of 'A man' has .*; expected numbers of its 1 rows"):
        _build("negclip_tsv", tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("dataset_info.json"))


@pytest.mark.parametrize(
    "negatives", ["__import__('os').system('true')", "[1, 2]", "not a list", "(" * 200, None], ids=repr
)
def test_hostile_rows_of_negclips_file_are_refused(tmp_path, negatives):
    (name,) = _coco(tmp_path, 1)
    with (tmp_path / "coco" / "train_neg_clip.tsv").open("w", newline="") as f:
        writer = csv.writer(f, delimiter="\t")
        writer.writerow(["title", "filepath", "neg_caption"])
        writer.writerow(["A man", name, negatives][: 3 if negatives else 2])
    with pytest.raises(SystemExit, match=r"train_neg_clip.tsv:2: .*expected title, filepath, neg_caption"):
        _build("negclip_tsv", tmp_path, tmp_path / "out")


def _winoground(folder, items, missing=()):
    (folder / "winoground" / "data").mkdir(parents=True)
    lines, archive = [], zipfile.ZipFile(folder / "winoground" / "images.zip", "w")
    for n in items:
        names = [f"ex_{n}_img_{k}" for k in range(2)]
        for k, name in enumerate(names):
            if name not in missing:
                buffer = io.BytesIO()
                Image.open(io.BytesIO(photo(2 * n + k, 400, 320, quality=100))).save(buffer, "PNG", compress_level=0)
                archive.writestr(f"images/{name}.png", buffer.getvalue())
        captions = {"caption_0": f"{n} old pats young", "caption_1": f"{n} young pats old"}
        lines.append(json.dumps({"id": n, "image_0": names[0], "image_1": names[1], "tag": "x"} | captions))
    archive.close()
    (folder / "winoground" / "data" / "examples.jsonl").write_text("\n".join(lines) + "\n")


def test_half_of_winoground_the_same_half_everywhere(tmp_path):
    _winoground(tmp_path / "a", range(16))
    folder, examples = _build("winoground_part", tmp_path / "a", tmp_path / "a")
    taken = recipe_sources.used(folder)["winoground"]
    assert 2 <= len(taken) <= 14 and set(examples) == {f"{n}-{k}" for n in taken for k in range(2)}
    _winoground(tmp_path / "b", range(8, 16))
    folder, _ = _build("winoground_part", tmp_path / "b", tmp_path / "b")
    assert recipe_sources.used(folder)["winoground"] == {n for n in taken if int(n) >= 8}

    n = min(taken, key=int)
    for k in range(2):
        said, other = (f"{n} old pats young", f"{n} young pats old")[:: 1 - 2 * k]
        expected = [(f"{n}|winoground|{k}", said), (f"{n}|winoground|{1 - k}", other)] * 4
        assert [(row[4], row[3]) for row in _captions(examples[f"{n}-{k}"])] == expected
        pixels = examples[f"{n}-{k}"]["image"]
        original = np.asarray(Image.open(io.BytesIO(photo(2 * int(n) + k, 400, 320, quality=100))).resize((360, 288)))
        assert pixels.shape == (288, 360, 3) and np.abs(pixels.astype(int) - original).mean() < 4


def test_files_that_are_not_as_published_are_refused(tmp_path, tagger):
    _winoground(tmp_path, range(4), missing=[f"ex_{n}_img_1" for n in range(4)])
    with pytest.raises(SystemExit, match=r"images.zip: no image 'ex_\d_img_1'.* which item \d needs"):
        _build("winoground_part", tmp_path, tmp_path / "out")
    (tmp_path / "coco").mkdir()
    path = tmp_path / "coco" / "coco_karpathy_train.json"
    for record, match in {
        '{"image": "../../etc/passwd"}': "record 0 is .*expected an image path and its caption",
        '{"image": "../../COCO_train2014_000000000001.jpg", "caption": "a b c d"}': "leads out of",
        '{"image": "a.jpg", "caption": "a b"}': "'a.jpg': not a COCO file name",
    }.items():
        path.write_text(f"[{record}]")
        with pytest.raises(SystemExit, match=match):
            _build("coco_order", tmp_path, tmp_path / "out")
