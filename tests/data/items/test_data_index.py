"""The index: facts, captions and pairs as ``items.collect`` makes them, pickling, interruption, and invalidation."""

import errno
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from naturel_jax.config.record_fields import Fields
from naturel_jax.data import datasets
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items import index, index_writer
from naturel_jax.data.items.items import Caption, Group, collect
from naturel_jax.data.sources import jsonl, webdataset
from tests.helpers.caption_groups import SHOWN, TRIPLETS, sampled_texts
from tests.helpers.record_files import tar_member
from tfds_naturel.common.errors import UserError


def rows():
    """One caption group of each of a few images, and the same as records."""
    for n in range(30):
        captions = TRIPLETS[SHOWN[n % 4][0]][: 2 + 2 * (n % 3)]
        if n % 5 == 4:
            captions = captions[:1] + captions[1::2]  # one positive, several negatives
        sides = (captions[:1], captions[1:]) if n % 5 == 4 else (captions[::2], captions[1::2])
        group = Group(*([Caption(text, fact, pair) for pair, (text, fact) in enumerate(side)] for side in sides))
        record = {"image": f"{n}.jpg", "positives": [t for t, _ in sides[0]], "negatives": [t for t, _ in sides[1]]}
        record |= {"asserts": [f for _, f in sides[0]], "negative_asserts": [f for _, f in sides[1]]}
        yield (f"{n}.jpg", [group]), record


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same items from the index, and from ``collect``."""
    folder = tmp_path_factory.mktemp("index")
    images, records = zip(*rows(), strict=True)
    (folder / "my.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = datasets.open_source(f"jsonl:{folder}/my.jsonl", str(folder), "train")
    return source.items, collect("my", images)


def test_items_are_those_of_collect(pair):
    indexed, collected = pair
    assert list(indexed.image_ids) == list(collected.image_ids) and len(indexed) == len(collected)
    assert sorted(indexed.texts) == sorted(collected.texts) and sorted(indexed.facts) == sorted(collected.facts)

    def described(items, n):
        shown = {items.facts[fact] for fact in items.shows[n]}
        rows = [(side, row, side.text_C[row]) for side in (items.positives, items.negatives) for row in side.rows(n)]
        asserted = [{items.facts[f] for f in items.asserts[text]} for _, _, text in rows]
        return shown, [(items.texts[text], int(side.pair_C[row])) for side, row, text in rows], asserted

    for n in range(len(collected)):
        assert described(indexed, n) == described(collected, n)


def test_counts_of_blocks_are_those_of_each_group(pair):
    """Against the pairs and rows of every single group."""
    for items, kind, paired in itertools.product(pair, (None, "simple", "complex"), (False, True)):
        expected = [
            tuple(side.lengths.item() for side in items.pairs(np.array([g]), kind))
            if paired
            else (len(items.positives.rows(g, kind)), len(items.negatives.rows(g, kind)))
            for g in range(30)
        ]
        for first, stop in ((0, 30), (7, 8), (11, 29)):
            counted = items.counts(first, stop, kind, paired)
            assert list(zip(*(side.tolist() for side in counted), strict=True)) == expected[first:stop]


def test_pickled_items_are_paths(pair):
    data = pickle.dumps(pair[0])
    again = pickle.loads(data)
    assert len(data) < 4000 and b"The cat is on the table" not in data
    assert list(again.texts) == list(pair[0].texts)
    np.testing.assert_array_equal(again.positives.text_C, pair[0].positives.text_C)
    part = pickle.loads(pickle.dumps(pair[0].groups_N1[3:7]))
    np.testing.assert_array_equal(part, [3, 4, 5, 6])


def test_strings_are_a_sequence(pair):
    names = pair[0].image_ids
    assert names[-1] == "29.jpg" and names[2:4] == ["2.jpg", "3.jpg"] and "7.jpg" in names
    with pytest.raises(IndexError, match="string 30 of 30"):
        names[30]


def test_facts_of_records(tmp_path):
    """One fact for all captions of a record, further facts that the image shows, and one text with two facts."""
    records = [
        {"image": "a", "caption": ["a cat", "one cat"], "asserts": "f", "shows": ["g", "h"]},
        {"image": "b", "caption": "a cat", "negatives": "a dog", "asserts": "k", "negative_asserts": ["f"]},
        {"image": "c", "caption": "nothing"},
    ]
    (tmp_path / "my.jsonl").write_text("\n".join(map(json.dumps, records)))
    items = datasets.open_source(f"jsonl:{tmp_path}/my.jsonl", str(tmp_path), "train").items
    assert [{items.facts[f] for f in items.shows[n]} for n in range(3)] == [{"f", "g", "h"}, {"k"}, set()]
    asserted = {text: {items.facts[f] for f in items.asserts[n]} for n, text in enumerate(items.texts)}
    assert asserted == {"a cat": {"f", "k"}, "one cat": {"f"}, "a dog": {"f"}, "nothing": set()}


def test_long_file_is_read_in_blocks_without_losing_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "BLOCK", 37)
    path = tmp_path / "my.jsonl"
    path.write_text("".join(json.dumps({"image": f"{n}.jpg", "caption": "x" * (n % 90)}) + "\n" for n in range(60)))
    table = jsonl.open_table(str(path), "", "train")
    assert len(table.shards) > 60
    found = [row["image"] for shard in table.shards for row in shard.rows()]
    assert found == [f"{n}.jpg" for n in range(60)]


def flip(records: bytes) -> bytes:
    """Another caption, in a file that Arrow reads."""
    assert records.count(b"caption 0") == 1
    return records.replace(b"caption 0", b"captioo 0")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [(None, [0, 1, 2, 2, 3]), (flip, [0, 1, 2, 0, 2, 3]), (lambda records: records[:50], [0, 1, 2, 0, 2, 3])],
    ids=["whole", "flipped", "cut"],
)
def test_interrupted_build_continues_with_the_shards_that_are_left(tmp_path, damage, expected):
    """And with those that were read but whose records are damaged."""
    read = []

    def shard(n):
        def rows():
            read.append(n)
            if n == 2 and read.count(2) == 1:
                raise OSError(errno.EINTR, "interrupted")
            yield {"image": f"{n}.jpg", "caption": f"caption {n}"}

        return index_writer.Shard(f"shard-{n}", rows)

    table = index_writer.Table("shards", str(tmp_path), [], [shard(n) for n in range(4)])
    with pytest.raises(OSError, match="interrupted"):
        index_writer.build(table, Fields(), tmp_path / "index", workers=1)
    if damage:
        records = tmp_path / "index" / "parts" / "0" / "records.arrow"
        records.write_bytes(damage(records.read_bytes()))
    index_writer.build(table, Fields(), tmp_path / "index", workers=1)
    index_writer.build(table, Fields(), tmp_path / "index", workers=1)
    assert read == expected
    items = index.open_source(table, Fields(), tmp_path / "index", 0.0).items
    assert list(items.texts) == [f"caption {n}" for n in range(4)]


def test_changed_file_or_fields_have_an_index_of_their_own(tmp_path):
    path = tmp_path / "my.jsonl"

    def texts(fields=None):
        name = f"jsonl:{path}"
        return list(datasets.open_source(name, str(tmp_path), "train", Fields(**fields or {})).items.texts)

    path.write_text(json.dumps({"image": "a", "caption": "one", "other": "two"}))
    assert texts() == ["one"] and texts({"positives": "other"}) == ["two"]
    path.write_text(json.dumps({"image": "a", "caption": "three", "other": "two"}))
    assert texts() == ["three"]
    path.write_text("")
    with pytest.raises(UserError, match=r"my\.jsonl: no records"):
        texts()


def test_patterns_of_shards():
    assert webdataset.expand("a-{08..10}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar"]
    assert webdataset.expand("{x,y}/{0..1}.tar") == ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]


def test_caption_of_one_word_has_no_order_shuffle():
    items = collect("words", [("a", [Group([Caption("dog")])])])
    assert sampled_texts(recipe("order_shuffles"), items, [0]) == [(["dog"], [])]


def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import multiprocessing, os, signal, threading, time\n"
        "from naturel_jax.data.items import index_writer\n"
        "def die():\n"
        "    while len(multiprocessing.active_children()) < 2: time.sleep(0.01)\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "threading.Thread(target=die).start()\n"
        "list(index_writer.parallel(time.sleep, [(600,), (600,)], 2))\n"
    )
    # Workers share its standard output, so this returns only once they have ended.
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(killed.stdout.split()) == 2


def reasons(dataset, cache, **fields) -> dict[int, str]:
    """Why records are bad."""
    table = datasets.open_unindexed(dataset, str(cache), "train")
    path = index_writer.folder_of(table, Fields(**fields), str(cache))
    index_writer.build(table, Fields(**fields), path, workers=1)
    return {row["record"]: row["reason"] for row in index.read_unusable(path)}


def test_captions_without_end_are_bad_records(tmp_path):
    (tmp_path / "my.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": "a " * 60_000}) + "\n")
    (reason,) = reasons(f"jsonl:{tmp_path}/my.jsonl", tmp_path).values()
    assert reason.endswith("of 119,999 characters; the limit is 100,000")


def test_a_long_fact_of_many_captions_is_a_bad_record(tmp_path):
    """Arrow would copy it for each of them."""
    record = {"image": "a.jpg", "caption": ["a cat"] * 1000, "fact": "a " * 600}
    (tmp_path / "my.jsonl").write_text(json.dumps(record) + "\n")
    (reason,) = reasons(f"jsonl:{tmp_path}/my.jsonl", tmp_path, asserts="fact").values()
    assert reason.endswith("1,199 characters for each of 1,000 captions; shorten it")


def test_paths_that_leave_the_folder_are_bad_records(tmp_path):
    """Whatever is outside, nothing of it is read."""
    folder = tmp_path / "table"
    folder.mkdir()
    (folder / "up").symlink_to(tmp_path)
    paths = ["in/photo.jpg", "a/../photo.jpg", "../photo.jpg", f"{tmp_path}/photo.jpg", "in/../../photo.jpg"]
    paths.append("up/../photo.jpg")  # beside tmp_path
    (folder / "my.jsonl").write_text("".join(json.dumps({"image": p, "caption": "a cat"}) + "\n" for p in paths))
    (folder / "captions.csv").write_text("image,caption\n" + "".join(f"{p},a cat\n" for p in paths))
    pq.write_table(pa.table({"image": paths, "caption": ["a cat"] * 6}), folder / "my.parquet")
    (folder / "my.csv").write_text((folder / "captions.csv").read_text())
    sources = [f"{kind}:{folder}/my.{kind}" for kind in ("jsonl", "parquet", "csv")]
    for dataset in (*sources, f"folder:{folder}"):
        found = reasons(dataset, tmp_path)
        assert list(found) == [2, 3, 4, 5] and all(f"is outside {folder}" in reason for reason in found.values())
        assert list(reasons(dataset, tmp_path, folder=str(tmp_path))) == [2, 4]
        assert reasons(dataset, tmp_path, folder="/") == {}


def test_links_to_folders_elsewhere_are_named_once(tmp_path, caplog):
    for place in ("table/within", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "table/far").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "table/near").symlink_to("within")
    paths = ["far/a.jpg", "far/b.jpg", "near/a.jpg", "within/a.jpg", "a.jpg", "\0/a.jpg"]
    (tmp_path / "table/my.jsonl").write_text("".join(json.dumps({"image": p, "caption": "a"}) + "\n" for p in paths))
    datasets.open_source(f"jsonl:{tmp_path}/table/my.jsonl", str(tmp_path), "train")
    named = [record.getMessage() for record in caplog.records if "is a link" in record.getMessage()]
    assert named == [f"{tmp_path}/table/far is a link: images are read from {tmp_path}/elsewhere"]


def test_folder_of_the_fields_is_where_its_link_leads_now(tmp_path):
    (tmp_path / "my.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": "a cat"}))
    link, found = tmp_path / "photos", []
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.jpg").write_text(version)
        link.unlink(missing_ok=True)
        link.symlink_to(version)
        source = datasets.open_source(f"jsonl:{tmp_path}/my.jsonl", str(tmp_path), "train", Fields(folder=str(link)))
        found.append(source.read_image(0))
    assert found == [b"v1", b"v2"]


def test_images_with_several_records_are_named(tmp_path, caplog):
    lines = [f"{name},a cat {n}\n" for n, name in enumerate(("a.jpg", "b.jpg", "a.jpg", "c.jpg", "a.jpg"))]
    for name, rows in (("several.csv", lines), ("once.csv", lines[:2])):
        (tmp_path / name).write_text("image,caption\n" + "".join(rows))
        datasets.open_source(f"csv:{tmp_path}/{name}", str(tmp_path), "train")
    (named,) = (record.getMessage() for record in caplog.records if "several records" in record.getMessage())
    assert "several.csv: 1 images have several records, such as 'a.jpg': in a batch" in named


def test_images_that_are_not_files_end_with_an_error(tmp_path):
    """Not in a wait for a pipe's other end, or with all memory full of a device's zeros."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(1 << 40)
    names = ("pipe.jpg", "zero.jpg", "huge.jpg")
    (tmp_path / "my.jsonl").write_text("".join(json.dumps({"image": p, "caption": "a cat"}) + "\n" for p in names))
    source = datasets.open_source(f"jsonl:{tmp_path}/my.jsonl", str(tmp_path), "train")
    reasons = ("pipe.jpg is not a regular file", "zero.jpg is not a regular file", "the limit is 268,")
    for n, match in enumerate(reasons):
        with pytest.raises(ValueError, match=match):
            source.read_image(n)


def test_records_that_no_library_can_store_are_bad(tmp_path):
    """Half a character in a path, and nesting deeper than Python's stack."""
    half, other = r'{"image": "\ud800.jpg", "caption": "a cat"}', r'{"image": "a.jpg", "caption": "a \udfff"}'
    (tmp_path / "my.jsonl").write_text("\n".join([half, "[" * 200_000, other]))
    found = [reason.partition(":")[0] for reason in reasons(f"jsonl:{tmp_path}/my.jsonl", tmp_path).values()]
    assert found == [r"the path or name is '\ud800.jpg'", "not JSON", r"positives has 'a \udfff'"]
    (tmp_path / "latin.csv").write_bytes("filepath,caption\ncafé.jpg,a cup\n".encode("latin-1"))
    assert "not UTF-8" in reasons(f"csv:{tmp_path}/latin.csv", tmp_path)[0]


TRUE_OFFSETS = [0, 21, 42, 64]


def saved(folder, offsets: list[int]) -> str:
    """A folder of Hugging Face's ``datasets`` whose one Arrow file has these offsets of its three images."""
    folder.mkdir()
    images = [b"a" * 21, b"b" * 21, b"c" * 22]
    table = pa.table({"image": images, "caption": ["a cat", "a dog", "a cup"]})
    with pa.ipc.new_stream(folder / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    true, false = (np.array(numbers, np.int32).tobytes() for numbers in (TRUE_OFFSETS, offsets))
    data = (folder / "a.arrow").read_bytes()
    assert data.count(true) == 1
    (folder / "a.arrow").write_bytes(data.replace(true, false))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../elsewhere/a.arrow"}]}))
    return f"hf:{folder}"


def test_arrow_files_with_false_offsets_are_rejected(tmp_path):
    good = datasets.open_source(saved(tmp_path / "good", TRUE_OFFSETS), str(tmp_path), "train")
    assert [good.read_image(n)[20:] for n in range(3)] == [b"a", b"b", b"cc"]
    for n, offsets in enumerate(([0, 42, 21, 64], [0, 21, 42, 1 << 30], [-8, 21, 42, 64])):
        with pytest.raises(UserError, match=r"a\.arrow: not a readable Arrow or Parquet file"):
            datasets.open_source(saved(tmp_path / str(n), offsets), str(tmp_path), "train")
    (tmp_path / "good/a.arrow").write_bytes(b"ARROW1")
    with pytest.raises(UserError, match=r"a\.arrow: not a readable Arrow or Parquet file"):
        datasets.open_source(f"hf:{tmp_path}/good", str(tmp_path), "train")


@pytest.mark.parametrize("state", ["{", "[]", '{"_data_files": 3}', '{"_data_files": [{}]}'])
def test_damaged_state_of_a_saved_dataset_is_named(state, tmp_path):
    name = saved(tmp_path / "saved", TRUE_OFFSETS)
    (tmp_path / "saved/state.json").write_text(state)
    with pytest.raises(UserError, match=r"saved/state\.json: .*"):
        datasets.open_source(name, str(tmp_path), "train")


def test_txt_member_is_the_caption_whatever_the_json_says(tmp_path):
    """As OpenCLIP reads shards; img2dataset writes the alt text into both, and new captions replace the txt alone."""
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (("0.jpg", b"an image"), ("0.json", b'{"caption": "IMG_42 buy now"}'), ("0.txt", b"a cat")):
            tar_member(tar, name, data)
    name = f"webdataset:{tmp_path}/0.tar"
    assert list(datasets.open_source(name, str(tmp_path), "train").items.texts) == ["a cat"]
    old = Fields(positives="caption")
    assert list(datasets.open_source(name, str(tmp_path), "train", old).items.texts) == ["IMG_42 buy now"]


def test_image_of_a_webdataset_is_its_member(tmp_path):
    """Whatever file name its JSON has from before; and a header that claims a huge text is not believed."""
    inner = json.dumps({"file_name": "/data/original.png", "caption": "a cat"}).encode()

    def write(name, size=0):
        with tarfile.open(tmp_path / name, "w") as tar:
            for member, data in (("0.jpg", b"an image"), ("0.json", inner)):
                tar_member(tar, member, data)
            if size:
                info = tarfile.TarInfo("1.txt")
                info.size = size
                tar.fileobj.write(info.tobuf())
        return f"webdataset:{tmp_path}/{name}"

    source = datasets.open_source(write("good.tar"), str(tmp_path), "train")
    assert source.read_image(0) == b"an image" and list(source.items.texts) == ["a cat"]
    with pytest.raises(UserError, match=r"bad\.tar: 1\.txt has 1,099,511,627,776 bytes; copy the file again"):
        datasets.open_source(write("bad.tar", 1 << 40), str(tmp_path), "train")
    large = write("large.tar", 1 << 25)
    os.truncate(tmp_path / "large.tar", 1 << 26)
    with pytest.raises(UserError, match=r"large\.tar: 1\.txt has 33,554,432 bytes; the limit of a text is 16,777,216"):
        datasets.open_source(large, str(tmp_path), "train")
