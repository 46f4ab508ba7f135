"""Images of any aspect ratio: the processor against transformers', batches, the loss, a run, and what is refused."""

import dataclasses
import io
import json
import os

import jax
import numpy as np
import pytest
import torch
import transformers
from jax.sharding import NamedSharding, PartitionSpec
from PIL import Image

import naturel_jax
from naturel_jax import config as c
from naturel_jax.data import datasets
from naturel_jax.data.batches.pipeline import Pipeline, make_pipeline
from naturel_jax.data.images import naflex
from naturel_jax.data.images.boxes import boxes_keeping_ratio
from naturel_jax.data.random.draws import AUGMENT, Draws
from naturel_jax.data.text.processor import Processor, from_scratch
from naturel_jax.models import flops
from naturel_jax.models.families import FAMILIES
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model, Params, normalize
from naturel_jax.training import frozen, memory, run
from naturel_jax.training.choices import check_naflex
from naturel_jax.training.loss import Loss
from naturel_jax.training.start import Start
from tests.helpers import tiny_config
from tests.helpers.caption_groups import TEXTS, mesh, source
from tests.helpers.image_files import photo
from tests.helpers.model_files import assert_same, hf_model, random_params
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")

# ---- The processor ---------------------------------------------------------------------------------------------------

STRANGE = [(1, 2000), (2000, 1), (3, 3), (1, 1), (2, 1), (3, 500), (500, 3), (16, 16), (255, 257), (1024, 683)]
SIZES = [*STRANGE, *map(tuple, np.random.default_rng(0).integers(1, 400, (40, 2)).tolist())]


def test_pixels_grids_and_embeddings_are_those_of_transformers():
    """Its ``pil`` backend; torchvision's, the default, rounds otherwise, by one of 255 levels or rarely by two."""
    most = 100
    files = [photo(*size, seed=n, form="PNG") for n, size in enumerate(SIZES)]
    opened = [Image.open(io.BytesIO(data)) for data in files]
    processor = Processor("{}", 8, 256, **FAMILIES["siglip2"].pixels | {"max_patches": most})
    uint8 = processor.batch(dict(enumerate(map(processor.image, files))), len(files))
    ours = jax.device_get(normalize(jax.device_put(uint8), processor.mean, processor.std))
    exact, default = (
        kind(max_num_patches=most)(opened, return_tensors="np")
        for kind in (transformers.Siglip2ImageProcessorPil, transformers.Siglip2ImageProcessor)
    )
    np.testing.assert_array_equal(ours.grid_I2, exact["spatial_shapes"])
    np.testing.assert_array_equal(ours.lengths_I, np.sum(exact["pixel_attention_mask"], axis=1))
    np.testing.assert_allclose(ours.patches_IPV, exact["pixel_values"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.patches_IPV, default["pixel_values"], rtol=0, atol=2.01 * 2 / 255)
    sizes = preset("tiny-naflex")
    params = random_params(sizes)
    with torch.no_grad():
        theirs = hf_model(sizes, params).get_image_features(**{name: torch.tensor(x) for name, x in exact.items()})
    zimg_ID = torch.nn.functional.normalize(theirs.pooler_output).numpy()
    np.testing.assert_allclose(jax.jit(Model(sizes).encode_image)(params, ours), zimg_ID, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("most", "saved"), [(256, 3), (64, 5)])
def test_a_photo_nearly_fills_the_sequence(most, saved):
    """So batches are padded to one length, and there are no buckets of shorter ones: the percentages of the image
    tower's FLOPs that docs/training.md says they could save."""
    ratios, sizes = np.exp(np.linspace(np.log(1 / 3), np.log(3), 2001)), preset("siglip2-b16-naflex")
    counts = [int(np.prod(naflex.grid(round(1000 * ratio), 1000, 16, most))) for ratio in ratios]
    assert most == 64 or min(counts) == 225
    without = np.mean([flops.image_flops(sizes, count) for count in counts])
    assert round(100 * (1 - without / flops.image_flops(sizes, most))) == saved


def test_patches_are_joined_to_the_image_that_was_cut():
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    patches = naflex.cut(image, 16)
    np.testing.assert_array_equal(patches[6].reshape(16, 16, 3), image[16:32, 16:32])
    np.testing.assert_array_equal(naflex.uncut(np.pad(patches, ((0, 3), (0, 0))), 3, 5), image)


def test_more_patches_than_there_is_room_for_are_refused():
    processor = Processor("{}", 8, 64, **FAMILIES["siglip2"].pixels | {"max_patches": 4})
    with pytest.raises(ValueError, match="an image of 15 patches; expected at most 4"):
        processor.batch({0: np.zeros((48, 80, 3), np.uint8)}, 1)
    with pytest.raises(UserError, match=r"processor\.patch is None: expected a whole number"):
        dataclasses.replace(processor, patch=None)


# ---- Batches ---------------------------------------------------------------------------------------------------------


def test_boxes_have_the_ratio_and_share_of_their_image():
    sides = np.random.default_rng(0).integers(1, 700, (300, 2))
    draws = Draws(7, AUGMENT, np.arange(len(sides)))
    boxes = boxes_keeping_ratio(*sides.T, np.full(len(sides), True), (0.5, 0.8), draws)
    for (width, height), box in zip(sides.tolist(), boxes.each(), strict=True):
        assert 0 <= box.left <= width - box.width and 0 <= box.top <= height - box.height
        for side, whole in ((box.width, width), (box.height, height)):
            assert side == 1 or 0.5**0.5 * whole - 0.5 <= side <= 0.8**0.5 * whole + 0.5
        apart = abs(box.width / width - box.height / height)
        assert apart <= 0.5 / width + 0.5 / height or 1 in (box.width, box.height)
    assert 110 < sum(box.mirrored for box in boxes.each()) < 190
    whole = boxes_keeping_ratio(*sides.T, np.full(len(sides), False), (1.0, 1.0), draws)
    assert [box[:4] for box in whole.each()] == [(0, 0, width, height) for width, height in sides.tolist()]


def config(**fields) -> c.Config:
    raw = c.base()
    raw.preset = "tiny-naflex"
    raw.data.mixture.main = c.part("naturel/tiny", "single_pair")
    raw.data.update({"batch_size": 8, "max_patches": 24, "crop_scale": (1.0, 1.0)})
    raw.objective.name = "sigmoid"
    raw.update_from_flattened_dict(fields)
    return c.load(raw)


def pipeline(devices: int = 1, **fields) -> Pipeline:
    options, model = config(**fields), preset("tiny-naflex")
    processor = dataclasses.replace(from_scratch(model, TEXTS), max_patches=options.data.max_patches)
    return make_pipeline(options, [source()], model, processor, mesh(devices))


def test_a_batch_has_whole_images_and_the_blank_square():
    """Of 90 x 70 pixels, within what another filter changes."""
    pipe = pipeline(2)
    batch, plan, shapes = next(pipe.batches(0, 1)), pipe.planner.plan(0), pipe.shapes(0)
    found = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), batch.images)
    assert found == jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), shapes.images)
    assert batch.patches_to_embed == 24 and batch.images_to_embed == len(plan.rows)
    processor = Processor("{}", 8, 64, **FAMILIES["siglip2"].pixels | {"max_patches": 24})
    images = jax.device_get(batch.images)
    for n, row in enumerate(plan.rows):
        rows, columns = images.grid_I2[n].tolist()
        picture = naflex.uncut(images.patches_IPV[n], rows, columns)
        assert not images.patches_IPV[n, rows * columns :].any()
        if row.source < 0:
            assert (rows, columns) == (4, 4) and (picture == 255).all()
            continue
        whole = processor.image(source().read_image(row.item)).astype(int)
        assert picture.shape == whole.shape == (4 * 16, 6 * 16, 3)
        assert min(np.abs(picture - whole).mean(), np.abs(picture[:, ::-1] - whole).mean()) < 3


def test_captions_of_a_frozen_tower_are_embedded_once(tmp_path):
    frozen_text = {"data.cache_captions": True, "optim.lr_multipliers": (("text/.*", 0.0),)}
    options, plain = config(**frozen_text, **{"data.cache_dir": os.fspath(tmp_path)}), pipeline()
    model, processor = Model(preset("tiny-naflex")), plain.planner.processor
    check_naflex(options, model.config)
    start = Start(model, random_params(model.config), processor, new_bias=False)
    sources = frozen.embed_sources(options, start, [source()], mesh(1))
    batch = next(make_pipeline(options, sources, model.config, processor, mesh(1)).batches(0, 1))
    expected = next(plain.batches(0, 1))
    jax.tree.map(np.testing.assert_array_equal, batch.images, expected.images)
    zcap_UD = jax.jit(model.encode_text)(start.params, expected.tokens)
    np.testing.assert_allclose(batch.tokens, zcap_UD, rtol=0, atol=1e-6)


# ---- The loss --------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_do_not_depend_on_chunks_devices_and_padding():
    params = random_params(preset("tiny-naflex"))
    value, gradient = value_and_gradient(params, 1, **{"objective.chunks": 2})
    largest = max(float(abs(x).max()) for x in jax.tree.leaves(gradient))
    other, other_gradient = value_and_gradient(params, 8, room=40)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    for found, expected in zip(jax.tree.leaves(other_gradient), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * largest)


def value_and_gradient(params: Params, devices: int, room: int = 24, **fields) -> tuple[float, Params]:
    """The loss of the first batch and its gradient, with padding for ``room`` patches. Captions have given embeddings:
    with a text tower, compiling takes twice as long."""
    model = Model(preset("tiny-naflex"))
    loss = Loss(config(**fields), model, ((0.5,) * 3, (0.5,) * 3), params, mesh(devices))
    batch = next(pipeline(devices, **fields).batches(0, 1))
    embeddings = np.random.default_rng(0).standard_normal((100, 128), np.float32) / 128**0.5
    batch = batch._replace(tokens=jax.device_put(embeddings[batch.caption_labels.id_U], batch.tokens.sharding))
    if room > 24:
        padding = ((0, 0), (0, room - 24), (0, 0))
        values = batch.images.patches_IPV
        padded = jax.device_put(np.pad(values, padding, constant_values=77), values.sharding)
        batch = batch._replace(images=batch.images._replace(patches_IPV=padded))
    params = jax.device_put(params, NamedSharding(mesh(devices), PartitionSpec()))
    (value, _), gradient = jax.jit(loss.value_and_grad)(params, batch)
    return jax.device_get((value, gradient))


def test_flops_are_xlas_and_memory_grows_with_the_patches():
    """A scanned block counts once at any depth."""
    sizes = preset("tiny-naflex")
    tower = dataclasses.replace(sizes.image.transformer, width=512, depth=1, heads=1, mlp_dim=2048)
    sizes = dataclasses.replace(sizes, image=dataclasses.replace(sizes.image, transformer=tower), embed_dim=512)
    model, images = Model(sizes), naflex.empty(3, 16, 40, lambda shape: jax.ShapeDtypeStruct(shape, np.float32))
    counted = jax.jit(model.encode_image).lower(model.shapes(), images).cost_analysis()["flops"]
    assert 3 * flops.image_flops(sizes, patches=40) == pytest.approx(counted, rel=0.03)
    whole, half = (memory.activations(model, 3, 0, 0, count) for count in (40, 20))
    assert 1.9 * half < whole < 4 * half


# ---- A run -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_resumes_exactly_and_evaluates_with_its_own_patches(tmp_path):
    raw = tiny_config.get_config("sigmoid")
    raw.preset, raw.data.dir = "tiny-naflex", os.fspath(data_dir())
    raw.data.update({"batch_size": 8, "max_patches": 12})
    raw.optim.schedule, raw.eval.during = "constant", {}
    for name, steps in (("whole", 2), ("parts", 1), ("parts", 2)):
        raw.duration, raw.optim.warmup = f"{steps} steps", "1 steps"
        raw.eval.benchmarks = ("naturel",) if name == "whole" else ()
        run.run(c.load(raw), tmp_path / name)
    whole, parts = (naturel_jax.load(f"run:{tmp_path}/{name}") for name in ("whole", "parts"))
    assert_same(parts.params, whole.params)
    assert whole.processor.max_patches == 12 and whole.processor.resize == "naflex"
    scores = json.loads((tmp_path / "whole/scores.json").read_text())["scores"]
    evaluated = naturel_jax.evaluate(whole, "naturel", datasets.directory(raw.data.dir, "naturel/tiny"))
    assert evaluated == pytest.approx({name: scores[name] for name in evaluated})


# ---- What is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"data.patch_dropout": 0.5}, r"data\.patch_dropout is 0\.5"),
        ({"data.cache": "decoded"}, r"data\.cache is 'decoded'"),
        ({"data.cache": "embeddings"}, r"data\.cache is 'embeddings'"),
        ({"data.mixture.main.recipe": "clic"}, r"data\.mixture\.main\.recipe is 'clic'"),
        ({"compute.attention": "splash"}, r"compute\.attention is 'splash'"),
    ],
)
def test_what_naflex_models_do_not_have_is_refused(fields, name):
    with pytest.raises(UserError, match=rf"config\.{name}, which is not implemented for a NaFlex model.*; set it to"):
        check_naflex(config(**fields), preset("tiny-naflex"))


def test_max_patches_of_other_models_are_refused():
    with pytest.raises(UserError, match=r"data\.max_patches is 24, but the model is not a NaFlex.*; set it to 0"):
        check_naflex(config(), preset("tiny-siglip"))
