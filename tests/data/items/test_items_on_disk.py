"""The items of a prepared dataset on disk are those that were read, whatever happens to the files."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.data import datasets
from naturel_jax.data.items import prepared
from naturel_jax.data.items.columns import Strings
from naturel_jax.data.items.items import Caption, Group, Items, collect
from naturel_jax.data.items.items_on_disk import digest, load_or_collect
from tests.helpers.caption_groups import source
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


def assert_equal(one: object, other: object) -> None:
    """Values and dtypes; columns on disk equal those in memory."""
    if dataclasses.is_dataclass(one):
        assert type(one) is type(other)
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        one, other = (list(each) if isinstance(each, Strings) else each for each in (one, other))
        assert one == other


def failing() -> Items:
    raise AssertionError("the items are there")


def reworded() -> Items:
    """With paraphrases, an image of two groups, a name that is not ASCII, and a text of two lines."""
    true = Caption("a cat", "Cat", 3, "simple", ("one cat", "a\ncat"))
    group = Group([true, Caption("a cat sits", "", 1)], [Caption("a dog", "Dog", 3)], attribute=True)
    return collect("reworded", [("ä/1", [group, Group([true])]), ("2", [Group([Caption("a dog")])])])


@pytest.mark.parametrize("items", [source(6).items, reworded()], ids=["plain", "reworded"])
def test_what_is_loaded_is_what_was_collected(items, tmp_path):
    for read in (lambda: items, failing):
        loaded = load_or_collect(tmp_path, items.name, read)
        assert_equal(loaded, items)
        assert isinstance(loaded.texts, Strings), "mapped from the first start on"


@pytest.mark.parametrize("items", [source(6).items, reworded()], ids=["plain", "reworded"])
def test_items_have_the_same_digest_in_memory(items, tmp_path):
    """On a machine whose disk cannot be written."""
    in_memory = digest(items, tmp_path / "absent")
    assert digest(load_or_collect(tmp_path, items.name, lambda: items), tmp_path) == in_memory
    assert len({digest(each, tmp_path / "absent") for each in (reworded(), source(6).items)}) == 2
    assert not (tmp_path / "absent").exists()


def test_items_and_images_of_a_second_start_are_those_of_the_first(monkeypatch):
    first = datasets.open_source("naturel/tiny", str(data_dir()), "train")
    monkeypatch.setattr(prepared, "caption_groups", lambda *_: failing())
    second = datasets.open_source("naturel/tiny", str(data_dir()), "train")
    assert_equal(second.items, first.items)
    assert second.read_image(5) == first.read_image(5)


def test_a_dataset_that_has_changed_is_read_again(tmp_path, monkeypatch):
    shutil.copytree(next((data_dir() / "naturel/tiny").iterdir()), tmp_path / "mine/1.0.0")
    datasets.open_source("mine", str(tmp_path), "validation")
    monkeypatch.setattr(prepared, "caption_groups", lambda *_: failing())
    datasets.open_source("mine", str(tmp_path), "validation")
    with pytest.raises(AssertionError, match="the items are there"):
        datasets.open_source("mine", str(tmp_path), "test")
    for pattern in ("dataset_info.json", "*-validation.array_record-*"):
        (path,) = (tmp_path / "mine/1.0.0").glob(pattern)
        times = path.stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        with pytest.raises(AssertionError, match="the items are there"):
            datasets.open_source("mine", str(tmp_path), "validation")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", ["texts.uint8", "positives_text.int32", "meta.json"])
def test_damaged_items_are_collected_again(name, damage, tmp_path, caplog):
    items = reworded()
    load_or_collect(tmp_path, "reworded", lambda: items)
    damage(tmp_path / name)
    assert_equal(load_or_collect(tmp_path, "reworded", lambda: items), items)
    assert (name, damage) == ("meta.json", Path.unlink) or "damaged items of reworded" in caplog.text
    assert_equal(load_or_collect(tmp_path, "reworded", failing), items)


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    items = reworded()
    assert load_or_collect(tmp_path / "file" / "cache", "reworded", lambda: items) is items


def test_errors_of_a_dataset_are_not_kept(tmp_path):
    with pytest.raises(UserError, match="no images"):
        load_or_collect(tmp_path, "empty", lambda: collect("empty", []))
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
