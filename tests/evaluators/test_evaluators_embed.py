"""The encoder against direct calls of the model, and against itself with other batch sizes and device counts."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

from naturel_jax.benchmarks import benchmark
from naturel_jax.benchmarks.benchmark import Item
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.evaluators import embed
from tests.helpers import benchmark_files
from tests.helpers.tiny_models import CAPTIONS, items, tiny
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def encoder() -> embed.Encoder:
    model, _, processor = tiny()
    return embed.Encoder(model, processor, batch_size=4)


def test_runs_of_one_model_compile_its_towers_once():
    (model, params, processor), compiled = tiny(), []

    def listener(event: str, duration: float, **_) -> None:
        compiled.extend([event] if event.endswith("backend_compile_duration") else [])

    encoders = [embed.Encoder(dataclasses.replace(model), processor, batch_size=5) for _ in range(2)]
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        first = embed.cosines(items(7), encoders[0].with_params(params))[1]
        programs = len(compiled)
        second = embed.cosines(items(7), encoders[1].with_params(params))[1]
        assert len(compiled) == programs > 0
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    np.testing.assert_array_equal(first, second)


def test_benchmarks_of_the_same_captions_embed_them_once(encoder, monkeypatch):
    embedded, captions = [], encoder.captions
    monkeypatch.setattr(encoder, "captions", lambda params, texts: embedded.append(texts) or captions(params, texts))
    for params in (tiny()[1], jax.tree.map(lambda x: 2 * x, tiny()[1])):
        bound = encoder.with_params(params)
        first, _, again = (embed.cosines(items(count), bound)[1] for count in (13, 2, 13))
        np.testing.assert_array_equal(first, again)
    assert list(map(len, embedded)) == [4, 3, 4, 3]


def test_every_crop_and_caption_is_embedded_once(monkeypatch):
    model, params, processor = tiny()
    decoded, tokenized = [], []
    image, tokenize = Processor.image, Processor.tokenize
    monkeypatch.setattr(Processor, "image", lambda self, data, box=None: decoded.append(box) or image(self, data, box))
    monkeypatch.setattr(Processor, "tokenize", lambda self, texts: tokenized.extend(texts) or tokenize(self, texts))
    encoder = embed.Encoder(model, processor, batch_size=4)
    first = embed.cosines(items(23), encoder.with_params(params))[1]
    assert (len(decoded), sorted(tokenized)) == (10, sorted(CAPTIONS))
    np.testing.assert_array_equal(first, embed.cosines(items(23), encoder.with_params(params))[1])
    assert (len(decoded), len(tokenized)) == (10, 4), "the second evaluation decodes and tokenizes nothing"
    small = embed.Encoder(model, processor, batch_size=4, pixel_cache_bytes=3 * 48 * 48 * 3)
    for _ in range(2):
        np.testing.assert_array_equal(first, embed.cosines(items(23), small.with_params(params))[1])
    assert len(decoded) == 10 + 10 + 7


def test_captions_with_equal_tokens_tie_exactly(encoder):
    params = tiny()[1]
    captions = ("a cat on a box", "A  CAT on a box", *CAPTIONS[2:])
    matrix = embed.cosines([dataclasses.replace(items(1)[0], captions=captions)], encoder.with_params(params))[1][0]
    assert matrix[0, 0] == matrix[0, 1]


@pytest.mark.parametrize("tower", ["image", "text"])
def test_embeddings_that_are_not_finite_are_refused(encoder, tower):
    """As of weights that an unfinished download left as zeros. No number is above NaN, so it would always be first."""
    params = tiny()[1]
    params = params | {tower: jax.tree.map(np.zeros_like, params[tower])}
    with pytest.raises(UserError, match=f"the {tower} tower gives embeddings that are not finite"):
        embed.cosines(items(3), encoder.with_params(params))


def test_prompt_ensemble_is_the_normalized_mean(encoder):
    model, params, processor = tiny()
    item = dataclasses.replace(items(1)[0], captions=(tuple(CAPTIONS[:3]), CAPTIONS[3]), caption_rows=True)
    matrix = embed.cosines([item], encoder.with_params(params))[1][0]
    ztxt_UD = np.asarray(model.encode_text(params, processor.tokenize(CAPTIONS)), np.float64)
    mean = ztxt_UD[:3].mean(axis=0)
    assert matrix.shape == (3, 2)
    assert matrix[1, 1] == pytest.approx(ztxt_UD[3] @ mean / np.linalg.norm(mean), abs=1e-6)
    assert matrix[1, 0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("data", "box", "reason"),
    [
        (b"not an image", None, "not a readable"),
        (benchmark_files.png(1)[:200], None, "not a readable"),
        (benchmark_files.png(1), (10, 10, 10, 20), "outside the image of 64 x 48"),
        (benchmark_files.png(1), (40, 10, 90, 20), "outside the image of 64 x 48"),
        (benchmark_files.png(1), (-50, 10, -5, 20), "outside the image of 64 x 48"),
        (benchmark_files.png(1, (9000, 8000)), None, "limit for so many bytes is"),
    ],
)
def test_bad_images_are_reported_and_skipped(encoder, data, box, reason):
    _, params, _ = tiny()
    bad = Item("bad", (benchmark.Image("bad.png", lambda: data, box),), ("a", "b"))
    good = items(3)
    kept, matrices, problems = embed.cosines([good[0], bad, *good[1:]], encoder.with_params(params))
    assert [item.id for item in kept] == ["0", "1", "2"] and len(matrices) == 3
    assert len(problems) == 1 and "item bad: image bad.png" in problems[0] and reason in problems[0]


def test_box_overhanging_by_a_few_pixels_is_cropped_like_pil(encoder):
    _, params, _ = tiny()
    item = Item("0", (benchmark.Image("p", lambda: benchmark_files.png(1), (-2, 0, 40, 50)),), ("a",))
    kept, matrices, problems = embed.cosines([item], encoder.with_params(params))
    assert len(kept) == 1 and not problems
    padded = Image.new("RGB", (42, 50))
    padded.paste(Image.open(io.BytesIO(benchmark_files.png(1))).crop((0, 0, 40, 48)), (2, 0))
    data = io.BytesIO()
    padded.save(data, "png")
    padded_item = Item("1", (benchmark.Image("padded", data.getvalue),), ("a",))
    np.testing.assert_array_equal(matrices, embed.cosines([padded_item], encoder.with_params(params))[1])


def test_results_do_not_depend_on_device_count():
    model, params, processor = tiny()
    mesh = make_mesh({"data": 4, "fsdp": 2})
    encoder = embed.Encoder(model, processor, mesh=mesh, batch_size=5)
    assert encoder.batch_size == 8
    placed = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
    reference = embed.cosines(items(13), embed.Encoder(model, processor, batch_size=16).with_params(params))[1]
    np.testing.assert_allclose(embed.cosines(items(13), encoder.with_params(placed))[1], reference, atol=1e-6)
