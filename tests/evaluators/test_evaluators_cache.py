"""The embedding cache on disk."""

import errno
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.benchmarks import benchmark
from naturel_jax.evaluators import embed
from naturel_jax.evaluators.cache import CachedEncoder
from naturel_jax.storage import once
from tests.helpers.tiny_models import CAPTIONS, items, tiny

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def encoder() -> embed.Encoder:
    model, _, processor = tiny()
    return embed.Encoder(model, processor, batch_size=4)


def cached_cosines(encoder: embed.Encoder, folder, items) -> list[np.ndarray]:
    return embed.cosines(items, CachedEncoder(encoder, tiny()[1], folder))[1]


@pytest.fixture
def filled(encoder, tmp_path):
    """A cache with the embeddings of ``items(13)``, and their cosines."""
    expected = embed.cosines(items(13), encoder.with_params(tiny()[1]))[1]
    np.testing.assert_allclose(cached_cosines(encoder, tmp_path / "cache", items(13)), expected, atol=1e-6)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    return tmp_path / "cache", expected


def test_nothing_is_embedded_twice(encoder, filled, monkeypatch):
    path, expected = filled
    monkeypatch.setattr(embed.Encoder, "images", lambda *_: pytest.fail("embedded twice"))
    monkeypatch.setattr(embed.Encoder, "captions", lambda *_: pytest.fail("embedded twice"))
    np.testing.assert_allclose(cached_cosines(encoder, path, items(13)), expected, atol=1e-6)


def test_captions_with_equal_tokens_tie_across_the_cache(encoder, filled):
    spelled = benchmark.Item("0", items(1)[0].images, (CAPTIONS[0].upper(), CAPTIONS[0]))
    matrix = cached_cosines(encoder, filled[0], [spelled])[0]
    assert matrix[0, 0] == matrix[0, 1]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def of_other_rows(path: Path) -> None:
    once.write_block(path, b"whole, but no rows")


def a_folder(path: Path) -> None:
    path.rename(path.with_name("moved"))
    (path / "inside").mkdir(parents=True)


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, of_other_rows, Path.unlink, a_folder])
def test_contents_of_a_damaged_file_are_embedded_again(encoder, filled, damage, is_open, monkeypatch, caplog):
    folder, expected = filled
    path = sorted(folder.iterdir())[0]
    whole = path.read_bytes()
    cached = CachedEncoder(encoder, tiny()[1], folder)
    damage(path)
    cached = cached if is_open else CachedEncoder(encoder, tiny()[1], folder)
    np.testing.assert_allclose(embed.cosines(items(13), cached)[1], expected, atol=1e-6)
    assert ("what is in it is embedded again" in caplog.text) == (is_open or damage is not Path.unlink)
    if damage is a_folder:
        assert (path / "inside").is_dir(), "what others put there is not deleted"
        return
    assert path.read_bytes() == whole
    test_nothing_is_embedded_twice(encoder, filled, monkeypatch)


def test_a_full_disk_is_done_without(encoder, filled, tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(once, "write_block", full)
    cached = CachedEncoder(encoder, tiny()[1], tmp_path / "other")
    np.testing.assert_allclose(embed.cosines(items(13), cached)[1], filled[1], atol=1e-6)
    assert caplog.text.count("cannot be used as a cache of embeddings") == 1
    monkeypatch.setattr(embed.Encoder, "images", lambda *_: pytest.fail("embedded twice"))
    embed.cosines(items(13), cached)


def test_cache_in_a_folder_that_cannot_be_made_is_done_without(encoder, filled, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "cache", Path("/proc/none/cache")):
        caplog.clear()
        np.testing.assert_allclose(cached_cosines(encoder, folder, items(13)), filled[1], atol=1e-6)
        assert f"{folder}: cannot be used as a cache of embeddings" in caplog.text


def test_bad_images_are_reported(encoder, tmp_path):
    def missing() -> bytes:
        raise FileNotFoundError("gone")

    images = (benchmark.Image("broken", lambda: b"no"), benchmark.Image("missing", missing))
    bad = [benchmark.Item(str(n), (image,), ("a",)) for n, image in enumerate(images)]
    cached = CachedEncoder(encoder, tiny()[1], tmp_path / "cache")
    for _ in range(2):
        kept, _, problems = embed.cosines([*bad, *items(2)], cached)
        assert len(kept) == 2
        assert "image broken: not a readable" in problems[0] and "image missing: gone" in problems[1]
