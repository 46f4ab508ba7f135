"""Broken and malicious files: every problem is reported, and nothing outside the folder is read."""

import json
import re
import zipfile

import pytest

from naturel_jax.benchmarks import files as reading
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.files import BenchmarkError
from tests.helpers import benchmark_files as files
from tests.helpers.benchmark_files import read
from tfds_naturel.common.errors import UserError


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_0": "../../secret"}, "leaves its folder"),
        ({"image_0": "ex_9_img_9"}, "image 'ex_9_img_9.png' is not in"),
        ({"caption_0": 3}, "field 'caption_0' is 3, expected str"),
        ({"id": 1}, "its id appears twice"),
        ({"id": True}, "field 'id' is True, expected int"),
        ({"caption_0": "a" * 100_001}, ", which has more than 100,000 characters"),
        ({"caption_0": "half a pair: \ud83d"}, "'half a pair: \\ud83d', which is not valid Unicode"),
    ],
)
def test_bad_record_is_reported_and_skipped(tmp_path, changes, reason):
    files.winoground(tmp_path, items=3, **changes)
    benchmark = read("winoground", tmp_path)
    assert len(benchmark.items) == 2
    assert len(benchmark.problems) == 1 and reason in benchmark.problems[0] and "record" in benchmark.problems[0]


def test_records_with_missing_fields_are_reported(tmp_path):
    files.sugarcrepe(tmp_path)
    path = tmp_path / "sugarcrepe/add_att.json"
    rows = json.loads(path.read_text())
    del rows["1"]["negative_caption"]
    files.write(path, rows | {"2": "text"})
    benchmark = read("sugarcrepe", tmp_path)
    assert benchmark.problems == (
        "add_att.json record 1: has no field 'negative_caption'",
        "add_att.json record 2: is a str, expected an object with fields filename, caption, negative_caption",
    )


@pytest.mark.parametrize(
    ("filename", "reason"), [(".", "leaves its folder"), ("x" * 5000, r"File name too long|is not in")]
)
def test_impossible_file_names_are_reported(tmp_path, filename, reason):
    files.sugarcrepe(tmp_path)
    row = {"filename": filename, "caption": "a cat", "negative_caption": "a dog"}
    files.write(tmp_path / "sugarcrepe/swap_att.json", {"0": row})
    (problem,) = read("sugarcrepe", tmp_path).problems
    assert re.match(f"swap_att.json record 0: image.*({reason})", problem)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"0": ', "broken JSON"),
        (b"\xff\xfe", "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b"[]", "holds a list; the official file is a JSON dict"),
        (b'{"0": {}, "0": {}}', "key '0' appears twice"),
    ],
)
def test_broken_json_is_rejected(tmp_path, content, reason):
    files.sugarcrepe(tmp_path)
    files.write(tmp_path / "sugarcrepe/swap_obj.json", content)
    with pytest.raises(BenchmarkError, match=r"swap_obj\.json: .*" + reason):
        read("sugarcrepe", tmp_path)


def test_missing_file_error_says_where_to_get_it(tmp_path):
    for name in registry.BENCHMARKS:
        if not registry.reads_dataset(name):
            with pytest.raises(FileNotFoundError, match=rf"{tmp_path}.*: (not found|contains no .*);"):
                read(name, tmp_path)
    with pytest.raises(UserError, match=r"'winogrand'.*winoground"):
        read("winogrand", tmp_path)
    with pytest.raises(UserError, match="naturel needs --naturel, which is not set"):
        read("naturel", tmp_path)


def test_all_selects_the_readable_benchmarks(tmp_path, capsys):
    files.winoground(tmp_path)
    files.visual_genome(tmp_path)
    found = registry.read(["all"], files=tmp_path)
    assert [b.name for b in found] == ["winoground", "vg_relation", "vg_attribution"]
    assert "skipped bivlc" in capsys.readouterr().out


def test_oversized_members_and_truncated_archives_are_rejected(tmp_path, monkeypatch):
    files.winoground(tmp_path, items=2)
    monkeypatch.setattr("naturel_jax.benchmarks.files.MAX_IMAGE_BYTES", 1000)
    benchmark = read("winoground", tmp_path)
    assert not benchmark.items and all("bytes; refused" in problem for problem in benchmark.problems)
    archive = tmp_path / "winoground/images.zip"
    monkeypatch.undo()
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("filled.png", b"\x89PNG" + bytes(1_000_000))  # its bytes, which cost none, make pixels cheap
    with pytest.raises(BenchmarkError, match=r"unpacks to 1,000,004 bytes; refused"):
        reading.Archive(archive).image("filled.png")
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(BenchmarkError, match="not a readable zip file"):
        read("winoground", tmp_path)


def test_damaged_archive_member_raises_value_error(tmp_path):
    files.winoground(tmp_path, items=1)
    archive = tmp_path / "winoground/images.zip"
    with zipfile.ZipFile(archive) as opened:
        offset = opened.infolist()[0].header_offset + 60
    data = bytearray(archive.read_bytes())
    data[offset : offset + 200] = bytes(200)
    archive.write_bytes(data)
    with pytest.raises(ValueError, match=r"images\.zip, member images/ex_0_img_0\.png"):
        read("winoground", tmp_path).items[0].images[0].read()


def test_links_out_of_the_folder_are_refused(tmp_path, monkeypatch):
    """A link within the folder is fine, as is one to the hub's cache, or a folder that is itself a link."""
    files.sugarcrepe(tmp_path / "elsewhere")
    for folder in ("sugarcrepe", "coco"):
        (tmp_path / "root").mkdir(exist_ok=True)
        (tmp_path / "root" / folder).symlink_to(tmp_path / "elsewhere" / folder)
    images, cache = tmp_path / "elsewhere/coco/val2017", tmp_path / "hub"
    cache.mkdir()
    images.joinpath("000000000001.png").rename(cache / "blob")
    images.joinpath("000000000001.png").symlink_to(cache / "blob")
    images.joinpath("000000000002.png").rename(images / "moved.png")
    images.joinpath("000000000002.png").symlink_to("moved.png")
    images.joinpath("000000000003.png").unlink()
    images.joinpath("000000000003.png").symlink_to("000000000003.png")  # a circle
    problems = read("sugarcrepe", tmp_path / "root").problems
    assert sum("000000000001.png is a link out of" in problem for problem in problems) == 5
    assert not any("000000000002" in problem for problem in problems)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    assert all("000000000003" in problem for problem in read("sugarcrepe", tmp_path / "root").problems)


def test_a_comma_without_quotes_does_not_cut_a_caption(tmp_path):
    """Python's csv.DictReader takes the cells beyond the line of names for none of them."""
    (tmp_path / "a.csv").write_text("name,caption\n1.jpg,a cat\n2.jpg,a cat, which sleeps\n")
    with pytest.raises(UserError, match=r"a.csv: .*line 3 has 3 cells; the header has 2"):
        list(reading.load_csv(tmp_path / "a.csv"))


def test_images_of_one_name_in_two_folders_of_an_archive_are_not_guessed(tmp_path):
    for folder, content in (("a", b"1"), ("b", b"2"), ("c", b"2")):
        with zipfile.ZipFile(tmp_path / "images.zip", "a") as archive:
            archive.writestr(f"{folder}/0.png", content)
            archive.writestr(f"{folder}/1.png", b"same")
    archive = reading.Archive(tmp_path / "images.zip")
    assert archive.image("1.png").read() == b"same"
    for name in ("0.png", "./0.png"):
        with pytest.raises(BenchmarkError, match=r"several images '0.png', which differ"):
            archive.image(name)


def test_records_that_are_bad_without_end_are_refused(tmp_path, monkeypatch):
    """Each is reported in a hundred times its bytes."""
    monkeypatch.setattr(reading, "MOST_BAD", 10)
    files.write(tmp_path / "bla/annotations/active_passive_captions.json", [{}] * 11)
    with pytest.raises(BenchmarkError, match=r"more than 10 records are bad, the first: .* has no field"):
        read("bla", tmp_path)


def test_sdci_lists_a_file_once_and_has_boxes_of_any_number(tmp_path):
    files.sdci(tmp_path)
    path = tmp_path / "sdci/complete/0.json"
    path.write_text(path.read_text().replace('"x": 300', '"x": 1e999'))
    problems = read("sdci", tmp_path).problems
    assert any("complete/'0.json': not in the official form" in problem for problem in problems)
    path.write_text(
        path.read_text().replace("Infinity", "300").replace('"x": 1e999', '"x": 300').replace('"idx": 1', '"idx": 0')
    )
    problems = read("sdci", tmp_path).problems
    assert any("'sa_0.jpg' has several parts of one idx" in problem for problem in problems)
    (tmp_path / "sdci/splits.json").write_text(json.dumps({"test": ["0.json", "./0.json"]}))
    with pytest.raises(BenchmarkError, match="has 2 names of 1 files"):
        read("sdci", tmp_path)


@pytest.mark.parametrize(
    ("classes", "name", "templates", "message"),
    [
        (40, "x", "{}\n" * 100_000, "100,000 templates for 40 classes"),  # 250 MB from 300 kB: strings have headers
        (1, "x" * 20_000, "{}" * 20_000, "1 templates for 1 classes give prompts of 400,040,032 characters"),
    ],
    ids=["many", "long"],
)
def test_prompts_of_many_times_the_bytes_of_their_files_are_refused(classes, name, templates, message, tmp_path):
    for n in range(classes):
        (tmp_path / f"zeroshot/pets/{n}").mkdir(parents=True)
    (tmp_path / "zeroshot/pets/classnames.txt").write_text("".join(f"{n} {name}\n" for n in range(classes)))
    (tmp_path / "zeroshot/pets/templates.txt").write_text(templates)
    with pytest.raises(BenchmarkError, match=message):
        read("zeroshot", tmp_path)
