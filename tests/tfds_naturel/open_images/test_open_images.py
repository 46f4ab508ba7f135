"""The Open Images reader: official rows in, records per image out, malformed rows counted."""

import contextlib
import csv
import random
import sys
from pathlib import Path

import pytest

from tests.helpers.open_images_files import ATTRIBUTES, CLASSES, RELATIONS, box_row, image_id, row, write_release
from tests.helpers.processes import run
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet
from tfds_naturel.open_images import annotations, attribution, boxes, releases
from tfds_naturel.open_images.annotations import Box, Buckets, Rejects, Relation, Vocabulary
from tfds_naturel.open_images.attribution import Attribution

ROOT = Path(__file__).parents[3]
VOCABULARY = Vocabulary(CLASSES, ATTRIBUTES, frozenset(RELATIONS))
CAT_ON_TABLE = Triplet("Cat", "on", "Table")


def _images(buckets):
    return (image for prefix in buckets.prefixes for image in annotations.images(buckets, prefix))


@pytest.fixture
def read(tmp_path):
    """A function that reads rows as the builder does; it returns the annotated images by id, and the rejects."""

    def read(rows):
        folder = write_release(tmp_path / "annotations", rows)
        rejects = Rejects(tmp_path / "rejects.csv")
        path = folder / releases.RELEASES["v4"].rows.name
        buckets = Buckets(tmp_path, "rows", annotations.bucket_digits(path))
        annotations.spool(path, VOCABULARY, buckets, rejects)
        rejects.close()
        return {image.image_id: image for image in _images(buckets)}, rejects

    return read


def test_row_of_the_official_file_is_parsed():
    # A row of challenge-2018-train-vrd.csv (CC BY 4.0); box columns are XMin, XMax, YMin, YMax.
    boxes = "0.330625,0.45625,0.3325301,0.65301204,0,0.820625,0.5373494,0.99879515"
    line = "0c3863a56e8ee636,/m/03bt1vf,/m/04bcr3," + boxes + ",at"
    actual = annotations.parse_row(line.split(","), VOCABULARY)
    assert actual.image_id == "0c3863a56e8ee636" and actual.triplet == Triplet("Woman", "at", "Table")
    assert actual.subject_box == Box(xmin=0.330625, xmax=0.45625, ymin=0.3325301, ymax=0.65301204)
    assert actual.object_box == Box(xmin=0.0, xmax=0.820625, ymin=0.5373494, ymax=0.99879515)


def test_rows_of_an_image_are_merged_with_their_boxes(read):
    a, b, c = (0.1, 0.2, 0.1, 0.2), (0.5, 0.6, 0.1, 0.2), (0.0, 1.0, 0.5, 1.0)
    rows = [
        row(1, "Cat", "on", "Table", b, c),
        row(2, "Dog", "under", "Table"),
        row(1, "Table", "is", "Wooden", c),
        row(1, "Cat", "on", "Table", a, c),
        row(1, "Cat", "on", "Table", b, c),
    ]
    images, rejects = read(rows)
    image = images[image_id(1)]
    assert image.objects == (("Cat", Box(*a)), ("Table", Box(*c)), ("Cat", Box(*b)))
    assert image.relations == (
        Relation(CAT_ON_TABLE, 0, 1),
        Relation(CAT_ON_TABLE, 2, 1),
        Relation(Triplet("Table", "is", "Wooden"), 1, -1),
    )
    assert image.triplets == (CAT_ON_TABLE, Triplet("Table", "is", "Wooden"))
    assert images[image_id(2)].triplets == (Triplet("Dog", "under", "Table"),)
    assert rejects.accepted == 5 and not rejects.counts

    random.Random(0).shuffle(rows)
    assert read(rows)[0] == images


@pytest.mark.parametrize("bucket_bytes", [1 << 30, 20_000, 1], ids=["1 bucket", "16 buckets", "256 buckets"])
def test_images_do_not_depend_on_buckets_and_are_sorted(read, monkeypatch, bucket_bytes):
    monkeypatch.setattr(annotations, "BUCKET_BYTES", bucket_bytes)
    rows = [row(n, "Cat", "on", "Table", (0, 0.5 + i / 10, 0, 1)) for i in range(3) for n in range(500)]
    images, _ = read(rows)
    assert list(images) == sorted(image_id(n) for n in range(500))
    assert {len(image.relations) for image in images.values()} == {3}


GOOD = row(7, "Cat", "on", "Table")
MALFORMED = {
    "columns": [GOOD.rsplit(",", 1)[0], GOOD + ",x", ""],
    "image_id": [
        GOOD.replace(image_id(7), "../../etc/passwd"),
        GOOD.upper(),
        GOOD[1:],
        f'"{GOOD}"',
        GOOD.replace(image_id(7), ""),
    ],
    "number": [GOOD.replace("0.1,", word + ",") for word in ("", "x", "nan", "inf", "1e999", "0_")],
    "box_outside": [GOOD.replace("0.1,", "-0.01,"), row(7, "Cat", "on", "Table", box2=(0.3, 1.001, 0.4, 1))],
    "box_inverted": [
        row(7, "Cat", "on", "Table", (0.5, 0.1, 0.2, 0.6)),
        row(7, "Cat", "on", "Table", (0, 1, 0.5, 0.5)),
    ],
    "unknown_class": [GOOD.replace("/m/01yrx", "/m/nope"), GOOD.replace("/m/04bcr3", "/m/083vt")],
    "unknown_attribute": [GOOD.replace(",on", ",is")],
    "unknown_relation": [GOOD.replace(",on", ",above"), GOOD.replace(",on", ",On")],
    "encoding": [GOOD.replace(",on", ",o\udcffn")],
}


class SameHash(Box):
    """A box of those with one hash, of which any number can be computed; counts the comparisons."""

    compared = 0

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        type(self).compared += 1
        return tuple(self) == other


def test_boxes_without_end_that_have_one_hash_are_not_compared_with_each_other():
    boxes = [SameHash(0, n / 1000, 0, 1) for n in range(1, 513)]
    image = annotations.merge(image_id(0), [annotations.Annotation(image_id(0), CAT_ON_TABLE, b, b) for b in boxes * 2])
    assert sorted(image.objects) == [(name, Box(*b)) for name in ("Cat", "Table") for b in boxes]
    assert image.relations == tuple(Relation(CAT_ON_TABLE, 2 * n, 2 * n + 1) for n in range(512))
    assert 0 < SameHash.compared < 512 * 100, "of a sort; each with each are 131,000"


def test_malformed_rows_are_counted_and_listed_with_line_numbers(tmp_path):
    folder = write_release(tmp_path / "annotations", [])
    path = folder / releases.RELEASES["v4"].rows.name
    bad = [line for lines in MALFORMED.values() for line in lines]
    endless = b"9" * (3 * annotations.MAX_LINE)
    lines = [path.read_bytes().rstrip(b"\n"), *(GOOD.encode(),) * 100]
    lines += [line.encode(errors="surrogateescape") for line in bad]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines, endless, GOOD.encode()]))
    rejects = Rejects(tmp_path / "rejects.csv")
    assert len(list(annotations.read_rows(path, VOCABULARY, rejects))) == rejects.accepted == 101
    expected = {kind: len(lines) for kind, lines in MALFORMED.items()}
    assert rejects.counts == expected | {"columns": expected["columns"] + 1}

    with pytest.raises(UserError, match=rf"{len(bad) + 1} of {len(bad) + 102} rows are malformed .*box_inverted 2"):
        rejects.close(max_share=0.1)
    with (tmp_path / "rejects.csv").open(newline="") as f:
        written = list(csv.DictReader(f))
    kinds = [kind for kind, lines in MALFORMED.items() for _ in lines]
    assert [(int(w["line"]), w["kind"]) for w in written] == [*enumerate([*kinds, "columns"], 102)]
    assert max(len(w["text"]) for w in written) <= 200 and written[0]["file"] == path.name


def test_malformed_rows_are_no_formulas(tmp_path):
    with contextlib.closing(Rejects(tmp_path / "rejects.csv")) as rejects:
        rejects.add("a.csv", 2, annotations.Malformed("columns", "1 column"), "=HYPERLINK(1)")
    with (tmp_path / "rejects.csv").open(newline="") as f:
        assert [row["text"] for row in csv.DictReader(f)] == ["'=HYPERLINK(1)"]


def test_few_malformed_rows_do_not_fail_the_build(read):
    _, rejects = read([GOOD] * 999 + ["x"])
    rejects.close(max_share=0.001)
    assert rejects.counts == {"columns": 1}


def test_wrong_columns_and_descriptions_are_rejected(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("ImageID,LabelName1,LabelName2,RelationshipLabel\n")
    rejects = Rejects(tmp_path / "rejects.csv")
    with pytest.raises(ValueError, match=r"rows.csv:1: columns 'ImageID,.*,RelationshipLabel'; expected"):
        next(annotations.read_rows(path, VOCABULARY, rejects))
    rejects.close()
    folder = write_release(tmp_path / "annotations", [])
    classes = folder / "class-descriptions-boxable.csv"
    for bad in ("/m/01yrx\n", "/m/01yrx,Cat\n/m/01yrx,Dog\n", "/m/01yrx,Cat|Dog\n", '/m/01yrx,"Cat\tDog"\n'):
        classes.write_text(bad)
        with pytest.raises(UserError, match=r"class-descriptions-boxable.csv:[12]: .* expected a unique id and a name"):
            Vocabulary.read(folder, releases.RELEASES["v4"])


READ = """
import contextlib, sys, tracemalloc
from pathlib import Path
from tests.tfds_naturel.open_images import test_open_images as these
from tfds_naturel.open_images import annotations, releases
annotations.BUCKET_BYTES = 20_000
folder = Path(sys.argv[1])
path = folder / releases.RELEASES["v4"].rows.name
tracemalloc.start()
buckets = these.Buckets(folder, "rows", annotations.bucket_digits(path))
with contextlib.closing(these.Rejects(folder / "rejects.csv")) as rejects:
    annotations.spool(path, these.VOCABULARY, buckets, rejects)
count = sum(1 for _ in these._images(buckets))
streaming = tracemalloc.get_traced_memory()[1]
everything = list(these._images(buckets))
print(count, len(everything), streaming, tracemalloc.get_traced_memory()[0])

image_ids = {image.image_id for image in everything}
boxed = these.Buckets(folder, "boxes", 1)
before = tracemalloc.get_traced_memory()[0]
tracemalloc.reset_peak()
with contextlib.closing(these.Rejects(folder / "rejects.csv")) as rejects:
    these.boxes.spool(folder / releases.RELEASES["v4"].boxes.name, these.CLASSES, image_ids, boxed, rejects)
count = sum(len(these.boxes.clear(boxed, prefix)) for prefix in boxed.prefixes)
streaming = tracemalloc.get_traced_memory()[1] - before
lines = [line for prefix in boxed.prefixes for line in boxed.read(prefix)]
print(count, len(lines) // 2, streaming, tracemalloc.get_traced_memory()[0] - before)
"""


def test_reading_uses_a_fraction_of_the_memory_of_all_images(tmp_path):
    """In a process of its own: in this one, threads of other tests allocate as well."""
    write_release(tmp_path, (row(i, "Cat", "on", "Table") for i in range(20_000)))
    printed = run([sys.executable, "-c", READ, tmp_path], ROOT)
    for line in printed.splitlines():  # of the relationship rows, and of the box file
        count, all_images, streaming, everything = map(int, line.split())
        assert count == all_images == 20_000 and streaming < everything / 4


def test_locating_official_files(tmp_path):
    release = releases.RELEASES["v4"]
    with pytest.raises(UserError, match=r"challenge-2018-train-vrd.csv: not found; expected https://.*41,928,675"):
        releases.locate(release, tmp_path, official=True)
    write_release(tmp_path, [GOOD])
    with pytest.raises(UserError, match=r"the official file has 41,928,675 bytes.*--unofficial"):
        releases.locate(release, tmp_path, official=True)
    assert set(releases.locate(release, tmp_path, official=False)) == {file.name for file in release.files}


# ---- The box file ----------------------------------------------------------------------------------------------------


def read_boxes(folder, lines, image_ids, release="v4"):
    """What is clear by ``lines``, and the rejects; the file has the columns of ``release``."""
    path = write_release(folder, [], release=release, boxes=lines) / releases.RELEASES[release].boxes.name
    buckets, rejects = Buckets(folder, "boxes", 1), Rejects(folder / "rejects.csv")
    boxes.spool(path, CLASSES, image_ids, buckets, rejects)
    rejects.close()
    return {key: value for prefix in buckets.prefixes for key, value in boxes.clear(buckets, prefix).items()}, rejects


@pytest.mark.parametrize("release", ["v4", "v6"])
def test_a_class_is_clear_with_one_box_of_one_real_thing(tmp_path, release):
    lines = [
        *(box_row(1, "Cat"), box_row(1, "Chair"), box_row(2, "Chair"), box_row(1, "Dog", group=1)),
        *(box_row(1, "Table", depiction=1), box_row(1, "Chair"), box_row(1, "Man", inside=1), box_row(3, "Cat")),
        *(box_row(1, "Guitar", group=-1), box_row(1, "Chair", (0.4, 0.5, 0.4, 0.5))),
    ]
    of_one = {"Cat": True, "Chair": False, "Dog": False, "Table": False, "Man": False, "Guitar": False}
    clear, rejects = read_boxes(tmp_path, lines, {image_id(1), image_id(2), image_id(9)}, release)
    assert clear == {image_id(1): of_one, image_id(2): {"Chair": True}}
    assert rejects.accepted == len(lines) and not rejects.counts
    assert read_boxes(tmp_path / "header only", [], {image_id(1)}, release)[0] == {}


def test_rows_of_the_official_box_file_are_read(tmp_path):
    # Rows of oidv6-train-annotations-bbox.csv (CC BY 4.0).
    path = tmp_path / "boxes.csv"
    path.write_text(
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside,"
        "XClick1X,XClick2X,XClick3X,XClick4X,XClick1Y,XClick2Y,XClick3Y,XClick4Y\n"
        "000002b66c9c498e,xclick,/m/01g317,1,0.012500,0.195312,0.148438,0.587500,0,1,0,0,0,"
        "0.148438,0.012500,0.059375,0.195312,0.148438,0.357812,0.587500,0.325000\n"
        "000002b66c9c498e,xclick,/m/01g317,1,0.025000,0.276563,0.714063,0.948438,0,1,0,0,0,"
        "0.025000,0.248438,0.276563,0.214062,0.914062,0.714063,0.782813,0.948438\n"
    )
    buckets, rejects = Buckets(tmp_path, "boxes", 0), Rejects(tmp_path / "rejects.csv")
    boxes.spool(path, {"/m/01g317": "Person"}, {"000002b66c9c498e"}, buckets, rejects)
    rejects.close()
    assert boxes.clear(buckets, "") == {"000002b66c9c498e": {"Person": False}} and rejects.accepted == 2


def test_malformed_boxes_are_counted(tmp_path):
    """Of all images; a box with wrong coordinates still is one."""
    good = box_row(7, "Cat")
    malformed = {
        "columns": [good + ",0", good.rpartition(",")[0], ""],
        "image_id": [good.upper(), good[1:]],
        "unknown_class": [good.replace("/m/01yrx", "/m/nope"), good.replace("/m/01yrx", "")],
        "flag": [box_row(8, "Cat", group=2), box_row(7, "Cat", depiction=""), box_row(7, "Cat", inside="0.0")],
    }
    bad = [line for lines in malformed.values() for line in lines]
    clear, rejects = read_boxes(tmp_path, [good, *bad, good.replace("0.500000", "9.9")], {image_id(7)})
    assert clear == {image_id(7): {"Cat": False}} and rejects.accepted == 2
    assert rejects.counts == {kind: len(lines) for kind, lines in malformed.items()}


def test_other_columns_of_a_box_file_are_refused(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text(",".join(boxes.COLUMNS).replace("IsGroupOf,IsDepiction", "IsDepiction,IsGroupOf") + "\n")
    rejects = Rejects(tmp_path / "rejects.csv")
    with pytest.raises(UserError, match=r"boxes.csv:1: columns 'ImageID,.*; expected '.*IsGroupOf,IsDepiction,IsIn"):
        boxes.spool(path, CLASSES, set(), Buckets(tmp_path, "boxes", 0), rejects)
    rejects.close()


# ---- Image metadata --------------------------------------------------------------------------------------------------


def test_attributions_of_the_requested_images(tmp_path):
    folder = write_release(tmp_path / "annotations", [], images=range(50))
    path = folder / releases.RELEASES["v4"].images.name
    with path.open("a") as f:
        f.write("not,enough\n")
    rejects = Rejects(tmp_path / "rejects.csv")
    buckets = Buckets(tmp_path, "attribution", 1)
    attribution.spool(path, {image_id(3), image_id(4), image_id(99)}, buckets, rejects)
    rejects.close()
    actual = {}
    for digit in buckets.prefixes:
        actual |= attribution.attributions(buckets, digit)
    by = "https://creativecommons.org/licenses/by/2.0/"
    assert actual == {image_id(n): Attribution(by, f"Author {n}", f"https://example.org/photo/{n}") for n in (3, 4)}
    assert rejects.counts == {"metadata": 1}
    path.write_text("ImageID,License\n")
    with pytest.raises(UserError, match=r"missing \['Author', 'OriginalLandingURL'\]"):
        attribution.spool(path, set(), buckets, rejects)
