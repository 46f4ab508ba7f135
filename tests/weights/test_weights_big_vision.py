"""big_vision's npz files, and embeddings computed by big_vision."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from naturel_jax import weights
from naturel_jax.models.families import FAMILIES
from naturel_jax.models.presets import SIGLIP, preset
from naturel_jax.models.two_tower import Model
from naturel_jax.weights import big_vision, export, processor_files, tables, verify
from tests.helpers.model_files import assert_same, inputs, random_params, tiny


@pytest.mark.parametrize("scan", [False, True])
def test_big_vision_files_of_both_layouts(tmp_path, scan):
    config, params, processor = tiny("tiny-siglip")
    arrays = tables.write(big_vision.table(scan, scan), params)
    arrays = {f"params/{key}": value for key, value in arrays.items()} | {"opt/count": np.zeros(())}
    np.savez(tmp_path / "siglip.npz", **arrays)
    processor_files.write(tmp_path, processor, FAMILIES["siglip"])
    got_config, got, got_processor = weights.load(str(tmp_path / "siglip.npz"))
    assert (got_config, got_processor) == (config, processor)
    assert_same(got, params)


def test_big_vision_bfloat16(tmp_path):
    """NumPy stores bfloat16 as two untyped bytes, and so does big_vision."""
    config, params, processor = tiny("tiny-siglip")
    export.save(tmp_path / "out", config, params, processor, form="big_vision", dtype="bfloat16")
    with np.load(tmp_path / "out" / "checkpoint.npz") as file:
        assert file["params/t"].dtype == np.dtype("V2")
    expected = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    assert_same(weights.load(str(tmp_path / "out")).params, expected)


BIG_VISION_IMAGE = np.array(
    [
        [0.11195295, -0.006534021, -0.018191071, 0.029667806, 0.020444866, -0.0627423],
        [0.011981149, 0.000227378, 0.03249202, 0.09321985, 0.09823823, 0.049186293],
    ]
)
BIG_VISION_TEXT = np.array(
    [
        [-0.14916869, 0.015897151, 0.024604892, 0.007277898, -0.0560227, 0.043816257],
        [-0.005582331, 0.16845354, -0.16595617, 0.039525688, -0.00978515, 0.08038787],
        [-0.019071536, -0.026674215, -0.107937954, -0.02812198, -0.07025805, 0.08661539],
    ]
)


def test_embeddings_match_big_vision():
    """The first coordinates of embeddings computed by big_vision's ``two_towers.Model`` (commit 0127fb6) from the same
    tensors and inputs."""
    towers = {name: SIGLIP.tower(128, depth, 4) for name, depth in (("image", 4), ("text", 3))}
    config = SIGLIP.config(size=48, patch=8, vocab=1024, context=32, **towers)
    zimg, ztxt = verify.embeddings(config, random_params(config), *inputs(config))
    np.testing.assert_allclose(zimg[:, :6], BIG_VISION_IMAGE, atol=2e-7, rtol=1e-5)
    np.testing.assert_allclose(ztxt[:, :6], BIG_VISION_TEXT, atol=2e-7, rtol=1e-5)


def test_export_has_the_parameters_of_big_vision(tmp_path):
    """Its ``two_towers.load`` takes the folder's file as it is; names and shapes are those of its own ``init``."""
    towers = {"image": SIGLIP.tower(24, 1, 2, 40), "text": SIGLIP.tower(32, 1, 4, 48)}
    config = SIGLIP.config(size=48, patch=12, vocab=50, context=16, **towers)
    export.save(tmp_path / "out", config, random_params(config), tiny("tiny-siglip").processor, form="big_vision")
    with np.load(tmp_path / "out" / "checkpoint.npz") as file:
        written = {name.removeprefix("params/"): file[name].shape for name in file.files}
    lines = (Path(__file__).parents[1] / "fixtures" / "big_vision_two_towers.txt").read_text().splitlines()
    assert written == {name: tuple(map(int, shape)) for name, *shape in map(str.split, lines)}


def test_big_vision_so400m_has_384_pixel_images():
    """27 patches of 14 are 378 pixels, but the published model was trained at 384; the strided convolution drops the
    last six."""
    config = preset("siglip-so400m14-384")
    shapes = tables.foreign_shapes(big_vision.table(False, False), Model(config).shapes())
    assert big_vision.read_shapes(shapes) == config
