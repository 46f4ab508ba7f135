"""The embedding cache on disk."""

import sqlite3

import numpy as np
import pytest
from tiny_models import CAPTIONS, items, tiny

from naturel_jax.benchmarks import benchmark
from naturel_jax.evaluators import embed
from naturel_jax.evaluators.cache import CachedEncoder


@pytest.fixture(scope="module")
def encoder() -> embed.Encoder:
    model, _, processor = tiny()
    return embed.Encoder(model, processor, batch_size=4)


def cached_cosines(encoder: embed.Encoder, path, items) -> list[np.ndarray]:
    return embed.cosines(items, CachedEncoder(encoder, tiny()[1], path))[1]


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
    with sqlite3.connect(path) as file:
        file.execute("update embeddings set value = zeroblob(length(value))")
    file.close()


def damage_a_page(path):
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 512] = bytes(512)
    path.write_bytes(data)


def another_schema(path):
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("create table embeddings (name text)")
    file.close()


@pytest.mark.parametrize(
    "damage",
    [zero_the_values, damage_a_page, another_schema, lambda path: path.write_bytes(b"not a database" * 100)],
)
def test_damaged_cache_is_ignored(encoder, filled, damage):
    path, expected = filled
    damage(path)
    np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)


def test_bad_images_are_reported(encoder, tmp_path):
    cached = CachedEncoder(encoder, tiny()[1], tmp_path / "cache.sqlite")

    def missing() -> bytes:
        raise FileNotFoundError("gone")

    images = (benchmark.Image("broken", lambda: b"no"), benchmark.Image("missing", missing))
    bad = [benchmark.Item(str(n), (image,), ("a",)) for n, image in enumerate(images)]
    for _ in range(2):
        kept, _, problems = embed.cosines([*bad, *items(2)], cached)
        assert len(kept) == 2
        assert "image broken: not a readable" in problems[0] and "image missing: gone" in problems[1]
