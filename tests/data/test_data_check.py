"""Bad records: found once, listed with reasons, left out of training up to a limit; later ones are replaced."""

import dataclasses
import functools
import json
import re

import absl.flags
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from naturel_jax import config as c
from naturel_jax.data import check, datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.models.presets import preset
from tests.helpers import record_files as files
from tests.helpers.caption_groups import jpeg, mesh, processor
from tfds_naturel.common.errors import UserError


@pytest.fixture
def table(tmp_path):
    """100 records, of which 5 have images that are damaged in different ways, and 4 are bad in themselves."""
    paths = files.photos(tmp_path)
    rows = [{"image": paths[n % 19], "caption": f"cup number {n}"} for n in range(100)]
    damaged = {10: b"", 30: b"text", 50: files.image(0)[:300], 70: b"\xff\xd8", 90: None}
    for n, data in damaged.items():
        rows[n]["image"] = f"photos/damaged-{n}.jpg"
        if data is not None:
            (tmp_path / rows[n]["image"]).write_bytes(data)
    rows[20]["caption"], rows[40]["caption"], rows[60] = " ", 3, {"caption": "no image"}
    lines = [json.dumps(row) for row in rows]
    lines[80] = "{broken"
    (tmp_path / "my.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def source(folder, max_bad=0.2):
    return datasets.open_source(f"jsonl:{folder}/my.jsonl", str(folder / "data"), "train", max_bad=max_bad)


def bad_rows(folder) -> list[dict]:
    (path,) = (folder / "data/.cache").glob("*/bad.jsonl")
    version, *rows = map(json.loads, path.read_text().splitlines())
    assert version["version"] == 1
    return rows


def run_check(folder, capsys, *flags) -> str:
    code = check.main([f"jsonl:{folder}/my.jsonl", "--data_dir", str(folder / "data"), "--workers", "1", *flags])
    printed = capsys.readouterr().out
    assert code == (3 if " 0 of " not in printed else 0)
    return printed


@pytest.mark.parametrize("workers", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_list_has_every_bad_record_and_its_reason(workers, table, capsys):
    output = run_check(table, capsys, "--workers", workers)
    assert "9 of 100 records are bad; the list is" in output
    lines = output.splitlines()[1:]
    whole = "photos/damaged-10.jpg: not a readable image (0 bytes): expected JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM"
    assert lines[0] == f"         2  {whole} (the first of them)", "numbers do not make another kind of reason"
    advice, _, share = lines.pop().rpartition("--config.data.max_bad=")
    assert advice.startswith("training is refused with so many") and len(source(table, float(share)).items) == 91
    assert sum(int(line[:10]) for line in lines) == 9 and len(lines) == 7
    reasons = {row["record"]: row["reason"] for row in bad_rows(table)}
    expected = {
        10: r"not a readable image \(0 bytes\)",
        20: r"field 'caption' \(positives\) is empty",
        30: r"not a readable image \(4 bytes\)",
        40: "positives has 3; expected a string",
        50: r"not a readable JPEG \(300 bytes\)",
        60: r"no field 'image' or .* \(image\); it has 'caption'",
        70: r"not a readable JPEG \(2 bytes\)",
        80: "not JSON",
        90: "No such file",
    }
    assert list(reasons) == list(expected)
    for n, match in expected.items():
        assert re.search(match, reasons[n])


def test_bad_records_are_left_out_up_to_a_limit(table, capsys):
    with pytest.raises(UserError, match=r"4 of 100 records are bad \(my\.jsonl:20: field 'caption'.*max_bad is 0\.01"):
        source(table, 0.01)
    assert len(source(table, 0.04).items) == 96
    run_check(table, capsys)
    with pytest.raises(UserError, match="9 of 100 records are bad"):
        source(table, 0.08)
    items = source(table, 0.09).items
    assert len(items) == 91
    assert items.images(np.arange(91)).tolist() == [n for n in range(100) if n % 10 or n == 0]


def pipeline(data, devices=1, **reading):
    raw = c.base()
    raw.preset, raw.data.batch_size = "tiny-clip", 8
    raw.data.update(reading)
    raw.data.mixture.main = c.part("table", "order_shuffles")
    return make_pipeline(c.load(raw), [data], preset("tiny-clip"), processor("clip"), mesh(devices))


def test_five_percent_of_broken_images_are_never_sampled(table, capsys):
    """Every other record once in each epoch, whatever the number of devices and readers."""
    run_check(table, capsys)
    pipe = pipeline(source(table))
    seen = sorted(item for step in range(91) for _, item in pipe.planner.items(step))
    assert seen == sorted([n for n in range(100) if n % 10 or n == 0] * 8)
    for one, other in zip(pipe.batches(0, 3), pipeline(source(table), threads=4).batches(0, 3), strict=True):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_damaged_copy_of_an_image_is_not_replaced_by_another_image_but_made_again(tmp_path):
    name, fields = files.written("parquet", tmp_path)
    opened = functools.partial(datasets.open_source, name, str(tmp_path / "data"), "train", c.Fields(**fields))
    data, (copies, _) = opened(), sorted(tmp_path.rglob("images.bin"))
    whole = copies.read_bytes()
    copies.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"image 'part-0\.parquet:11': its copy in .*images\.bin is damaged; run"):
        list(pipeline(data).batches(0, 3))
    assert len(opened().items) == files.COUNT and copies.read_bytes() == whole


def test_image_that_cannot_be_read_is_replaced_by_the_next_of_its_batch(table, capsys, caplog):
    """With its captions; and so again where the run continues."""
    run_check(table, capsys)
    square = {"crop_scale": (1.0, 1.0)}
    data, whole = source(table), list(pipeline(source(table), **square).local_batches(0, 3))
    rows = pipeline(data).planner.plan(1).rows
    real = np.flatnonzero(rows.source_I == 0).tolist()
    names = {n: data.items.image_ids[rows.item_I[n]] for n in real}
    bad = real[2]
    damaged = [n for n in real if names[n] == names[bad]]  # records share some photos
    other = next(n for n in [*real[3:], *real[:2]] if n not in damaged)
    (table / names[bad]).write_bytes(b"damaged")
    now = list(pipeline(data, **square).local_batches(0, 3))[1]
    assert {one.row: one.by for one in now.replaced}[bad] == other and now.read == 8
    for found, before in zip(now.batch.image_labels[:4], whole[1].batch.image_labels[:4], strict=True):
        np.testing.assert_array_equal(found[bad], before[other])
        np.testing.assert_array_equal(np.delete(found, damaged, 0), np.delete(before, damaged, 0))
    pixels, before = now.batch.images, whole[1].batch.images
    assert any(np.array_equal(pixels[bad], stand_in) for stand_in in (before[other], before[other][:, ::-1]))
    np.testing.assert_array_equal(np.delete(pixels, damaged, 0), np.delete(before, damaged, 0))
    (resumed,) = pipeline(data, threads=4, **square).local_batches(1, 2)
    jax.tree.map(np.testing.assert_array_equal, resumed.batch, now.batch)
    assert f"image {names[bad]!r}: not a readable image (7 bytes)" in caplog.text
    assert "another image of the batch takes its place" in caplog.text and "were replaced by others of" in caplog.text


def test_replacement_does_not_depend_on_devices(table):
    """It does not depend on reading processes, either: the images and labels of each anchor of an epoch, in order."""
    absl.flags.FLAGS.mark_as_parsed()  # Grain's processes read them
    data, epochs = source(table), []
    for devices, reading in ((1, {}), (4, {}), (1, {"workers": 1})):
        rows, replaced = [], 0
        for local in pipeline(data, devices, max_bad=0.9, **reading).local_batches(0, 12):
            kept = local.batch.image_labels.positives_IK[:, 0] >= 0
            rows.append((local.batch.images[kept], local.batch.image_labels.positives_IK[kept]))
            replaced += len(local.replaced)
        assert replaced == 5
        epochs.append(rows)
    for other in epochs[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, epochs[0])


def test_too_many_images_that_cannot_be_read_end_the_run(table):
    for n in range(12):
        (table / f"photos/{n:02}.jpg").unlink()
    match = r"1\d of the \d\d images read so far cannot be \(jsonl:.*\); config\.data\.max_bad is 0\.01\. Repair"
    with pytest.raises(UserError, match=match):
        list(pipeline(source(table)).batches(0, 24))
    assert len(list(pipeline(source(table), max_bad=0.9).batches(0, 24))) == 24
    with pytest.raises(UserError, match=r"\d of the 8 images read so far cannot be"):
        list(pipeline(source(table), max_bad=0.0).batches(0, 24))


def test_error_of_the_disk_or_a_batch_without_images_ends_the_run(table, monkeypatch):
    data = source(table)

    def failing(n: int) -> bytes:
        raise OSError(5, "Input/output error")

    with pytest.raises(UserError, match=r"my\.jsonl, image '.*': .*Input/output error"):
        list(pipeline(dataclasses.replace(data, read_image=failing), max_bad=0.9).batches(0, 1))
    with pytest.raises(UserError, match=r"my\.jsonl, image '.*': not a readable image \(0 bytes\)"):
        list(pipeline(dataclasses.replace(data, read_image=lambda n: b""), max_bad=0.9).batches(0, 1))


def test_list_of_another_version_is_rejected(table, capsys):
    run_check(table, capsys)
    (path,) = (table / "data/.cache").glob("*/bad.jsonl")
    path.write_text('{"version": 2}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl has version 2; this program reads 1"):
        source(table)


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["--fields", "images=x"], r"--fields has no field 'images'; did you mean 'image'\?"),
        (["--fields", "image=path", "--split", "test"], "split 'test': a JSONL file has no splits"),
        (["--workers", "-3"], "--workers is -3, expected 1 to 1,024"),
    ],
)
def test_mistakes_on_the_command_line(flags, match, table):
    with pytest.raises(UserError, match=match):
        check.main([f"jsonl:{table}/my.jsonl", "--data_dir", str(table), *flags])


@pytest.mark.parametrize("image", ["https://example.org/a.jpg", "HTTP:/example.org/a.jpg"])
def test_address_of_an_image_is_not_taken_for_a_path(image, tmp_path):
    files.photos(tmp_path)
    (tmp_path / "my.csv").write_text(f"filepath;caption\nphotos/01.jpg;a cup\n{image};a cup, on a table\n")
    match = rf"my\.csv:1: the image is '{image}'; expected a path: images are read from disk"
    with pytest.raises(UserError, match=match):
        datasets.open_source(f"csv:{tmp_path}/my.csv", str(tmp_path / "data"), "train")
    with pytest.raises(UserError, match=r"csv:https://host/my\.csv: an address; .*: download it"):
        datasets.open_source("csv:https://host/my.csv", str(tmp_path / "data"), "train")


@pytest.mark.parametrize(
    ("header", "row"), [("filepath;caption", "{};a cup, red"), ("filepath,caption;en", '{},"a;b"')]
)
def test_separator_of_a_csv_is_that_of_its_header(header, row, tmp_path):
    rows = "\n".join([header, *map(row.format, files.photos(tmp_path))])
    (tmp_path / "my.csv").write_text(rows + "\n")
    fields = c.Fields(positives=header[9:])
    items = datasets.open_source(f"csv:{tmp_path}/my.csv", str(tmp_path / "data"), "train", fields).items
    assert len(items) == files.COUNT and set(items.texts) == {"a cup, red" if ";c" in header else "a;b"}


def test_parquet_that_is_not_utf8(tmp_path):
    """A string makes its record bad; a column's name, the file. Arrow checks neither."""
    starts = pa.py_buffer(np.array([0, 3, 5], np.int32))
    texts = pa.StringArray.from_buffers(2, starts, pa.py_buffer(b"cat\xff\xfe"))
    (tmp_path / "a.jpg").write_bytes(jpeg())
    path = tmp_path / "my.parquet"
    pq.write_table(pa.table({"image": pa.array(["a.jpg", "a.jpg"]), "caption": texts}), path)
    opened = datasets.open_source(f"parquet:{path}", str(tmp_path / "data"), "train", max_bad=0.5)
    assert len(opened.items) == 1 and opened.items.texts_at(np.array([0])) == ["cat"]
    with pytest.raises(UserError, match=r"1 of 2 records are bad \(my\.parquet:1: caption is not UTF-8"):
        datasets.open_source(f"parquet:{path}", str(tmp_path / "data"), "train", max_bad=0.1)
    path.write_bytes(path.read_bytes().replace(b"caption", b"capt\xffon"))
    with pytest.raises(UserError, match=r"my\.parquet: not a readable Arrow or Parquet file .*utf-8"):
        datasets.open_source(f"parquet:{path}", str(tmp_path / "data"), "train")
