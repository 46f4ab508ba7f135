"""The release read back: by pyarrow, by `datasets` and mlcroissant in other processes, and by sha256sum."""

import copy
import csv
import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds

from tests.helpers import record_files
from tests.helpers.open_images_files import build_dataset, image_id, write_world
from tests.helpers.processes import run
from tfds_naturel import build, naturel
from tfds_naturel.captions import bank
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import features
from tfds_naturel.open_images import plan, releases
from tfds_naturel.release import __main__ as command
from tfds_naturel.release import datasheet
from tfds_naturel.release import files as release_files
from tfds_naturel.release import pages as release_pages
from tfds_naturel.scenes.scene import CONFIGS

AUTHOR = '=<script>alert("1")</script> | `x`\u202e {braces} [a](javascript:b)'
LICENCE = "[by](javascript:alert(1))|<img src=x>\u2028"
WORLD = dataclasses.replace(CONFIGS["scenes"], name="small", sizes=(24, 6, 6, 6))
DATE = ["--date", "2026-01-31"]


def _write_hostile_authors(folder: Path) -> None:
    path = folder / "annotations" / releases.RELEASES["v4"].images.name
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        n = int(row[6].removeprefix("Author "))
        row[6] = AUTHOR if n % 5 == 0 else row[6]
        row[4] = LICENCE if n == 7 else row[4]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Path:
    folder = write_world(tmp_path_factory.mktemp("open_images"))
    _write_hostile_authors(folder)
    return folder


@pytest.fixture(scope="module")
def built(opened, tmp_path_factory) -> Path:
    return build_dataset(opened, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    builder = naturel.Naturel(config=naturel.scenes(WORLD), data_dir=tmp_path_factory.mktemp("drawn"))
    builder.download_and_prepare()
    return Path(builder.data_dir)


def _release(dataset: Path, out: Path, *options: object) -> Path:
    command.main(["--dataset", str(dataset), "--out", str(out), *DATE, *map(str, options)])
    return out


@pytest.fixture(scope="module")
def released(built, tmp_path_factory) -> Path:
    return _release(built, tmp_path_factory.mktemp("released") / "photos")


@pytest.fixture(scope="module")
def released_drawn(drawn, tmp_path_factory) -> Path:
    return _release(drawn, tmp_path_factory.mktemp("released") / "drawn", "--with_images")


@functools.cache
def _examples(dataset: Path) -> dict[str, list]:
    """The examples of a built dataset by split, their images encoded."""
    builder = tfds.builder_from_directory(str(dataset))
    encoded = {"image": tfds.decode.SkipDecoding()}
    sources = {split: builder.as_data_source(split, decoders=encoded) for split in builder.info.splits}
    return {split: [source[n] for n in range(len(source))] for split, source in sources.items()}


def _plain(value, feature):
    """A value of an example as the release writes it: text, names of classes, and lists of records."""
    if isinstance(feature, tfds.features.Sequence):
        columns = {name: [_plain(v, feature.feature[name]) for v in value[name]] for name in feature.feature}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return [
            row | dict(zip(("ymin", "xmin", "ymax", "xmax"), row.pop("box"), strict=True)) if "box" in row else row
            for row in rows
        ]
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(value)
    return value.decode() if isinstance(value, bytes) else value.tolist()


@functools.cache
def _rows(dataset: Path) -> dict[str, list[dict]]:
    """The rows that a release of the dataset should have, by split, without images."""
    columns = {name: feature for name, feature in features().items() if name != "image"}
    return {
        split: [{name: _plain(example[name], feature) for name, feature in columns.items()} for example in examples]
        for split, examples in _examples(dataset).items()
    }


def _read(folder: Path, split: str) -> list[dict]:
    """The rows of a split of a release, in order."""
    return [row for path in sorted((folder / "data").glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()]


def _process(code: str, *arguments: object, folder: Path) -> str:
    """The output of Python code in a process that can reach no network and starts with an empty cache."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf"), "XDG_CACHE_HOME": str(folder / "cache")}
    return run([sys.executable, "-c", code, *arguments], folder, os.environ | offline)


def test_rows_are_the_examples_of_the_dataset(built, drawn, released, released_drawn):
    assert {split: _read(released, split) for split in _rows(built)} == _rows(built)
    for split, expected in _rows(drawn).items():
        rows = _read(released_drawn, split)
        images = [row.pop("image")["bytes"] for row in rows]
        assert rows == expected and images == [example["image"] for example in _examples(drawn)[split]]


LOAD = """
import datasets, hashlib, json, sys
for folder in sys.argv[1:]:
    splits = datasets.load_dataset(folder)
    sizes = {name: split.num_examples for name, split in splits["train"].info.splits.items()}
    if "image" in splits["train"].column_names:
        splits = splits.cast_column("image", datasets.Image(decode=False))
        digest = lambda image: {"sha256": hashlib.sha256(image["bytes"]).hexdigest()}
        splits = splits.map(digest, input_columns="image", remove_columns="image")
    print(json.dumps([{name: split.to_list() for name, split in splits.items()}, sizes]))
"""


@pytest.mark.slow
def test_datasets_loads_every_split(built, drawn, released, released_drawn, tmp_path):
    photos, scenes = map(json.loads, _process(LOAD, released, released_drawn, folder=tmp_path).splitlines())
    assert photos == [_rows(built), {split: len(rows) for split, rows in _rows(built).items()}]
    expected = copy.deepcopy(_rows(drawn))
    for split, examples in _examples(drawn).items():
        for row, example in zip(expected[split], examples, strict=True):
            row["sha256"] = hashlib.sha256(example["image"]).hexdigest()
    assert scenes[0] == expected


@pytest.mark.slow
def test_code_of_the_card_joins_the_photos(opened, released, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (released / "README.md").read_text(), re.DOTALL)
    (tmp_path / "open_images").symlink_to(opened)
    show = (
        "import json; raw = dataset.cast_column('image', datasets.Image(decode=False));"
        "sizes = {row['image_id']: row['image'].size for row in dataset};"
        "print(json.dumps({row['image_id']: [row['image']['path'], *sizes[row['image_id']]] for row in raw}))"
    )
    code = "\n".join([*blocks, show]).replace("FOLDER", str(released))
    joined = json.loads(_process(code, folder=tmp_path))
    assert joined.keys() == {row["image_id"] for row in _read(released, "train")}
    for name, (path, *size) in joined.items():
        assert (tmp_path / path).samefile(opened / "images" / "train" / f"{name}.jpg") and size == [400, 300]


CROISSANT = """
import json, sys
import mlcroissant

def plain(value):
    if isinstance(value, dict):
        return {key.rpartition("/")[2]: plain(v) for key, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value

dataset = mlcroissant.Dataset(sys.argv[1])
issues = dataset.metadata.issues
records = [plain(record) for record in dataset.records("examples")]
for record in records:
    if "image" in record:
        record["image"] = record["image"].size
rai = {key: value for key, value in dataset.metadata.to_json().items() if key.startswith("rai:")}
print(json.dumps([sorted(issues.errors), sorted(issues.warnings), records, rai]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["photos", "drawn"])
def test_mlcroissant_accepts_the_metadata_and_yields_the_rows(kind, built, drawn, released, released_drawn, tmp_path):
    folder, dataset = (released, built) if kind == "photos" else (released_drawn, drawn)
    errors, warnings, records, rai = json.loads(_process(CROISSANT, folder / "croissant.json", folder=tmp_path))
    assert errors == [] and warnings == []
    expected = {row["image_id"]: row | {"split": split} for split, rows in _rows(dataset).items() for row in rows}
    if kind == "drawn":
        expected = {name: row | {"image": [64, 64]} for name, row in expected.items()}
    assert {record["image_id"]: record for record in records} == expected
    assert len(records) == len(expected) and len(rai) == 7 and all(rai.values())


def test_checksums_and_sizes(built, released, capsys):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=released, capture_output=True, text=True, check=True)
    names = {path.relative_to(released).as_posix() for path in released.rglob("*") if path.is_file()}
    assert {line.partition(":")[0] for line in done.stdout.splitlines()} == names - {"SHA256SUMS"}
    sums = dict(reversed(line.split("  ")) for line in (released / "SHA256SUMS").read_text().splitlines())
    files = json.loads((released / "croissant.json").read_text())["distribution"][:-1]
    tables = {name: checksum for name, checksum in sums.items() if name.startswith("data/")}
    assert {file["contentUrl"]: file["sha256"] for file in files} == tables
    rows = _rows(built)
    every = [row for split in rows.values() for row in split]
    captions, objects = (sum(len(row[column]) for row in every) for column in ("captions", "objects"))
    assert f"In all: {len(every)} images, {objects} objects" in (released / "README.md").read_text()
    assert f"{captions:,} captions" in (released / "README.md").read_text()
    facts = tfds.builder_from_directory(str(built)).info.metadata["splits"]
    assert json.loads((released / "metadata.json").read_text())["splits"] == facts


def test_release_has_no_photo_and_is_reproducible(built, released, tmp_path, monkeypatch):
    again = _release(built, tmp_path / "photos")
    for path in (path for path in released.rglob("*") if path.is_file()):
        assert b"\xff\xd8\xff" not in path.read_bytes()
        assert path.read_bytes() == (again / path.relative_to(released)).read_bytes(), path.name
    monkeypatch.setattr(release_files, "BATCH", 10)
    monkeypatch.setattr(release_files, "FILE_ROWS", 30)
    several = _release(built, tmp_path / "several")
    names = sorted(path.name for path in (several / "data").glob("train-*"))
    assert names == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    assert [pq.read_metadata(several / "data" / name).num_rows for name in names[:2]] == [30, 30]
    assert all(_read(several, split) == _read(released, split) for split in _examples(built))


def test_names_of_strangers_are_literal(released):
    for path in released.glob("*.md"):
        text = path.read_text()
        assert not re.search(r"(?<!\\)<(img|script)|(?<!\\)\]\(javascript|[\u2028\u202e]", text), path.name
    assert r"\[by\](javascript:alert(1))\|\<img src=x\>" in (released / "LICENSE.md").read_text()
    rows = {row["image_id"]: row for path in (released / "data").iterdir() for row in pq.read_table(path).to_pylist()}
    assert rows[image_id(5)]["author"] == AUTHOR and rows[image_id(7)]["license"] == LICENCE.strip()


def test_official_files_are_the_published_ones():
    published = {file.name: file.md5 for file in releases.RELEASES["v4"].files}
    boxes = releases.RELEASES["v4"].boxes.name
    for inputs, is_official in ((published, True), (published | {boxes: "0" * 32}, False)):
        facts = types.SimpleNamespace(metadata={"options": {"release": "v4"}, "inputs": inputs})
        assert datasheet.Facts.is_official.fget(facts) == is_official


def test_statements_follow_the_build(opened, built, released, tmp_path):
    text = (released / "README.md").read_text()
    every = [row for rows in _rows(built).values() for row in rows]
    people = sum(any(thing["label"] in ("Man", "Woman") for thing in row["objects"]) for row in every)
    assert f"{people} of 89 images have an object labelled Man" in text and "for 88 images" in text
    assert "files other than those that Google published" in text and "No reviewers' decisions were applied" in text
    assert 'license: ["cc-by-4.0", "apache-2.0"]' in text
    bank.save(tmp_path / "bank.tsv", dict(list(bank.load().items())[:3]))
    own = _release(
        build_dataset(opened, tmp_path, "--bank", tmp_path / "bank.tsv"), tmp_path / "own", "--contact", "a_b@c.d"
    )
    assert 'license: ["cc-by-4.0", "other"]' in (own / "README.md").read_text()
    assert "Apache" not in (own / "LICENSE.md").read_text() and "a_b@c.d" in (own / "TAKEDOWN.md").read_text()
    questions = re.findall(r"^\*\*(.*?\?)\*\* \S", (released / "DATASHEET.md").read_text(), re.MULTILINE)
    assert len(questions) == len(set(questions)) == 50


def test_images_taken_down_are_in_no_build_and_no_release(opened, built, tmp_path, monkeypatch):
    before = {row["image_id"]: split for split, rows in _rows(built).items() for row in rows}
    published = [name for name, split in before.items() if split == "test"]
    own, unknown = image_id(20), image_id(1000)
    assert before[own] == "train"
    (tmp_path / "published.txt").write_text("\n".join(published))
    monkeypatch.setattr(plan, "TAKEDOWN", tmp_path / "published.txt")
    path = tmp_path / "takedown.txt"
    path.write_text(f"# on request\n{own}  # its author\n\n{unknown}\n")
    expected = {name: split for name, split in before.items() if name not in (own, *published)}

    out = _release(built, tmp_path / "out", "--takedown", path)
    assert "test" not in expected.values() and not list((out / "data").glob("test-*"))
    splits = dict.fromkeys(expected.values())
    shown = {row["image_id"]: split for split in splits for row in _read(out, split)}
    assert shown == expected, "no other image changes its split"
    assert (out / "takedown.txt").read_text().splitlines()[1:] == sorted([own, unknown, *published])
    assert plan.taken_down(out / "takedown.txt") == {own, unknown, *published}
    lists = f"On the list: {len(published) + 2} images. Left out of this version: {len(published) + 1}."
    assert lists in (out / "TAKEDOWN.md").read_text()
    pages = [page for page in out.iterdir() if page.is_file() and page.name != "takedown.txt"]
    assert not any(own in page.read_text() for page in pages)

    again = build_dataset(opened, tmp_path, "--takedown", path)
    assert {row["image_id"]: split for split, rows in _rows(again).items() for row in rows} == expected
    assert f"| taken down | {len(published) + 1} |" in (again / "README.md").read_text()
    with pytest.raises(UserError, match=r"already built with takedown '\w+', now '\w+'; set a new --name"):
        build_dataset(opened, tmp_path)


def test_bad_takedown_lists_are_refused(opened, tmp_path):
    path = tmp_path / "takedown.txt"
    path.write_text(f"{image_id(1)}\nphoto 7\n")
    with pytest.raises(UserError, match=r"takedown.txt:2: 'photo 7'; expected an image id"):
        build_dataset(opened, tmp_path, "--takedown", path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(UserError, match=r"takedown.txt: not UTF-8"):
        build_dataset(opened, tmp_path, "--takedown", path)
    with pytest.raises(UserError, match=r"--takedown: changes the contents of 'full'"):
        build.main(["full", "--takedown", str(path), "--data_dir", str(tmp_path)])


def test_refused_datasets_and_folders(built, drawn, tmp_path, monkeypatch):
    record_files.write_tfds(tmp_path)
    used, other = tmp_path / "used", next((tmp_path / "data").glob("pictured/*"))
    shutil.copytree(drawn, used)
    (used / "metadata.json").write_text(json.dumps({"options": {}, "used": {"coco": []}}))
    (tmp_path / "full").mkdir()
    cases = {
        (built, tmp_path / "full"): r"full: exists; choose another folder",
        (built, tmp_path / "out", "--with_images"): r"--with_images: .* photos of others",
        (used, tmp_path / "out"): r"used: has images and captions of COCO or Winoground",
        (other, tmp_path / "out"): r"not a NatuRel dataset of the current format",
        (tmp_path, tmp_path / "out"): r"dataset_info.json is missing",
    }
    for (dataset, out, *options), match in cases.items():
        with pytest.raises(UserError, match=match):
            _release(dataset, out, *options)
    with pytest.raises(SystemExit):
        _release(built, tmp_path / "out", "--url", "javascript:x")


def test_folder_is_finished_or_absent(drawn, tmp_path, monkeypatch):
    """Only what a process left that does not run any more is removed."""
    code = f"from pathlib import Path; from tfds_naturel.common.files import new_folder; here = Path({str(tmp_path)!r})"
    code += "\nwith new_folder(here / 'out'): print(*here.iterdir(), flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    start = functools.partial(subprocess.Popen, [sys.executable, "-c", code], text=True, **pipes)
    with start() as killed, start() as running:
        assert killed.stdout and running.stdout and running.stdin
        killed.stdout.readline(), running.stdout.readline()
        assert len(folders := set(tmp_path.iterdir())) == 2
        killed.kill()
        killed.wait()
        monkeypatch.setattr(release_pages, "render", lambda facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            _release(drawn, tmp_path / "out")
        (left,) = tmp_path.iterdir()
        assert left in folders
        running.stdin.write("\n")
    assert running.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["out"]
