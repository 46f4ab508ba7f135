"""Bad records: found once, listed with reasons, left out of training up to a limit; later damage ends the run."""

import json
import re

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
    assert version == {"version": 1}
    return rows


def run_check(folder, capsys, *flags) -> str:
    check.main([f"jsonl:{folder}/my.jsonl", "--data_dir", str(folder / "data"), "--workers", "1", *flags])
    return capsys.readouterr().out


@pytest.mark.parametrize("workers", ["1", pytest.param("3", marks=pytest.mark.slow)])
def test_list_has_every_bad_record_and_its_reason(workers, table, capsys):
    output = run_check(table, capsys, "--workers", workers)
    assert "9 of 100 records are bad; the list is" in output and "       1  no field" in output
    reasons = {row["record"]: row["reason"] for row in bad_rows(table)}
    expected = {
        10: r"not a readable image \(0 bytes\)",
        20: "field 'caption' (positives) is empty",
        30: r"not a readable image \(4 bytes\)",
        40: "positives has 3; expected a string",
        50: r"not a readable JPEG \(300 bytes\)",
        60: "no field 'image' or .* (image); it has 'caption'",
        70: r"not a readable JPEG \(2 bytes\)",
        80: "not JSON",
        90: "No such file",
    }
    assert list(reasons) == list(expected)
    for n, match in expected.items():
        assert re.search(match.replace("(positives)", r"\(positives\)").replace("(image);", r"\(image\);"), reasons[n])


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


def test_damage_after_the_check_ends_the_run_with_the_records_name(table, capsys):
    run_check(table, capsys)
    data = source(table)
    (table / "photos/03.jpg").write_bytes(b"damaged")
    (table / "photos/04.jpg").unlink()
    with pytest.raises(UserError, match=r"my\.jsonl, image 'photos/0[34]\.jpg': (not a readable|.*No such file)"):
        list(pipeline(data).batches(0, 12))


def test_without_a_check_broken_images_end_the_run(table):
    with pytest.raises(UserError, match="image 'photos/damaged-"):
        list(pipeline(source(table)).batches(0, 12))


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
    ],
)
def test_mistakes_on_the_command_line(flags, match, table):
    with pytest.raises(UserError, match=match):
        check.main([f"jsonl:{table}/my.jsonl", "--data_dir", str(table), *flags])


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
