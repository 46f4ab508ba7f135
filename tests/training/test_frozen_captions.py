"""Embeddings of a frozen text tower, computed once: the same training as with the tower in each step."""

import dataclasses
import logging
import pickle
import resource
import signal

import jax
import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.items import embedded
from naturel_jax.data.items.embedded import EmbeddedCaptions, Embeddings
from naturel_jax.data.items.items import Source
from naturel_jax.data.text.processor import Processor
from naturel_jax.models import flops, presets
from naturel_jax.models.two_tower import Model
from naturel_jax.training import frozen, memory
from naturel_jax.training.loss import Loss
from naturel_jax.training.start import Start
from tests.helpers.caption_groups import TEXTS, TRIPLETS, items, jpeg, mesh, processor
from tests.helpers.worlds import Run, check_alike, data_dir, two_processes
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


def config(tmp_path, family="clip", cached=True, recipe="single_pair", multipliers=(("text/.*", 0.0),), **fields):
    raw = c.base()
    raw.preset = f"tiny-{family}"
    raw.data.mixture.main = c.part("naturel/tiny", recipe)
    raw.data.mixture.other = c.part("naturel/other", "one_pair")
    raw.data.update({"batch_size": 4, "cache_captions": cached, "cache_dir": str(tmp_path)})
    raw.optim.lr_multipliers = multipliers
    raw.update(fields)
    return c.load(raw)


@pytest.fixture(scope="module")
def starts():
    def start(family: str) -> Start:
        model = Model(presets.preset(f"tiny-{family}"))
        return Start(model, jax.jit(model.init)(jax.random.key(0)), processor(family), new_bias=False)

    return {family: start(family) for family in ("clip", "siglip")}


def sources() -> list[Source]:
    """Two that share some of their captions."""
    images = [jpeg(n) for n in range(12)]
    other = items(8, triplets=tuple(TRIPLETS)[1:3])
    return [Source(items(), images.__getitem__), Source(dataclasses.replace(other, name="other"), images.__getitem__)]


def pipeline(options, start, devices: int = 2):
    found = frozen.embed_sources(options, start, sources(), mesh(devices))
    return make_pipeline(options, found, start.model.config, start.processor, mesh(devices))


def files(tmp_path) -> dict[str, bytes]:
    return {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.glob("embedded/*/*.embeddings")}


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_batches_hold_the_embeddings_of_the_captions(starts, tmp_path, family):
    """From two sources, in all blocks of rows, with padding; everything else is as without the cache."""
    start = starts[family]
    cached, plain = (pipeline(config(tmp_path, family, cached), start) for cached in (True, False))
    images, captions = pickle.loads(pickle.dumps((cached.images, cached.captions)))  # as processes get them
    cached = dataclasses.replace(cached, images=images, captions=captions)
    encode = jax.jit(start.model.encode_text)
    for batch, expected in zip(cached.batches(0, 8), plain.batches(0, 8), strict=True):
        np.testing.assert_allclose(batch.tokens, encode(start.params, expected.tokens), rtol=0, atol=1e-6)
        labels = (batch.image_labels, batch.caption_labels), (expected.image_labels, expected.caption_labels)
        jax.tree.map(np.testing.assert_array_equal, (batch.images, labels[0]), (expected.images, labels[1]))
    shapes = cached.shapes(7)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), batch)
    assert (batch.captions_to_embed, expected.captions_to_embed) == ((0, 0), expected.tokens.shape)


@pytest.mark.parametrize(("towers", "chunks"), [("text", 1), pytest.param("(image|text)", 2, marks=pytest.mark.slow)])
def test_loss_and_gradient_are_those_of_the_captions(starts, tmp_path, towers, chunks):
    start, fields = starts["clip"], {"multipliers": ((f"{towers}/.*", 0.0),), "objective": {"chunks": chunks}}
    values = []
    for cached in (True, False):
        data = {"cache": "embeddings", "crop_scale": (1.0, 1.0)} if cached and "image" in towers else {}
        options = config(tmp_path, cached=cached, data={"crop_scale": (1.0, 1.0)} | data, **fields)
        batch = next(pipeline(options, start).batches(0, 1))
        mean_std = start.processor.mean, start.processor.std
        loss = Loss(options, start.model, mean_std, start.params, mesh(2))
        values.append(jax.jit(loss.value_and_grad)(start.params, batch))
    (value, gradient), (exact, expected) = values
    np.testing.assert_allclose(value[0], exact[0], rtol=1e-6)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(expected)) > 0.1
    for found, true in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, true, rtol=0, atol=1e-6)
    assert not any(np.any(x) for x in jax.tree.leaves(gradient["text"]))


def test_distinct_texts_are_numbered_by_their_first_use():
    texts = ["b", "a", "b", "", "a", "c", "\ud800"]
    row_T, first_R, digest = embedded.distinct(texts)
    assert [texts[n] for n in first_R] == list(dict.fromkeys(texts))
    assert [texts[first_R[row]] for row in row_T] == texts
    assert digest == embedded.distinct(list(texts))[2] != embedded.distinct(texts[::-1])[2]


def test_an_interrupted_run_continues_with_the_next_block(starts, tmp_path, monkeypatch, caplog):
    """Every distinct caption goes through the tower once, at any number of devices."""
    monkeypatch.setattr(embedded, "BLOCK", 5)
    tokenized, written = [], []
    tokenize, write = Processor.tokenize, embedded.write

    def counted(self, texts):
        tokenized.extend(texts)
        return tokenize(self, texts)

    def killed(folder, block, z):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(block)
        write(folder, block, z)

    monkeypatch.setattr(Processor, "tokenize", counted)
    monkeypatch.setattr(embedded, "write", killed)
    options, whole = config(tmp_path / "killed"), config(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        frozen.embed_sources(options, starts["clip"], sources(), mesh(1))
    kept = files(tmp_path / "killed")
    monkeypatch.setattr(embedded, "write", write)
    tokenized.clear()
    with caplog.at_level(logging.INFO, logger="naturel_jax"):
        frozen.embed_sources(options, starts["clip"], sources(), mesh(1))
    used = [list(dict.fromkeys(source.items.texts)) for source in sources()]
    assert tokenized == used[0][15:] + used[1]
    size = 4 * starts["clip"].model.config.embed_dim * (len(used[0]) - 15) / 1e9
    assert f"tiny: embedding {len(TEXTS)} distinct captions into" in caplog.text and f": {size:.3g} GB" in caplog.text
    frozen.embed_sources(whole, starts["clip"], sources(), mesh(1))
    assert len(kept) == 3 and kept.items() <= files(tmp_path / "whole").items()
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    tokenized.clear()
    frozen.embed_sources(options, starts["clip"], sources(), mesh(4))
    assert not tokenized


def test_what_cannot_be_embedded_once_is_rejected(starts, tmp_path):
    start = starts["clip"]
    for trained in ((), (("text/transformer.*", 0.0),), (("image/.*", 0.0),)):
        with pytest.raises(UserError, match=r"captions is True, .* trains text/\S+: freeze .*\('text/\.\*', 0\.0\)"):
            frozen.embed_sources(config(tmp_path, multipliers=trained), start, sources(), mesh(1))
    for recipe in ("order_shuffles", "bag_of_words", "swaps", "swaps_or_shuffles"):
        with pytest.raises(UserError, match=rf"mixture\.main\.recipe is '{recipe}', .* cannot be embedded before; use"):
            config(tmp_path, recipe=recipe)
    assert not list(tmp_path.iterdir())
    unembedded = make_pipeline(config(tmp_path), sources(), start.model.config, start.processor, mesh(1))
    with pytest.raises(ValueError, match="not embedded"):
        next(unembedded.batches(0, 1))


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_plan_of_a_step_leaves_the_text_tower_out(starts, tmp_path, family):
    """The two towers' parts of the memory and of the FLOPs add up."""
    start, cached = starts[family], {"cache": "embeddings", "crop_scale": (1.0, 1.0)}
    needed, batches = {}, {}
    for images, captions in np.ndindex(2, 2):
        options = config(tmp_path, family, bool(captions), data=cached if images else {})
        batch = make_pipeline(options, sources(), start.model.config, start.processor, mesh(2)).shapes(0)
        needed[images, captions] = sum(memory.estimate(start.model, start_shapes(start), batch, mesh(2), chunks=1))
        batches[images, captions] = batch
    assert needed[0, 0] - needed[0, 1] == needed[1, 0] - needed[1, 1] > 0
    assert needed[1, 1] == memory.per_device(start_shapes(start))
    batch, sizes = batches[0, 1], start.model.config
    embedded_images = 3 * len(batch.images) * flops.image_flops(sizes)
    assert flops.step(sizes, batch.images_to_embed, *batch.captions_to_embed).model == embedded_images


@pytest.mark.parametrize(
    ("name", "images", "captions", "tokens", "times"),
    [("clip-b32", 257, 384, 24, 1.1), ("siglip-b16-224", 256, 1024, 64, 1.4), ("siglip2-b32-256", 256, 1024, 64, 2.3)],
)
def test_what_the_flops_allow(name, images, captions, tokens, times):
    """As docs/data.md says: the trained tower takes three passes, the frozen one that is left out took one."""
    config = presets.preset(name)
    assert config.text.causal or config.text.context == tokens
    left_out, rest = flops.step(config, 0, captions, tokens).forward, flops.step(config, images, 0).model
    assert round(1 + left_out / rest, 1) == times


def start_shapes(start):
    replicated = jax.sharding.NamedSharding(mesh(2), jax.sharding.PartitionSpec())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), start.params)


def test_more_blocks_than_files_may_be_open(tmp_path, monkeypatch):
    """The size for ten million captions."""
    monkeypatch.setattr(embedded, "BLOCK", 1)
    z_ND = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    for n, z_D in enumerate(z_ND):
        embedded.write(tmp_path, n, z_D[None])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        captions = EmbeddedCaptions(Embeddings(tmp_path, len(z_ND), (2,)), np.arange(len(z_ND), dtype=np.int32))
        np.testing.assert_array_equal([captions.at(n) for n in range(len(z_ND))], z_ND)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.proof
def test_runs_equal_those_with_the_tower_in_the_step(tmp_path):
    """In losses, parameters and scores, with decoded images too; the first is killed while it embeds, another has two
    processes."""
    data = (f"--config.data.dir={data_dir()}", "--config.data.cache=decoded")
    flags = (*data, f"--config.data.cache_dir={tmp_path}/cache")
    Run(tmp_path / "plain", *flags, "--config.data.cache_captions=False", config="embedding_config.py").finish()
    killed = Run(tmp_path / "cached", *flags, config="embedding_config.py:2")
    assert killed.wait() == -signal.SIGKILL, killed.output()[-3000:]
    kept = files(tmp_path / "cache")
    again = Run(tmp_path / "cached", *flags, config="embedding_config.py").finish()
    assert len(kept) == 2 and kept.items() < files(tmp_path / "cache").items()
    assert "embedded 3 of " in again and "embedded 2 of " not in again
    second = f"--config.data.cache_dir={tmp_path}/two-cache"
    for run in two_processes(tmp_path / "two", *data, second, config="embedding_config.py"):
        run.finish()
    for name in ("cached", "two"):
        check_alike(tmp_path / name, tmp_path / "plain", steps=20)
    assert (tmp_path / "cached/first_batch.png").read_bytes() == (tmp_path / "plain/first_batch.png").read_bytes()
