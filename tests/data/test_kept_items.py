"""The items of a prepared dataset that are kept in a file are those that were read, whatever happens to the file."""

import dataclasses
import os
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from naturel_jax.data import datasets
from naturel_jax.data.batches.planner import Part, Planner
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items import kept_items, prepared
from naturel_jax.data.items.items import Caption, Group, Items, collect
from tests.helpers.caption_groups import processor, source
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


def assert_equal(one: object, other: object) -> None:
    """Values, types and dtypes."""
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def failing() -> Items:
    raise AssertionError("the items are there")


def reworded() -> Items:
    """With paraphrases, an image of two groups, a name that is not ASCII, and a text of two lines."""
    true = Caption("a cat", "Cat", 3, "simple", ("one cat", "a\ncat"))
    group = Group([true, Caption("a cat sits", "", 1)], [Caption("a dog", "Dog", 3)], attribute=True)
    return collect("reworded", [("ä/1", [group, Group([true])]), ("2", [Group([Caption("a dog")])])])


@pytest.mark.parametrize("items", [source(6).items, reworded()], ids=["plain", "reworded"])
def test_what_is_kept_is_what_was_collected(items, tmp_path):
    assert_equal(kept_items.kept(tmp_path, lambda: items), items)
    assert_equal(kept_items.kept(tmp_path, failing), items)


def test_batches_of_a_second_start_are_those_of_the_first(monkeypatch):
    first = datasets.open_source("naturel/tiny", str(data_dir()), "train")
    monkeypatch.setattr(prepared, "caption_groups", lambda example: failing())
    second = datasets.open_source("naturel/tiny", str(data_dir()), "train")
    assert_equal(second.items, first.items)
    assert second.read_image(5) == first.read_image(5)
    plans = [
        Planner(
            [Part(each.items, recipe("two_pairs"))],
            processor("clip", first.items.texts),
            batch_size=16,
            shards=2,
            seed=0,
            trim_eos=None,
        ).plan(3)
        for each in (first, second)
    ]
    jax.tree.map(np.testing.assert_array_equal, *plans)


def test_a_dataset_that_has_changed_is_read_again(tmp_path, monkeypatch):
    shutil.copytree(next((data_dir() / "naturel/tiny").iterdir()), tmp_path / "mine/1.0.0")
    datasets.open_source("mine", str(tmp_path), "validation")
    monkeypatch.setattr(prepared, "caption_groups", lambda example: failing())
    datasets.open_source("mine", str(tmp_path), "validation")
    with pytest.raises(AssertionError, match="the items are there"):
        datasets.open_source("mine", str(tmp_path), "test")
    os.utime(tmp_path / "mine/1.0.0/dataset_info.json", (0, 0))
    with pytest.raises(AssertionError, match="the items are there"):
        datasets.open_source("mine", str(tmp_path), "validation")


@pytest.mark.parametrize("length", [-100, 100, 0], ids=["cut short", "its begin", "empty"])
def test_a_damaged_file_is_collected_again(length, tmp_path, caplog):
    items = reworded()
    kept_items.kept(tmp_path, lambda: items)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(path.read_bytes()[:length])
    assert kept_items.kept(tmp_path, lambda: items) is items and str(path) in caplog.text
    assert_equal(kept_items.kept(tmp_path, failing), items)


def test_a_flipped_bit_is_found(tmp_path):
    items = reworded()
    kept_items.save(items, tmp_path / "items.npz")
    content = bytearray((tmp_path / "items.npz").read_bytes())
    content[content.index(b"a cat sits")] ^= 1
    (tmp_path / "items.npz").write_bytes(content)
    assert kept_items.load(tmp_path / "items.npz") is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").touch()
    items = reworded()
    assert kept_items.kept(tmp_path / "file" / "cache", lambda: items) is items


def test_errors_of_a_dataset_are_not_kept(tmp_path):
    with pytest.raises(UserError, match="no images"):
        kept_items.kept(tmp_path, lambda: collect("empty", []))
    assert not list(Path(tmp_path).glob("*.npz"))


def test_one_of_several_processes_collects(tmp_path):
    """Threads stand for processes: each opens the lock anew."""
    collected, items = [], reworded()

    def slow() -> Items:
        collected.append(1)
        started.wait(10)
        return items

    started, found = threading.Event(), []
    threads = [threading.Thread(target=lambda: found.append(kept_items.kept(tmp_path, slow))) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()
    assert len(collected) == 1 and len(found) == 3
    for each in found:
        assert_equal(each, items)
