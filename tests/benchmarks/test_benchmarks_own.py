"""User-defined benchmarks: files of records and folders of classes, read as they are named on the command line."""

import csv
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.config.own_benchmarks import BenchmarkFields, parse_fields
from naturel_jax.evaluators import fingerprints
from tests.helpers import benchmark_files as files
from tests.helpers.benchmark_files import values
from tfds_naturel.common.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with four images in ``photos``."""
    for n in range(4):
        files.write(tmp_path / f"photos/{n}.png", files.png(n))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines(path: Path, rows: list) -> None:
    files.write(path, b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))


def read(name: str, **fields: str) -> Benchmark:
    own = {name.partition("=")[0] if "=" in name else Path(name.partition(":")[2]).stem: BenchmarkFields(**fields)}
    (benchmark,) = registry.read([name], fields=own)
    return benchmark


ROWS = [
    {"image": "photos/0.png", "caption": "a", "negatives": "b", "kind": "on"},
    {"image": "photos/1.png", "caption": ["a", "c"], "negatives": ["b", "d"], "kind": "under"},
    {"image": "photos/1.png", "caption": "a", "negatives": "b", "kind": ["on", "under"]},
]


def test_pairs(folder):
    lines(folder / "my.jsonl", ROWS)
    benchmark = read("pairs:my.jsonl", tags="kind")
    assert (benchmark.name, len(benchmark.items), benchmark.problems) == ("my", 3, ())
    assert [item.captions for item in benchmark.items] == [("a", "b"), ("a", "c", "b", "d"), ("a", "b")]
    assert benchmark.items[1].images[0].read() == files.png(1)
    assert benchmark.true_captions == 0, "the items differ in their number of true captions"
    # By hand: right; of the four pairs of item 2, (a, d) is a tie and so wrong; item 3 is a tie.
    scores = values(benchmark, [[[0.3, 0.1]], [[0.4, 0.5, 0.3, 0.4]], [[0.2, 0.2]]])
    expected = {"my/accuracy": 1 / 3, "my/pairs": (1 + 3 / 4 + 0) / 3, "my/kind/on": 1 / 2, "my/kind/under": 0.0}
    assert scores == pytest.approx(expected)
    lines(folder / "one.jsonl", ROWS[::2])
    one = read("pairs:one.jsonl")
    assert one.true_captions == 1 and [metric.name for metric in one.metrics] == ["one/accuracy"]


def test_a_caption_that_is_now_false_makes_other_items(folder):
    """Though the captions and their order are the same: scores of the file as it was are not kept."""
    row, found = {"image": "photos/0.png"}, []
    for captions in ({"caption": ["a", "b"], "negatives": ["c"]}, {"caption": ["a"], "negatives": ["b", "c"]}):
        lines(folder / "my.jsonl", [row | captions])
        found.append(read("pairs:my.jsonl"))
    assert found[0].items[0].captions == found[1].items[0].captions
    assert len({fingerprints.of_pair("model", benchmark) for benchmark in found}) == 2


def test_formats_and_names_of_fields(folder):
    """The same records as JSONL, CSV, TSV and Parquet, with fields of their own, and images in Parquet's cells."""
    expected = [("right a", "false b", "false c"), ("right d", "false e", "false f")]
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        with (folder / f"x{suffix}").open("w", newline="") as file:
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow(["photo", "yes", "no", "no_2"])
            rows = expected if suffix == ".csv" else [(row[0], list(row[1:]), "") for row in expected]  # as pandas does
            writer.writerows([[f"photos/{n}.png", *row] for n, row in enumerate(rows)])
    nested = [
        {"photo": f"photos/{n}.png", "says": {"yes": row[0]}, "no": list(row[1:])} for n, row in enumerate(expected)
    ]
    lines(folder / "x.jsonl", nested)
    cells = [{"bytes": files.png(n), "path": None} for n in range(2)]
    table = pa.Table.from_pylist([row | {"photo": cell} for row, cell in zip(nested, cells, strict=True)])
    pq.write_table(table, folder / "x.parquet")
    for suffix, fields in {
        ".csv": {"positives": "yes", "negatives": "no, no_2"},
        ".tsv": {"positives": "yes", "negatives": "no, no_2"},
        ".jsonl": {"positives": "says.yes", "negatives": "no"},
        ".parquet": {"positives": "says.yes", "negatives": "no"},
    }.items():
        benchmark = read(f"mine=pairs:x{suffix}", image="photo", **fields)
        assert benchmark.name == "mine" and [item.captions for item in benchmark.items] == expected, suffix
        assert [item.images[0].read() for item in benchmark.items] == [files.png(n) for n in range(2)], suffix


def test_a_tag_with_many_values_has_a_limit(folder):
    """Each is a score that is resampled, for five bytes in a file."""
    rows = [ROWS[0] | {"kind": [f"{n:x}" for n in range(3000)]}, ROWS[1]]
    lines(folder / "my.jsonl", rows)
    benchmark = read("pairs:my.jsonl", tags="kind")
    assert len(benchmark.metrics) == 2001 and benchmark.metrics[1].name == "my/pairs"
    assert benchmark.problems == ("has 3,003 scores, expected at most 2,001: 1,002 values of tags have none",)
    assert benchmark.held_out({"1"}).metrics == benchmark.metrics


def test_groups(folder):
    row = {"image_0": "photos/0.png", "image_1": "photos/1.png", "caption_0": "a", "caption_1": "b", "why": "x"}
    lines(folder / "my.jsonl", [row, row | {"why": "y"}])
    benchmark = read("groups:my.jsonl", tags="why")
    assert [len(item.images) for item in benchmark.items] == [2, 2]
    # Winoground's own example of an item that is right in text alone, and one right in all.
    scores = values(benchmark, [[[0.6, 0.5], [0.7, 0.8]], [[0.6, 0.5], [0.4, 0.8]]])
    assert (scores["my/text"], scores["my/image"], scores["my/group"]) == (1.0, 0.5, 0.5)
    assert (scores["my/group/why/x"], scores["my/group/why/y"]) == (0.0, 1.0)
    other = {"left": "photos/2.png", "right": "photos/3.png", "l": "c", "r": "d"}
    lines(folder / "other.jsonl", [other])
    fields = {"image_0": "left", "image_1": "right", "caption_0": "l", "caption_1": "r"}
    (item,) = read("groups:other.jsonl", **fields).items
    assert item.captions == ("c", "d") and item.images[1].read() == files.png(3)


def test_retrieval(folder):
    lines(folder / "my.jsonl", [{"image": f"photos/{n}.png", "captions": ["a", "b"][: n + 1]} for n in range(2)])
    benchmark = read("retrieval:my.jsonl")
    assert [item.captions for item in benchmark.items] == [("a", "a", "b")] * 2
    # Image 0 (caption 0) is right; image 1's best caption, 0.5, is behind 0.6. Captions: 0 right, 1 wrong, 2 right.
    scores = values(benchmark, [[[0.9, 0.3, 0.1]], [[0.6, 0.2, 0.5]]])
    assert (scores["my/image_to_text@1"], scores["my/text_to_image@1"]) == (0.5, pytest.approx(2 / 3))
    assert scores["my/image_to_text@5"] == scores["my/text_to_image@5"] == 1.0


def test_retrieval_joins_the_records_of_an_image(folder):
    """Else the other captions of an image would count as wrong, and the image would tie with itself."""
    rows = [("0", "a"), ("1", "c"), ("0", "b")]
    (folder / "my.csv").write_text("image,caption\n" + "".join(f"photos/{n}.png,{text}\n" for n, text in rows))
    items = read("retrieval:my.csv").items
    assert [(item.id, item.captions, item.weight) for item in items] == [
        ("2", ("a", "b", "c"), 2),
        ("3", ("a", "b", "c"), 1),
    ]


def test_classes(folder):
    for n, name in enumerate(("house_cat", "house_cat", "dog")):
        files.write(folder / f"pets/{name}/{n}.png", files.png(n))
    benchmark = read("classes:pets")
    assert benchmark.items[0].captions == (("a photo of a dog.",), ("a photo of a house cat.",))
    scores = values(benchmark, [[[0.9, 0.1]], [[0.9, 0.1]], [[0.1, 0.9]]])
    by_class = {"pets/class/dog": 1.0, "pets/class/house cat": 0.5}
    assert scores == pytest.approx({"pets/top1": 2 / 3, "pets/mean_per_class": 0.75, **by_class})
    files.write(folder / "pets/templates.txt", b"a {}.\nmy {}.\n")
    assert read("zoo=classes:pets").items[0].captions[0] == ("a dog.", "my dog.")


@pytest.mark.parametrize("name", ["001.Black_footed_Albatross", "n01440764_tench", "n02085620-Chihuahua"])
def test_classes_are_named_without_numbers(name, folder):
    files.write(folder / f"pets/{name}/0.png", files.png(0))
    files.write(folder / "pets/3.5_inch_disk/0.png", files.png(1))
    with pytest.raises(UserError, match=rf"classnames\.txt is missing: .* labels such as {re.escape(name)}; expected"):
        read("classes:pets")
    (folder / f"pets/{name}").rename(folder / "pets/tench")
    assert read("classes:pets").items[0].captions == (("a photo of a 3.5 inch disk.",), ("a photo of a tench.",))


def test_classes_are_folders_of_images(folder):
    """Of all formats that are read; hidden folders and files, and those of macOS, are none."""
    endings = ["JPG", "jpeg", "jfif", "gif", "tif", "ppm"]
    for name in ("cat/._0.png", ".ipynb_checkpoints/0.png", "__MACOSX/0.png", "dog/text.txt"):
        files.write(folder / f"pets/{name}", files.png(0))
    for ending in endings:
        files.write(folder / f"pets/cat/0.{ending}", files.png(0))
    benchmark = read("classes:pets")
    assert benchmark.items[0].captions == (("a photo of a cat.",), ("a photo of a dog.",))
    assert [Path(item.images[0].key).name for item in benchmark.items] == sorted(f"0.{ending}" for ending in endings)
    (problem,) = benchmark.problems
    assert problem.startswith("pets/dog: no images (.bmp, .gif, .jfif, .jpeg, .jpg, ")
    for name in ("cat/more/1.png", "dog/0.png", "dog/1.jp2"):
        files.write(folder / f"pets/{name}", files.png(0))
    assert [problem.partition(";")[0] for problem in read("classes:pets").problems] == [
        "pets/cat: 1 not read, such as more",
        "pets/dog: 1 not read, such as 1.jp2",
    ]


def test_bad_records_are_left_out_and_named_by_line_and_field(folder):
    (folder / "photos/out.png").symlink_to("/etc/passwd")
    good = {"image": "photos/0.png", "caption": "a", "negatives": "b"}
    rows = [
        (good, ""),
        (b"", ""),  # not a record
        (b"{broken", r"not JSON"),
        (b"[1]", r"\[1\] is not a JSON object"),
        ({"caption": "a", "negatives": "b"}, r"no field 'image' or .* \(image\); it has 'caption', 'negatives'"),
        (good | {"caption": ""}, r"field 'caption' \(positives\) is empty"),
        (good | {"caption": 3}, "positives has 3; expected a string"),
        (good | {"negatives": []}, "has no false caption in 'negatives' or 'negative'"),
        (
            good | {"caption": ["a", *map(str, range(100))], "negatives": [f"not {n}" for n in range(100)]},
            "has 10,100 pairs of a true and a false caption; expected at most 10,000",
        ),
        (good | {"image": "photos/none.png"}, r"image 'photos/none\.png' is not in "),
        (good | {"image": "../photos/0.png"}, r"image path '\.\./photos/0\.png' leaves its folder and is refused"),
        (good | {"image": "/etc/passwd"}, "leaves its folder and is refused"),
        (good | {"image": "photos/out.png"}, r"image photos/out\.png is a link out of \."),
        (good | {"image": 7}, "the image is 7; expected a path or bytes"),
        (good | {"kind": {"a": 1}}, r"field 'kind' \(tags\) is \{'a': 1\}, expected a string or several"),
    ]
    lines(folder / "my.jsonl", [row for row, _ in rows])
    benchmark = read("pairs:my.jsonl", tags="kind")
    assert [item.id for item in benchmark.items] == ["1"]
    expected = [(n, reason) for n, (_, reason) in enumerate(rows, 1) if reason]
    assert len(benchmark.problems) == len(expected)
    for problem, (n, reason) in zip(benchmark.problems, expected, strict=True):
        assert problem.startswith(f"my.jsonl line {n}: ")
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(problem)

    files.write(folder / "my.csv", b'image,caption,negatives\nphotos/0.png,a,b\n\nphotos/9.png,a,b\nphotos/0.png,"a\n')
    assert [problem[:40] for problem in read("pairs:my.csv").problems] == [
        "my.csv line 4: image 'photos/9.png' is n",
        "my.csv line 5: unexpected end of data",
    ]
    files.write(folder / "cells.csv", b'image,caption,negatives\nphotos/0.png,"a\nc",b\nphotos/9.png,a,b\n')
    assert read("pairs:cells.csv").problems[0].startswith("cells.csv record 2: image 'photos/9.png' is not in")


def test_a_small_file_has_no_millions_of_pairs(folder):
    """What compares them takes memory for each."""
    many = {"image": "photos/0.png", "caption": [*map(str, range(100))], "negatives": [*map(str, range(100, 200))]}
    lines(folder / "my.jsonl", [many] * 40)
    assert len(read("pairs:my.jsonl").items) == 40
    lines(folder / "my.jsonl", [many] * 50)
    with pytest.raises(UserError, match=r"pairs:my\.jsonl: 500,000 pairs .* expected at most 4\d\d,\d+ in a file"):
        read("pairs:my.jsonl")


@pytest.mark.parametrize(
    ("names", "fields", "message"),
    [
        (["pairs:none.jsonl"], [], r"pairs:none\.jsonl: no such file or folder"),
        (["pairs:empty.jsonl"], [], r"pairs:empty\.jsonl: no record can be used; it has none"),
        (["pairs:bad.jsonl"], [], r"no record can be used; the first of 2: bad\.jsonl line 1: no field 'image'"),
        (["groups:bad.txt"], [], r"expected a file with the suffix \.jsonl, \.csv, \.tsv, \.parquet"),
        (["classes:bad.jsonl"], [], "is a file; expected a folder with a folder of images for each class"),
        (["classes:photos"], [], "contains no folders; expected one per class"),
        (["pairs:a b.jsonl"], [], r"would be called 'a b'; .* write mine=pairs:a b\.jsonl"),
        (["classes:birds/train"], [], r"called 'train'; expected another name .* write mine=classes:birds/train"),
        (["pairs:x/my.jsonl", "pairs:y/my.jsonl"], [], r"are both called 'my'; write NAME=pairs:y/my\.jsonl"),
        (["vsr=pairs:my.jsonl"], [], r"'vsr=pairs:my\.jsonl' has the name of another benchmark"),
        (["paris:my.jsonl"], [], r"unknown benchmarks \['paris:my\.jsonl'\]; .* or your own: pairs:FILE, groups:FILE"),
        (["pairs:my.jsonl"], ["vsr.image=x"], "--fields has 'vsr', which is not one of your own benchmarks"),
        (["pairs:my.jsonl"], ["my.tags=x", "my.image_0=x"], r"my\.image_0, but pairs:my\.jsonl has only image, "),
        (["retrieval:my.jsonl"], ["my.tags=x"], r"my\.tags, but retrieval:my\.jsonl has only image, positives$"),
        (["x=classes:photos"], ["x.image=y"], r"x\.image, but classes:photos has no fields: its folders are the"),
        (["groups:bad.jsonl"], [], r"image_0.*\. Name its fields: --fields bad\.image_0=FIELD, or"),
        (["pairs:my.jsonl"], ["my.imag=x"], r"--fields my has no field 'imag'; did you mean 'image'\?"),
        (["pairs:my.jsonl"], ["image=x"], r"--fields image=x: expected NAME\.PART=FIELD, such as my\.image=photo"),
    ],
)
def test_mistakes_are_named(folder, names, fields, message):
    lines(folder / "empty.jsonl", [])
    lines(folder / "bad.jsonl", [{"a": 1}, 3])
    lines(folder / "bad.txt", [])
    lines(folder / "my.jsonl", ROWS[:1])
    with pytest.raises(UserError, match=message):
        registry.read(names, fields=parse_fields(fields))
