"""The other training sources of the recipes, tested on small files in the published formats."""

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from naturel_jax.data.batches import hard_images
from tests.helpers.image_files import encoded
from tests.helpers.open_images_files import photo
from tfds_naturel import build, naturel
from tfds_naturel.captions import word_order
from tfds_naturel.common.errors import UserError
from tfds_naturel.naturel import HARD_IMAGES
from tfds_naturel.sources.examples import CaptionedImage, Group, Negative, RecipeSource, used

TAGS = {"man": "NN", "horse": "NN", "dog": "NN", "brown": "JJ", "small": "JJ"}


@pytest.fixture
def tagger(monkeypatch):
    """Replaces spaCy's model by a table of tags."""

    def tagged(texts):
        return [[(word, TAGS.get(word, "X")) for word in text.split()] for text in texts]

    monkeypatch.setattr(word_order, "spacy_tags", tagged)


def _build(config, manual_dir, out):
    build.main([config, "--manual_dir", str(manual_dir), "--data_dir", str(out)])
    folder = Path(out) / "naturel" / config / "4.1.0"
    examples = tfds.builder_from_directory(folder).as_data_source("train")
    return folder, {examples[n]["image_id"].decode(): examples[n] for n in range(len(examples))}


class Row(NamedTuple):
    """A row of ``captions``, without the fields that are equal in all rows."""

    group: int
    pair: int
    polarity: int  # 0 is negative
    text: str
    asserts: str
    operation: str


def _captions(example):
    captions = example["captions"]
    assert set(captions["triplet"]) == {b""}, "these captions are not made from triplets"
    columns = (captions[name] for name in Row._fields)
    decoded = ([v.decode() if isinstance(v, bytes) else int(v) for v in column] for column in columns)
    return [Row(*values) for values in zip(*decoded, strict=True)]


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
    assert used(folder) == {"coco": {"57870", "9"}}

    rows = _captions(examples["COCO_train2014_000000057870"])
    for n, caption in enumerate(["a brown horse and a small man", "a man walks the small dog"]):
        positive, *negatives = [row for row in rows if row.group == n]
        assert positive == Row(n, 0, 1, caption, "coco:57870", "")
        assert [row.pair for row in negatives] == [*range(len(negatives))]
        assert {(row.polarity, row.asserts) for row in negatives} == {(0, "")}
        assert all(row.text != caption and sorted(row.text.split()) == sorted(caption.split()) for row in negatives)
        operations = [row.operation for row in negatives]
        assert 1 <= len(operations) <= 4 and operations == [name for name in word_order.SHUFFLES if name in operations]
    assert {row.group for row in rows} == {0, 1}

    # "Dog" has only one word order, so it has no negatives and is left out; the image's other caption is kept.
    (positive, *_), (other, *_) = (_captions(examples[f"COCO_train2014_{n:012d}"]) for n in (9, 57870))
    assert positive == Row(0, 0, 1, "the brown dog", "coco:9", "") and other.asserts == "coco:57870"


def _negclip(folder, rows):
    """Writes ``train_neg_clip.tsv`` as published, with absolute paths from its authors' machine."""
    with (folder / "coco" / "train_neg_clip.tsv").open("w", newline="") as f:
        writer = csv.writer(f, delimiter="\t")
        writer.writerow(["", "title", "filepath", "neg_caption", "neg_image"])
        for n, (title, name, *lists) in enumerate(rows):
            writer.writerow([n, title, f"/home/author/coco/{name}", *lists])


def test_negclips_own_training_file(tmp_path):
    first, second = _coco(tmp_path, 1, 2)
    negatives = "['A horse on a man.', 'Man a.']"
    _negclip(tmp_path, [("A man on a horse.", first, negatives, "[1]"), ("Two dogs", second, "[]", "[0]")])
    folder, examples = _build("negclip_tsv", tmp_path, tmp_path / "out")
    rows = _captions(examples.pop("COCO_train2014_000000000001"))
    assert rows == [
        Row(0, 0, 1, "a man on a horse", "coco:1", ""),
        Row(0, 0, 0, "a horse on a man", "", "negclip"),
        Row(0, 1, 0, "man a", "", "negclip"),
    ]
    assert not examples and used(folder) == {"coco": {"1", "2"}}


def test_negclip_hard_images_are_read_from_its_row_numbers(tmp_path):
    """Row numbers start at 0. An image is never its own hard image; images without negatives are not in the dataset."""
    first, second, third, bare = _coco(tmp_path, 1, 2, 3, 4)
    wrong = "['other words']"
    rows = [("a", first, wrong, "[2, 3]"), ("b", first, wrong, "[0, 4]"), ("c", second, wrong, "[0, 1]")]
    _negclip(tmp_path, [*rows, ("d", third, wrong, "[2, 4]"), ("e", bare, "[]", "[2]")])
    folder, examples = _build("negclip_tsv", tmp_path, tmp_path / "out")
    names = [f"COCO_train2014_{n:012d}" for n in (1, 2, 3)]
    assert sorted(examples) == names
    table = pq.read_table(folder / HARD_IMAGES).to_pylist()
    assert [(row["image_id"], row["triplet"], row["negatives"]) for row in table] == [
        (names[0], "", [names[1], names[2]]),
        (names[1], "", [names[0]]),
        (names[2], "", [names[1]]),
    ]
    assert [*map(list, hard_images.read(folder / HARD_IMAGES, names))] == [[1, 2], [0], [1]]


@pytest.mark.parametrize("numbers", ["[7]", "[-1]", "['1']"])
def test_invalid_row_numbers_are_rejected_and_leave_no_dataset(tmp_path, numbers):
    (name,) = _coco(tmp_path, 1)
    _negclip(tmp_path, [("A man", name, "['Man a']", numbers)])
    with pytest.raises(UserError, match=r"neg_image of 'A man' contains .*; expected numbers of its 1 rows"):
        _build("negclip_tsv", tmp_path, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("dataset_info.json"))


@pytest.mark.parametrize(
    "negatives", ["__import__('os').system('true')", "[1, 2]", "not a list", "(" * 200, None], ids=repr
)
def test_malicious_negclip_rows_are_rejected(tmp_path, negatives):
    (name,) = _coco(tmp_path, 1)
    with (tmp_path / "coco" / "train_neg_clip.tsv").open("w", newline="") as f:
        writer = csv.writer(f, delimiter="\t")
        writer.writerow(["title", "filepath", "neg_caption"])
        writer.writerow(["A man", name, negatives][: 3 if negatives else 2])
    with pytest.raises(UserError, match=r"train_neg_clip.tsv:2: .*expected title, filepath, neg_caption"):
        _build("negclip_tsv", tmp_path, tmp_path / "out")


def _winoground(folder, items, missing=()):
    (folder / "winoground" / "data").mkdir(parents=True)
    lines, archive = [], zipfile.ZipFile(folder / "winoground" / "images.zip", "w")
    for n in items:
        names = [f"ex_{n}_img_{k}" for k in range(2)]
        for k, name in enumerate(names):
            if name not in missing:
                image = Image.open(io.BytesIO(photo(2 * n + k, 400, 320, quality=100)))
                archive.writestr(f"images/{name}.png", encoded(image, compress_level=0))
        captions = {"caption_0": f"{n} old pats young", "caption_1": f"{n} young pats old"}
        lines.append(json.dumps({"id": n, "image_0": names[0], "image_1": names[1], "tag": "x"} | captions))
    archive.close()
    (folder / "winoground" / "data" / "examples.jsonl").write_text("\n".join(lines) + "\n")


def test_winoground_half_depends_only_on_item_ids(tmp_path):
    _winoground(tmp_path / "a", range(16))
    folder, examples = _build("winoground_part", tmp_path / "a", tmp_path / "a")
    taken = used(folder)["winoground"]
    assert 2 <= len(taken) <= 14 and set(examples) == {f"{n}-{k}" for n in taken for k in range(2)}
    _winoground(tmp_path / "b", range(8, 16))
    hub = tmp_path / "b" / "winoground"
    (hub / "images.zip").rename(hub / "data" / "images.zip")  # as downloaded from the hub
    folder, _ = _build("winoground_part", tmp_path / "b", tmp_path / "b")
    assert used(folder)["winoground"] == {n for n in taken if int(n) >= 8}

    n = min(taken, key=int)
    for k in range(2):
        own, other = (f"{n} old pats young", f"{n} young pats old")[:: 1 - 2 * k]
        assert _captions(examples[f"{n}-{k}"]) == [
            Row(0, 0, 1, own, f"winoground:{n}:{k}", ""),
            Row(0, 0, 0, other, f"winoground:{n}:{1 - k}", "winoground"),
        ]
        pixels = examples[f"{n}-{k}"]["image"]
        original = np.asarray(Image.open(io.BytesIO(photo(2 * int(n) + k, 400, 320, quality=100))).resize((360, 288)))
        assert pixels.shape == (288, 360, 3) and np.abs(pixels.astype(int) - original).mean() < 4


def test_files_that_differ_from_the_published_format_are_rejected(tmp_path, tagger):
    _winoground(tmp_path, range(4), missing=[f"ex_{n}_img_1" for n in range(4)])
    expected = pytest.raises(UserError, match=r"images.zip: no image 'ex_\d_img_1'.* which item \d needs")
    with expected:
        _build("winoground_part", tmp_path, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "winoground" / "images.zip", "a") as archive:
        for n in range(8):
            archive.writestr(f"{n % 2}/ex_{n // 2}_img_1.png", photo(n, 60, 60))
    with expected:  # two of each name
        _build("winoground_part", tmp_path, tmp_path / "out")
    (tmp_path / "coco").mkdir()
    path = tmp_path / "coco" / "coco_karpathy_train.json"
    for record, match in {
        '{"image": "../../etc/passwd"}': "record 0 is .*expected an image path and its caption",
        '{"image": "../../COCO_train2014_000000000001.jpg", "caption": "a b c d"}': "is outside",
        '{"image": "a.jpg", "caption": "a b"}': "'a.jpg': expected a COCO file name",
        "1": "record 0 is 1; expected an image path and its caption",
        "{": "coco_karpathy_train.json: not JSON",
    }.items():
        path.write_text(f"[{record}]")
        with pytest.raises(UserError, match=match):
            _build("coco_order", tmp_path, tmp_path / "out")


def test_symlinks_out_of_the_folder_are_rejected(tmp_path, tagger):
    (name,) = _coco(tmp_path / "in", 1)
    (tmp_path / "secret.jpg").write_bytes((tmp_path / "in" / "coco" / name).read_bytes())
    (tmp_path / "in" / "coco" / name).unlink()
    (tmp_path / "in" / "coco" / name).symlink_to(tmp_path / "secret.jpg")
    _negclip(tmp_path / "in", [("A man on a horse.", name, "['A horse on a man.']", "[]")])
    with pytest.raises(UserError, match=f"{name}: is outside"):
        _build("negclip_tsv", tmp_path / "in", tmp_path / "out")


def test_error_names_a_damaged_image_or_archive(tmp_path, tagger):
    (name,) = _coco(tmp_path, 1)
    (tmp_path / "coco" / name).write_bytes(b"not a JPEG")
    _negclip(tmp_path, [("A man on a horse.", name, "['A horse on a man.']", "[]")])
    with pytest.raises(UserError, match="image 'COCO_train2014_000000000001' cannot be read"):
        _build("negclip_tsv", tmp_path, tmp_path / "out")
    _winoground(tmp_path, range(2))
    (tmp_path / "winoground" / "images.zip").write_bytes(b"not a zip file")
    with pytest.raises(UserError, match=r"images.zip: not a zip file"):
        _build("winoground_part", tmp_path, tmp_path / "out")


def test_external_source(tmp_path):
    """A source defined outside the package, with one image and two groups, one of which has two negatives."""

    def read(folder):
        groups = [
            Group("a dog", "mine:1", [Negative("a cat", "noun", "mine:2")]),
            Group("a big dog", "mine:1", [Negative(t, "noun") for t in ("big a", "dog")]),
        ]
        yield CaptionedImage("1", lambda: photo(1), "", groups)

    (tmp_path / "mine").mkdir()
    source = RecipeSource("mine", "Mine.", "mine", read, used=lambda folder: ["1"])
    builder = naturel.Naturel(config=naturel.recipe_source(source), data_dir=tmp_path / "out")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path))
    (example,) = list(builder.as_data_source("train"))
    expected = [(0, 0, 1, "a dog"), (0, 0, 0, "a cat"), (1, 0, 1, "a big dog"), (1, 0, 0, "big a"), (1, 1, 0, "dog")]
    assert [(row.group, row.pair, row.polarity, row.text) for row in _captions(example)] == expected
    assert used(Path(builder.data_dir)) == {"mine": {"1"}}
