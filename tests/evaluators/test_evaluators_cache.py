"""The embedding cache on disk."""

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.benchmarks import benchmark
from naturel_jax.evaluators import cache, embed
from naturel_jax.evaluators.cache import CachedEncoder
from tests.helpers.tiny_models import CAPTIONS, items, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def encoder() -> embed.Encoder:
    model, _, processor = tiny()
    return embed.Encoder(model, processor, batch_size=4)


def cached_cosines(encoder: embed.Encoder, path, items) -> list[np.ndarray]:
    with contextlib.closing(CachedEncoder(encoder, tiny()[1], path)) as cached:
        return embed.cosines(items, cached)[1]


@pytest.fixture
def filled(encoder, tmp_path):
    """A cache file with the embeddings of ``items(13)``, and their cosines."""
    expected = embed.cosines(items(13), encoder.with_params(tiny()[1]))[1]
    np.testing.assert_allclose(cached_cosines(encoder, tmp_path / "cache.sqlite", items(13)), expected, atol=1e-6)
    return tmp_path / "cache.sqlite", expected


def test_nothing_is_embedded_twice(encoder, filled, monkeypatch):
    path, expected = filled
    monkeypatch.setattr(embed.Encoder, "images", lambda *_: pytest.fail("embedded twice"))
    monkeypatch.setattr(embed.Encoder, "captions", lambda *_: pytest.fail("embedded twice"))
    np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)


def test_captions_with_equal_tokens_tie_across_the_cache(encoder, filled):
    spelled = benchmark.Item("0", items(1)[0].images, (CAPTIONS[0].upper(), CAPTIONS[0]))
    matrix = cached_cosines(encoder, filled[0], [spelled])[0]
    assert matrix[0, 0] == matrix[0, 1]


def zero_the_values(path):
    change(path, "update embeddings set value = zeroblob(length(value))")


def change(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as file, file:
        for statement in statements:
            file.execute(statement)


def values_of_another_type(path):
    change(path, "update embeddings set value = 7")


def damage_a_page(path):
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 512] = bytes(512)
    path.write_bytes(data)


def another_schema(path):
    path.unlink()
    change(path, "create table embeddings (name text)")


def more_columns(path):
    change(path, "alter table embeddings add column more text not null default 'x'")


def a_trigger(path):
    change(path, "create trigger t after insert on embeddings begin delete from embeddings; end")


def a_view(path):
    change(path, "drop table embeddings", "create view embeddings as select 1 as key, 2 as value")


def not_a_database(path):
    path.write_bytes(b"not a database" * 100)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def a_folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


REPLACED = [damage_a_page, another_schema, more_columns, a_trigger, a_view, not_a_database, cut_off, a_folder]


@pytest.mark.parametrize("damage", [zero_the_values, values_of_another_type])
def test_wrong_values_are_replaced(encoder, filled, damage, monkeypatch):
    path, expected = filled
    damage(path)
    np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)
    test_nothing_is_embedded_twice(encoder, filled, monkeypatch)


@pytest.mark.parametrize("damage", REPLACED)
def test_damaged_cache_is_rebuilt_and_logged(encoder, filled, damage, monkeypatch, caplog):
    path, expected = filled
    damage(path)
    caplog.set_level("WARNING", "naturel_jax")
    np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)
    assert "cache.sqlite: not a readable cache of embeddings" in caplog.text and "starting over" in caplog.text
    test_nothing_is_embedded_twice(encoder, filled, monkeypatch)
    if damage is a_folder:
        assert (path.with_name("cache.sqlite.folder1") / "inside").is_dir(), "what others put there is not deleted"


@pytest.mark.parametrize("damage", [damage_a_page, not_a_database])
def test_cache_damaged_while_open_is_rebuilt_and_logged(encoder, filled, damage, monkeypatch, caplog):
    path, expected = filled
    with contextlib.closing(CachedEncoder(encoder, tiny()[1], path)) as cached:
        damage(path)
        np.testing.assert_allclose(embed.cosines(items(13), cached)[1], expected, atol=1e-6)
        np.testing.assert_allclose(embed.cosines(items(13), cached)[1], expected, atol=1e-6)
    np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)
    assert "starting over" in caplog.text


def read_only(path, monkeypatch):
    opened = sqlite3.connect

    def connect(place, **options):
        return opened(place if place == ":memory:" else f"file:{place}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", connect)


def without_space(path, monkeypatch):
    opened = sqlite3.connect

    def connect(place, **options):
        file = opened(place, **options)
        if place != ":memory:":
            file.execute("pragma max_page_count = 1")  # SQLite's own "database or disk is full"
        return file

    path.unlink()
    monkeypatch.setattr(sqlite3, "connect", connect)


@pytest.mark.parametrize("fault", [read_only, without_space])
def test_cache_that_cannot_be_written_is_done_without(encoder, filled, fault, monkeypatch, caplog):
    path, expected = filled
    change(path, "delete from embeddings")
    with monkeypatch.context() as patched:
        fault(path, patched)
        np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)
    assert "cache.sqlite: cannot be used as a cache of embeddings" in caplog.text and "not stored" in caplog.text


def test_cache_in_a_folder_that_cannot_be_made_is_done_without(encoder, filled, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "cache.sqlite", Path("/proc/none/cache.sqlite")):
        caplog.clear()
        np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), filled[1], atol=1e-6)
        assert f"{path}: cannot be used as a cache of embeddings" in caplog.text


def test_cache_that_another_process_locks_is_done_without(encoder, filled, monkeypatch, caplog):
    path, expected = filled
    monkeypatch.setattr(cache, "PATIENCE", 0.1)
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("begin exclusive")
        np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)
    assert "database is locked" in caplog.text


def test_bad_images_are_reported(encoder, tmp_path):

    def missing() -> bytes:
        raise FileNotFoundError("gone")

    images = (benchmark.Image("broken", lambda: b"no"), benchmark.Image("missing", missing))
    bad = [benchmark.Item(str(n), (image,), ("a",)) for n, image in enumerate(images)]
    with contextlib.closing(CachedEncoder(encoder, tiny()[1], tmp_path / "cache.sqlite")) as cached:
        for _ in range(2):
            kept, _, problems = embed.cosines([*bad, *items(2)], cached)
            assert len(kept) == 2
            assert "image broken: not a readable" in problems[0] and "image missing: gone" in problems[1]
