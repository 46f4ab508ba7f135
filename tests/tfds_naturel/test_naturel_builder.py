"""The builder on small folders in Open Images' formats: examples, splits, options, and errors."""

import collections
import io
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from filelock import FileLock
from PIL import Image
from tensorflow_datasets.core import shuffle

from tests.helpers.open_images_files import (
    WORLD_IMAGES,
    build_dataset,
    image_id,
    photo,
    row,
    shown,
    write_photos,
    write_release,
    write_world,
)
from tests.helpers.processes import wait_until
from tests.helpers.worlds import TINY
from tfds_naturel import build, naturel
from tfds_naturel.captions import bank
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import md5_of
from tfds_naturel.common.schema import Caption, Triplet
from tfds_naturel.open_images import plan, releases, splits


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("open_images"))


def _build(opened, out, *arguments, config="full"):
    return tfds.builder_from_directory(build_dataset(opened, Path(out), *arguments, config=config, name="test"))


@pytest.fixture(scope="module")
def built(opened, tmp_path_factory):
    return _build(opened, tmp_path_factory.mktemp("built"))


def _examples(builder, split):
    return list(builder.as_data_source(split))


def _text(values):
    return [value.decode() for value in values]


def _triplets(example):
    relations = example["relations"]
    parts = zip(*(_text(relations[part]) for part in ("subject", "relation", "object")), strict=True)
    return [Triplet(*triplet) for triplet in parts]


def test_every_photo_is_built_with_its_annotations(opened, built):
    by_id = {e["image_id"].decode(): e for split in plan.SPLITS for e in _examples(built, split)}
    facts = built.info.metadata
    assert len(by_id) == WORLD_IMAGES - 1 - sum(facts["images"]["dropped"].values())
    assert facts["images"]["refused"] == {"missing": 1} and facts["unattributed"] == 1
    for n in range(1, WORLD_IMAGES - 1):
        if image_id(n) not in by_id:
            continue
        example = by_id[image_id(n)]
        assert example["author"].decode() == f"Author {n}"
        assert example["license"].decode() == "https://creativecommons.org/licenses/by/2.0/"
        assert example["source_url"].decode() == f"https://example.org/photo/{n}"
        assert example["image"].shape == (288, 384, 3)
        boxes, labels = example["objects"]["box"], _text(example["objects"]["label"])
        for triplet, subject, target in zip(
            _triplets(example), example["relations"]["subject_index"], example["relations"]["object_index"], strict=True
        ):
            assert triplet in shown(n)
            assert labels[subject] == triplet.subject
            np.testing.assert_allclose(boxes[subject], [0.2, 0.1, 0.6, 0.5], rtol=1e-6)  # ymin, xmin, ymax, xmax
            if triplet.relation == "is":
                assert target == -1
            else:
                assert labels[target] == triplet.object
                np.testing.assert_allclose(boxes[target], [0.4, 0.3, 1.0, 0.9], rtol=1e-6)


def test_every_triplet_of_an_image_has_its_captions(built):
    """Eight in their fixed wording, then, if they are in the bank, (positive, negative) of each further wording."""
    published = bank.load()
    fixed = [(0, pair, polarity) for pair in range(4) for polarity in ("positive", "negative")]
    for split in plan.SPLITS:
        for example in _examples(built, split):
            captions = example["captions"]
            shown = list(dict.fromkeys(map(str, _triplets(example))))
            names = built.info.features["captions"]["polarity"].names
            rows = zip(_text(captions["triplet"]), captions["paraphrase"], captions["pair"], strict=True)
            actual = [(*row, names[p]) for row, p in zip(rows, captions["polarity"], strict=True)]
            expected = []
            for triplet in shown:
                further = published.get(Triplet.parse(triplet), ())[8:]
                slots = fixed + [(c.paraphrase, c.pair, c.polarity) for c in further]
                expected.append([(triplet, *slot) for slot in slots])
            assert actual == list(itertools.chain(*expected))
            lengths = list(map(len, expected))
            assert list(captions["group"]) == np.repeat(np.arange(len(shown)), lengths).tolist()
            for polarity, asserts in zip(captions["polarity"], _text(captions["asserts"]), strict=True):
                assert (asserts in shown) == (names[polarity] == "positive")


def test_splits_are_disjoint_and_hold_out_triplets(built):
    by_split = {split: _examples(built, split) for split in plan.SPLITS}
    ids = [e["image_id"] for examples in by_split.values() for e in examples]
    assert len(ids) == len(set(ids)) and all(by_split.values())
    held_out = set(built.info.metadata["held_out"])
    assert held_out
    for split, examples in by_split.items():
        shown = {str(t) for e in examples for t in _triplets(e)}
        assert (shown <= held_out) if split == splits.UNSEEN else shown.isdisjoint(held_out)
    trained = [t for e in by_split["train"] for t in _triplets(e)]
    for triplet in map(Triplet.parse, held_out):
        assert any(triplet.subject in (t.subject, t.object) for t in trained)
        assert any(triplet.object in (t.subject, t.object) for t in trained)
        assert triplet.relation in {t.relation for t in trained}


def test_near_duplicates_share_a_split(opened, tmp_path):
    """With a seed that gives the two images different splits, were they not alike."""
    two = image_id(2), image_id(40)
    seed = next(n for n in itertools.count() if len({splits.split_of(n, name) for name in two}) == 2)
    builder = _build(opened, tmp_path, "--seed", seed)
    homes = {e["image_id"].decode(): s for s in plan.SPLITS for e in _examples(builder, s)}
    assert homes[two[0]] == homes[two[1]]


def test_configs_filter_triplets_but_share_splits(opened, built, tmp_path):
    homes = {e["image_id"]: split for split in plan.SPLITS for e in _examples(built, split)}
    for config in ("relations", "attributes"):
        builder = _build(opened, tmp_path / config, config=config)
        assert "train" in builder.info.splits
        for split in builder.info.splits:
            for example in _examples(builder, split):
                kept = {triplet.relation == "is" for triplet in _triplets(example)}
                assert kept == {config == "attributes"}
                assert homes[example["image_id"]] == split
        assert builder.info.metadata["held_out"] == built.info.metadata["held_out"]


def _bytes(builder):
    files = Path(builder.data_dir).glob("*.array_record*")
    return {path.name: path.read_bytes() for path in files}


def test_build_is_byte_reproducible_also_beyond_the_memory_buffer(opened, built, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 100_000)
    again = _build(opened, tmp_path)
    assert _bytes(again) == _bytes(built) and len(_bytes(built)) == 4
    leftover = [*tmp_path.rglob("*.tsv"), *tmp_path.rglob("*.tmp")]
    assert not leftover, "bucket files and buffers are removed when the dataset is finished"
    for name in ("README.md", "metadata.json"):
        assert (Path(again.data_dir) / name).read_bytes() == (Path(built.data_dir) / name).read_bytes()


def test_build_does_not_depend_on_row_order_or_threads(opened, built, tmp_path, monkeypatch):
    annotations = tmp_path / "annotations"
    annotations.mkdir()
    for path in (opened / "annotations").iterdir():
        lines = path.read_text().splitlines(keepends=True)
        if path.name == releases.RELEASES["v4"].rows.name:
            lines = [lines[0], *reversed(lines[1:])]
        (annotations / path.name).write_text("".join(lines))
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    again = _build(opened, tmp_path / "out", "--annotations", annotations)
    assert _bytes(again) == _bytes(built)


def test_rebuild_does_nothing_and_changed_options_are_rejected(opened, tmp_path, capsys):
    builder = _build(opened, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in Path(builder.data_dir).iterdir()}
    assert Path(builder.data_dir) / "README.md" in before
    printed = capsys.readouterr().out
    assert f"{builder.data_dir}: " in printed and "ownload" not in printed, "nothing is downloaded"
    _build(opened, tmp_path)
    assert "already built" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}, "caches are made for these times"
    with pytest.raises(UserError, match=r"already built with short_side 288, now 128; set a new --name"):
        _build(opened, tmp_path, "--short_side", 128)
    with pytest.raises(UserError, match=r"--short_side: changes the contents of 'full'; set a new --name"):
        build.main(["full", "--short_side", "128", "--data_dir", str(tmp_path)])


def test_card_replaces_a_link(opened, tmp_path):
    """What is written would go to the file that it leads to."""
    builder = _build(opened, tmp_path)
    card, other = Path(builder.data_dir) / "README.md", tmp_path / "other"
    text = card.read_text()
    other.write_text("somebody else's\n")
    card.unlink()
    card.symlink_to(other)
    _build(opened, tmp_path)
    assert other.read_text() == "somebody else's\n" and card.read_text() == text and not card.is_symlink()


def test_interrupted_build_leaves_no_complete_dataset(opened, built, tmp_path):
    command = [sys.executable, "-m", "tfds_naturel.build", "full", "--manual_dir", opened, "--data_dir", tmp_path]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([*map(str, command), "--unofficial", "--name", "test"], env=environment, **quiet)
    wait_until(lambda: list(tmp_path.glob("naturel/test/incomplete.*")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("naturel/test/4.1.0/*")) and list(tmp_path.glob("naturel/test/incomplete.*"))
    assert _bytes(_build(opened, tmp_path)) == _bytes(built)
    assert not list(tmp_path.glob("naturel/test/incomplete.*"))


def test_build_that_is_going_on_is_left_alone(tmp_path, monkeypatch):
    """Its folder is called like what a killed one has left. A run that draws a world is the same builder."""
    world, refused = naturel.scenes(TINY), []
    monkeypatch.setitem(naturel.Naturel.builder_configs, TINY.name, world)

    def second():
        if not refused:
            with pytest.raises(UserError, match=r"naturel/tiny/\S+: another process is building it; wait for it") as e:
                build.main([TINY.name, "--data_dir", str(tmp_path)])
            refused.append(e)

    naturel.Naturel(config=world, data_dir=str(tmp_path), check=second).download_and_prepare()
    assert refused and list(tmp_path.glob("naturel/tiny/*/dataset_info.json"))


def test_finished_dataset_is_opened_whoever_holds_the_lock(tmp_path):
    """As others do that open it at the same time."""
    world = naturel.scenes(TINY)
    builder = naturel.Naturel(config=world, data_dir=str(tmp_path))
    builder.download_and_prepare()
    with FileLock(Path(builder.data_dir).with_name(".lock")):
        naturel.Naturel(config=world, data_dir=str(tmp_path)).download_and_prepare()
        again = tfds.download.DownloadConfig(download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS)
        with pytest.raises(UserError, match="another process is building it"):
            naturel.Naturel(config=world, data_dir=str(tmp_path)).download_and_prepare(download_config=again)


def test_photos_are_reencoded_and_refused_ones_counted(opened, tmp_path):
    """A photo that five images share is a placeholder; a link is followed only within the folder."""
    images = tmp_path / "images"
    images.mkdir()
    for n in range(1, WORLD_IMAGES):
        (images / f"{image_id(n)}.jpg").write_bytes(photo(3 if n < 6 else n, 400, 300))
    inside, outside = (images / f"{image_id(n)}.jpg" for n in (7, 8))
    inside.rename(images / "moved.jpg")
    inside.symlink_to("moved.jpg")
    outside.rename(tmp_path / "secret.jpg")
    outside.symlink_to(tmp_path / "secret.jpg")
    builder = _build(opened, tmp_path, "--images", images, "--max_missing", 0.1, "--short_side", 96)
    assert builder.info.metadata["images"]["refused"] == {"missing": 1, "placeholder": 5, "symlink": 1}
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert {Image.open(io.BytesIO(source[n]["image"])).size for n in range(len(source))} == {(128, 96)}


def test_too_many_missing_photos_or_bad_rows_fail_the_build(opened, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"90 of 90 annotated images have no usable photo \(missing 90\)"):
        _build(opened, tmp_path, "--images", tmp_path / "none")
    annotations = write_release(tmp_path / "annotations", [row(1, "Cat", "on", "Table"), "bad row"])
    with pytest.raises(UserError, match=r"1 of 2 rows are malformed \(columns 1\).*rejected-rows.csv"):
        _build(opened, tmp_path, "--annotations", annotations)
    annotations = shutil.copytree(opened / "annotations", tmp_path / "boxes")
    boxes = annotations / releases.RELEASES["v4"].boxes.name
    boxes.write_text(boxes.read_text() + "bad row\n")
    with pytest.raises(UserError, match=r"1 of \d+ rows are malformed \(columns 1\).*rejected-boxes.csv"):
        _build(opened, tmp_path, "--annotations", annotations)
    boxes.unlink()
    with pytest.raises(UserError, match=r"train-annotations-bbox.csv: not found; expected https.*1,194,033,454 bytes"):
        _build(opened, tmp_path, "--annotations", annotations)
    assert not list(tmp_path.glob("naturel/*/*/dataset_info.json"))
    with pytest.raises(UserError, match=r"challenge-2018-train-vrd.csv: .* the official file has 41,928,675 bytes"):
        build.main(["full", "--manual_dir", str(opened), "--data_dir", str(tmp_path)])


def test_card_matches_the_built_dataset(opened, built):
    card, total = (Path(built.data_dir) / "README.md").read_text(), []
    for split in plan.SPLITS:
        examples = _examples(built, split)
        assert f"| {split} | {len(examples)} |" in card
        shown = collections.Counter(str(t) for e in examples for t in set(_triplets(e)))
        facts = built.info.metadata["splits"][split]
        assert facts == {"images": len(examples), "triplets": dict(sorted(shown.items()))}
        total.append(sum(n for triplet, n in shown.items() if "|plays|" in triplet))
    assert f"| plays | {' | '.join(map(str, total))} |" in card
    boxes = (opened / "annotations" / releases.RELEASES["v4"].boxes.name).read_text().splitlines()
    assert f"| valid box rows | {len(boxes) - 1} |" in card
    assert "They are of the third edition of the caption bank." in card
    assert "CC BY 4.0" in card and built.info.metadata["inputs"]["challenge-2018-train-vrd.csv"] in card


def _own_bank(path, triplet, wrong):
    """Writes a bank with one triplet, whose negatives all assert ``wrong``."""
    rows = []
    for pair in range(4):
        kind = "complex" if pair else "simple"
        rows.append(Caption(f"own {pair}", kind, "positive", pair, triplet, triplet, "", "mine"))
        rows.append(Caption(f"wrong {pair}", kind, "negative", pair, triplet, wrong, "swap", "mine"))
    bank.save(path, {triplet: tuple(rows)})


def _texts(builder, triplet):
    """The eight captions of ``triplet`` by image id, over all splits."""
    by_id = {}
    for split in builder.info.splits:
        for example in _examples(builder, split):
            captions = zip(_text(example["captions"]["triplet"]), _text(example["captions"]["text"]), strict=True)
            if texts := [text for name, text in captions if name == str(triplet)]:
                by_id[example["image_id"].decode()] = texts
    return by_id


def test_custom_caption_bank(opened, built, tmp_path):
    triplet = Triplet("Man", "plays", "Guitar")
    _own_bank(tmp_path / "bank.tsv", triplet, Triplet("Guitar", "plays", "Man"))
    builder = _build(opened, tmp_path, "--bank", tmp_path / "bank.tsv")
    expected = [f"{word} {pair}" for pair in range(4) for word in ("own", "wrong")]
    own, before = _texts(builder, triplet), _texts(built, triplet)
    assert own and own.keys() == before.keys() and all(texts == expected for texts in own.values())
    lacking = _texts(builder, Triplet("Man", "plays", "Piano"))  # not in the bank, so written by the grammar
    assert lacking and all(len(set(texts)) == 8 for texts in lacking.values())
    assert builder.info.metadata["options"]["bank"] == md5_of(tmp_path / "bank.tsv")
    assert "The caption bank is the user's." in (Path(builder.data_dir) / "README.md").read_text()
    (tmp_path / "bank.tsv").write_text("triplet\n")
    with pytest.raises(UserError, match=r"already built with bank"):
        _build(opened, tmp_path, "--bank", tmp_path / "bank.tsv")
    with pytest.raises(UserError, match=r"bank.tsv row 1"):
        _build(opened, tmp_path / "new", "--bank", tmp_path / "bank.tsv")


def test_rejected_captions_are_replaced(opened, tmp_path):
    triplet = Triplet("Man", "plays", "Guitar")
    _own_bank(tmp_path / "bank.tsv", triplet, Triplet("Guitar", "plays", "Man"))
    path = tmp_path / "decisions.csv"
    path.write_text(
        "annotator,triplet,pair,text,decision,reason\n"
        f"a,{triplet},0,own 0,accept,\na,{triplet},1,wrong 1,reject,true\na,Cat|on|Table,2,own 2,reject,\n"
        f"b,{triplet},0,own 0,,\nb,{triplet},3,own 3,reject,odd\na,{triplet},1,wrong 1,accept,\n"
    )
    options = ["--bank", tmp_path / "bank.tsv", "--decisions", path]
    texts = next(iter(_texts(_build(opened, tmp_path / "a", *options), triplet).values()))
    assert [text for text in texts if text.startswith(("own", "wrong"))] == ["own 0", "wrong 0", "own 2", "wrong 2"]
    assert len(texts) == 8

    # The grammar's replacements can also be rejected. Of several files the majority counts, and a tie keeps a caption.
    with path.open("a") as f:
        f.write(f'b,{triplet},1,"{texts[2]}",reject,\n')
    (tmp_path / "c.csv").write_text(f"triplet,text,decision\n{triplet},own 3,accept\n")
    again = next(iter(_texts(_build(opened, tmp_path / "b", *options, tmp_path / "c.csv"), triplet).values()))
    assert texts[2] not in again and again[:2] == texts[:2] and again[6] == "own 3" and len(again) == 8

    for bad, match in {
        "triplet,text\n": r"decisions.csv:1: .*missing \['decision'\]",
        "triplet,text,decision\na,b,maybe\n": "decisions.csv:2: decision 'maybe'",
    }.items():
        path.write_text(bad)
        with pytest.raises(UserError, match=match):
            _build(opened, tmp_path / "c", *options)


def test_negatives_that_an_image_shows_are_replaced_only_for_that_image(tmp_path):
    # Images 0 to 2 also show what the bank's negatives claim; image 3 is annotated with its converse.
    triplet, wrong = Triplet("Cat", "on", "Table"), Triplet("Table", "on", "Cat")
    rows = [row(n, *triplet) for n in range(10)] + [row(n, *wrong) for n in range(3)]
    rows.append(row(3, "Cat", "under", "Table"))
    write_release(tmp_path / "annotations", rows, images=range(10))
    write_photos(tmp_path, {n: photo(n) for n in range(10)})
    _own_bank(tmp_path / "bank.tsv", triplet, wrong)
    texts = _texts(_build(tmp_path, tmp_path / "out", "--bank", tmp_path / "bank.tsv"), triplet)
    assert set(texts) == {image_id(n) for n in range(10)}
    for n in range(10):
        is_own = [text.split()[0] in ("own", "wrong") for text in texts[image_id(n)]]
        assert is_own == [n > 3] * 8


def test_command_line_errors_name_the_fix(opened, tmp_path):
    out = ["--data_dir", str(tmp_path)]
    for arguments, match in {
        ("full",): r"--manual_dir: missing or empty; `python -m tfds_naturel.open_images.fetch",
        ("full", "--manual_dir", str(tmp_path / "none")): r"--manual_dir .*none: not a folder",
        ("coco_order", "--manual_dir", str(tmp_path)): r"coco_karpathy_train.json",
        ("full", "--unofficial", "--name", "../../evil"): r"dataset name '../../evil': expected letters, digits and",
        ("scenes", "--name", "mine"): r"--name: only for Open Images",
        ("full", "--name", "a", "--quality", "101"): r"quality 101: expected a number from 1 to 100",
        ("full", "--name", "a", "--max_missing", "nan"): r"max_missing nan: expected a number from 0 to 1",
    }.items():
        with pytest.raises((UserError, FileNotFoundError), match=match):
            build.main([*arguments, *out])
    assert not list(tmp_path.rglob("dataset_info.json")) and not (tmp_path.parent / "evil").exists()


def test_missing_beam_error_names_the_install_command(opened, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"apache_beam is not installed: run `pip install 'naturel_jax\[beam\]'`"):
        _build(opened, tmp_path, "--beam", "runner=DirectRunner")


def test_version_has_release_notes():
    assert str(naturel.Naturel.VERSION) in naturel.Naturel.RELEASE_NOTES
