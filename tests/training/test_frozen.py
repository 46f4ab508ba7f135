"""Embeddings of a frozen image tower, computed once: the same training as with the tower in each step."""

import logging
import pickle

import jax
import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.items import embedded
from naturel_jax.data.items.items import Source
from naturel_jax.models import presets
from naturel_jax.models.two_tower import Model, normalize
from naturel_jax.training import frozen
from naturel_jax.training.start import Start
from tests.helpers.caption_groups import items, jpeg, mesh, processor
from tests.helpers.worlds import Run, check_alike, losses
from tfds_naturel.common.errors import UserError

SIDES = [(40, 40), (60, 45), (90, 64), (32, 33), (120, 50), (50, 160)]  # width, height
FLAGS = ("--config.optim.lr_multipliers=(('image/.*',0.0),)", "--config.data.crop_scale=(1.0,1.0)")


def config(tmp_path, cache="embeddings", **fields):
    raw = c.base()
    raw.preset = "tiny-clip"
    raw.data.mixture.main = c.part("naturel/tiny", "single_pair")
    raw.data.update({"batch_size": 4, "cache": cache, "crop_scale": (1.0, 1.0), "cache_dir": str(tmp_path)})
    raw.optim.lr_multipliers = (("image/.*", 0.0),)
    raw.update(fields)
    return c.load(raw)


@pytest.fixture(scope="module")
def begin():
    model = Model(presets.preset("tiny-clip"))
    return Start(model, jax.jit(model.init)(jax.random.key(0)), processor("clip"), new_bias=False)


def source(files: list[bytes]) -> Source:
    return Source(items(len(files)), files.__getitem__)


def data() -> Source:
    return source([jpeg(n, *sides) for n, sides in enumerate(SIDES)])


def files(tmp_path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(tmp_path.glob("embedded/*/*.embeddings"))}


def test_batches_hold_the_embeddings_of_the_images(begin, tmp_path):
    """Also of mirrored ones, of the blank image and of padding, and in reading processes."""
    options, plain = config(tmp_path), config(tmp_path, cache="")
    (cached,) = frozen.embed_sources(options, begin, [data()], mesh(2))
    cached = pickle.loads(pickle.dumps(cached.embedded))
    cached = Source(items(len(SIDES)), data().read_image, embedded=cached)
    towers = begin.model.config, begin.processor, mesh(2)
    pipeline = make_pipeline(options, [cached], *towers)
    pixels = make_pipeline(plain, frozen.embed_sources(plain, begin, [data()], mesh(2)), *towers)
    encode = jax.jit(begin.model.encode_image)
    for batch, expected in zip(pipeline.batches(0, 8), pixels.batches(0, 8), strict=True):
        z_ID = encode(begin.params, normalize(expected.images, begin.processor.mean, begin.processor.std))
        np.testing.assert_allclose(batch.images, z_ID, rtol=0, atol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, batch[1:], expected[1:])
    planned, made = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (pipeline.shapes(7), batch))
    assert planned == made
    assert (batch.images_to_embed, expected.images_to_embed) == (0, len(batch.images))


def test_kept_embeddings_are_used_again_unless_damaged_or_of_other_contents(begin, tmp_path, caplog):
    options = config(tmp_path)

    def embed(source: Source, start=begin, devices: int = 2) -> str:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="naturel_jax"):
            frozen.embed_sources(options, start, [source], mesh(devices))
        return caplog.text

    assert "embedding 6 images" in embed(data())
    kept = files(tmp_path)
    assert "embedding" not in embed(data(), devices=4)
    (path,) = tmp_path.glob("embedded/*/*.embeddings")
    flipped = bytearray(kept[path.name])
    flipped[100] ^= 1
    path.write_bytes(flipped)
    assert "damaged" in embed(data()) and files(tmp_path) == kept
    others = [jpeg(n, *sides) for n, sides in enumerate(SIDES[::-1])]
    assert "embedding 6 images" in embed(source(others)), "the same names, but other images"
    moved = begin._replace(params={**begin.params, "image": jax.tree.map(lambda x: x + 1e-3, begin.params["image"])})
    assert "embedding 6 images" in embed(data(), moved)
    tuned = begin._replace(params={**begin.params, "text": jax.tree.map(lambda x: x + 1e-3, begin.params["text"])})
    assert "embedding" not in embed(data(), tuned)
    assert len(list(tmp_path.glob("embedded/*"))) == 3


def test_blocks_that_are_there_are_not_computed_again(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(embedded, "BLOCK", 2)
    frozen.embed_sources(config(tmp_path), begin, [data()], mesh(1))
    kept = files(tmp_path)
    assert list(kept) == ["00000.embeddings", "00001.embeddings", "00002.embeddings"]
    (folder,) = tmp_path.glob("embedded/*")
    (folder / "00001.embeddings").unlink()
    read = []

    def read_image(n: int) -> bytes:
        read.append(n)
        return data().read_image(n)

    frozen.embed_sources(config(tmp_path), begin, [Source(data().items, read_image)], mesh(1))
    assert files(tmp_path) == kept
    assert sorted(read) == sorted([*range(6), 2, 2, 3, 3]), "the sample, then each image of the block and its mirror"


def test_what_cannot_be_embedded_once_is_rejected(begin, tmp_path):
    trained = config(tmp_path, optim={"lr_multipliers": (("image/transformer.*", 0.0),)})
    with pytest.raises(UserError, match=r"'embeddings'.*lr_multipliers trains image/\S+: freeze"):
        frozen.embed_sources(trained, begin, [data()], mesh(1))
    with pytest.raises(UserError, match=r"config\.data\.crop_scale is \(0\.9, 1\.0\)"):
        config(tmp_path, data={"crop_scale": (0.9, 1.0)})
    broken = source([jpeg(0)[:80], *(jpeg(n) for n in range(1, 6))])
    with pytest.raises(UserError, match=f"image '{broken.items.image_ids[0]}'"):
        frozen.embed_sources(config(tmp_path), begin, [broken], mesh(1))
    unembedded = make_pipeline(config(tmp_path), [data()], begin.model.config, begin.processor, mesh(1))
    with pytest.raises(ValueError, match="not embedded"):
        next(unembedded.batches(0, 1))


@pytest.mark.proof
def test_runs_equal_those_with_the_tower_in_the_step(tmp_path):
    """In losses, parameters and scores, though killed while it trains. ``test_frozen_captions`` has two processes."""
    cache = ("--config.data.cache=embeddings", f"--config.data.cache_dir={tmp_path}/cache")
    plain = Run(tmp_path / "plain", *FLAGS)
    plain.finish()
    cached = Run(tmp_path / "cached", *FLAGS, *cache)
    while 7 not in (losses(tmp_path / "cached") if (tmp_path / "cached/metrics.jsonl").exists() else ()):
        assert cached.process.poll() is None, cached.output()[-3000:]
    cached.process.kill()
    cached.wait()
    assert "embedding 200 images" in cached.output()
    assert "embedding 200 images" not in Run(tmp_path / "cached", *FLAGS, *cache).finish()
    check_alike(tmp_path / "cached", tmp_path / "plain", steps=20)
    assert (tmp_path / "cached/first_batch.png").read_bytes() == (tmp_path / "plain/first_batch.png").read_bytes()
