"""Observability: parameter counts, the image of the first batch, JAX's trace files, utilisation."""

import io
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from naturel_jax.devices.sharding import batch_sharding, make_mesh
from naturel_jax.losses.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.training import first_batch, observe

# ---- Parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "summary"),
    [
        ("clip-b32", 151_277_313, "151.3 M parameters"),  # OpenAI's notebook: "Model parameters: 151,277,313"
        ("clip-b16", 149_620_737, "149.6 M parameters"),
        ("siglip-b16-224", 203_155_970, "203.2 M parameters"),  # num_parameters() of transformers' SiglipModel
    ],
)
def test_parameter_counts_match_the_published_ones(name, count, summary):
    table = observe.parameter_table(Model(preset(name)).shapes())
    total = next(line for line in table.splitlines() if "Total" in line)
    assert f"{count:,}" in total
    assert f"{4 * count / 1e6:,.1f} MB" in total
    assert table.splitlines()[-1] == summary


def test_parameter_table_rows_sum_to_the_total():
    image = {"patch": {"kernel": jnp.zeros((3, 5))}, "position": jnp.zeros((2, 2), jnp.bfloat16)}
    lines = observe.parameter_table({"image": image, "logit_scale": jnp.zeros(())}).splitlines()
    rows = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines if line.startswith("|")]
    counts = {row[0]: int(row[1]) for row in rows[1:]}
    assert counts == {"image/patch": 15, "image/position": 4, "logit_scale": 1, "Total": 20}
    assert len({len(line) for line in lines[:-1]}) == 1


# ---- The first batch -------------------------------------------------------------------------------------------------

TEXTS = ["A cat is under the table", "A cat is on the table", "\u732b\u306f\u0431\u044b\u043b \ud800\x1b " + "x" * 200]


def make_batch(images: int = 4, side: int = 48) -> Batch:
    """``images`` random images that each have a positive and a negative, then a sentinel, then padding."""
    rows = images + 2
    pixels = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), np.uint8)
    pixels[images:] = 255
    has_captions = np.arange(rows)[:, None] < images
    mult = np.array([1.0] * images + [images, 0], np.float32)
    shows = np.full((rows, 1), -1, np.int32)
    labels = ImageLabels(mult, np.where(has_captions, [[0, 2]], -1), np.where(has_captions, 1, -1), shows)
    mult_U, id_U = np.float32([images] * 3 + [0] * 5), np.int32([0, 1, 2] + [-2] * 5)
    captions = CaptionLabels(mult_U, id_U, np.full((8, 1), -2, np.int32))
    return Batch(pixels, np.zeros((8, 8), np.int32), labels, captions)


def drawn(batch: Batch) -> np.ndarray:
    png = first_batch.draw(batch, TEXTS, np.asarray(batch.caption_labels.mult_U))
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def holds(page: np.ndarray, image: np.ndarray) -> bool:
    """Whether ``page`` contains ``image`` pixel by pixel."""
    side = len(image)
    corners = np.argwhere((page == image[0, 0]).all(axis=-1))
    return any(np.array_equal(page[y : y + side, x : x + side], image) for y, x in corners)


@pytest.mark.parametrize("side", [48, 96, 224])
def test_images_are_drawn_as_the_step_receives_them(side):
    batch = make_batch(side=side)
    page, factor = drawn(batch), max(1, 192 // side)
    for image in batch.images[:4]:
        assert holds(page, image.repeat(factor, axis=0).repeat(factor, axis=1))


def test_at_most_16_images_are_drawn_and_padding_is_not():
    batch = make_batch(images=18)
    page = drawn(batch)
    shown = [holds(page, image.repeat(4, axis=0).repeat(4, axis=1)) for image in batch.images[:18]]
    assert shown == [True] * 15 + [False] * 3  # the sentinel takes the last slot
    assert drawn(make_batch(images=2)).shape[0] * 4 == page.shape[0]  # 2 images and a sentinel: two of eight rows


def test_sharded_batch_is_drawn_like_one_on_the_host():
    batch = make_batch(images=6)
    mesh = make_mesh({"data": -1})
    placed = jax.device_put(batch, batch_sharding(mesh))
    np.testing.assert_array_equal(drawn(placed), drawn(batch))


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """The texts that are drawn."""
    from PIL import ImageDraw

    texts: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda self, corner, text, **options: texts.append(text))
    return texts


def test_captions_multiplicities_and_sentinel_are_labelled(written):
    drawn(make_batch())
    page = "\n".join(written)
    assert "image 0\n+ A cat is under the table  \u00d74\n+ \u732b\u306f\u0431\u044b\u043b \\ud800\\x1b" in page
    assert "\u2212 A cat is on the table  \u00d74" in page
    assert "sentinel (blank negative image)  \u00d74" in page


def test_multiplicities_are_those_of_the_whole_batch(written, tmp_path):
    """A process holds some of the rows of images, and other rows of captions than those of its images."""
    batch = make_batch()
    elsewhere = CaptionLabels(*(np.asarray(x)[3:] for x in batch.caption_labels))
    held = batch._replace(caption_labels=elsewhere)
    planner = SimpleNamespace(texts=lambda step: TEXTS, plan=lambda step: batch)
    pipeline = SimpleNamespace(planner=planner, images=None, batches=lambda *_: iter([held]))
    list(first_batch.batches(pipeline, tmp_path, 0, 1))
    assert "+ A cat is under the table  \u00d74" in written


def test_only_the_first_batch_is_drawn_and_all_are_passed_on(tmp_path):
    planner = SimpleNamespace(texts=lambda step: TEXTS, plan=lambda step: make_batch())
    pipeline = SimpleNamespace(
        planner=planner, images=None, batches=lambda start, stop, workdir: iter([make_batch()] * (stop - start))
    )
    assert len(list(first_batch.batches(pipeline, tmp_path, 3, 5))) == 2
    assert not list(tmp_path.iterdir())  # a continued run
    shown = []
    assert len(list(first_batch.batches(pipeline, tmp_path, 0, 5, shown.append))) == 5
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("first_batch.png", *shown)]


# ---- Profile ---------------------------------------------------------------------------------------------------------


def traces(folder) -> list[bytes]:
    return [path.read_bytes() for path in folder.glob("plugins/profile/*/*.xplane.pb")]


@jax.jit
def training_step(x):
    return jnp.sin(x) @ x


def steps(profile, numbers: range) -> None:
    for number in numbers:
        with profile(number):
            training_step(jnp.ones((8, 8))).block_until_ready()


def test_requested_steps_are_traced_and_named(tmp_path):
    with observe.profiler(tmp_path, range(2, 4)) as profile:
        steps(profile, range(4))
        assert not traces(tmp_path)
        steps(profile, range(4, 5))
        assert traces(tmp_path)  # written as soon as the last requested step is done
        steps(profile, range(5, 8))
    (trace,) = traces(tmp_path)
    assert b"training_step" in trace
    assert b"step_num" in trace  # xprof groups its statistics by this


def test_interrupted_run_keeps_its_trace(tmp_path):
    with pytest.raises(KeyboardInterrupt), observe.profiler(tmp_path, range(100)) as profile:
        steps(profile, range(3))
        raise KeyboardInterrupt
    (trace,) = traces(tmp_path)
    assert b"training_step" in trace


def test_run_continued_within_the_requested_steps_traces_the_rest(tmp_path):
    with observe.profiler(tmp_path, range(2, 10)) as profile:
        steps(profile, range(5, 12))
    assert len(traces(tmp_path)) == 1


def test_empty_range_traces_nothing(tmp_path):
    with observe.profiler(tmp_path / "profile", range(0)) as profile:
        steps(profile, range(3))
    assert not (tmp_path / "profile").exists()


# ---- Utilisation -----------------------------------------------------------------------------------------------------


def test_utilization_is_the_share_of_peak_flops():
    chips = [SimpleNamespace(device_kind="TPU v4")] * 4  # 275 TFLOP/s each
    assert observe.utilization(4 * 275e12, 2.0, chips, "bfloat16") == pytest.approx(0.5)
    assert observe.utilization(1e12, 1.0, [*chips, SimpleNamespace(device_kind="cpu")], "bfloat16") is None
    assert observe.utilization(1e12, 1.0, jax.devices(), "float32") is None


def test_rates_are_those_of_the_schedule_and_none_are_computed_ahead():
    """Also where one lot of steps ends, and of a run of 1e9 steps."""
    schedule, asked = optax.cosine_decay_schedule(1e-3, 1_000_000_000), []

    def learning_rate(steps):
        asked.append(len(steps))
        return schedule(steps)

    rate = observe.rate_at(learning_rate)
    for step in (0, 1, 65_535, 65_536, 700_000_000):
        assert rate(step) == pytest.approx(float(schedule(step)), rel=1e-6)
    assert asked == [65_536] * 3
