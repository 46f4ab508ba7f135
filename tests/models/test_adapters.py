"""LoRA adapters: where they are, what they add to a model, and that they belong to one base."""

import jax
import numpy as np
import pytest

from naturel_jax.config import Adapter
from naturel_jax.devices.sharding import make_mesh, shardings
from naturel_jax.models import adapters
from naturel_jax.weights.tables import flatten
from tests.helpers.model_files import random_adapter, tiny
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")
EVERYWHERE = (".*",)


@pytest.fixture(scope="module", params=["tiny-clip", "tiny-siglip"])
def loaded(request):
    return tiny(request.param)


def test_a_new_adapter_changes_no_bit(loaded):
    tree = adapters.shapes(loaded.params, 4, EVERYWHERE)
    adapter = jax.jit(lambda params: adapters.init(params, tree, jax.random.key(0)))(loaded.params)
    merged = jax.jit(adapters.merged)(loaded.params, adapter, 2.0)
    for path, value in flatten(loaded.params).items():
        np.testing.assert_array_equal(merged_value := flatten(merged)[path], value, err_msg=path)
        assert merged_value.dtype == value.dtype
    for path, value in flatten(adapter).items():
        assert "/lora_a" not in path or 0.9 < np.abs(value).max() * value.shape[-2] ** 0.5 <= 1, path


def test_products_are_added_to_the_kernels_of_their_layers(loaded):
    """Each layer by itself, in NumPy: queries, keys and values of every block, the result of attention, both layers of
    the MLP, and projections."""
    adapter = random_adapter(loaded.params, Adapter(rank=3, targets=EVERYWHERE))
    before, after, lora = map(flatten, (loaded.params, jax.jit(adapters.merged)(loaded.params, adapter, 0.5), adapter))
    kernels = set()
    for path in [path.removesuffix("/lora_a") for path in lora if path.endswith("/lora_a")]:
        product = 0.5 * np.matmul(lora[f"{path}/lora_a"], lora[f"{path}/lora_b"])
        above, _, name = path.rpartition("/")
        part = {"query": 0, "key": 1, "value": 2}.get(name)
        kernel = f"{path}/kernel" if part is None else f"{above}/qkv/kernel"
        added = after[kernel] - before[kernel]
        if part is not None:
            added = added[:, :, part]  # [blocks, inputs, 3, heads, width]
        np.testing.assert_allclose(added.reshape(product.shape), product, atol=1e-6, err_msg=path)
        kernels.add(kernel)
    unchanged = before.keys() - kernels - {"logit_scale", "logit_bias"}
    assert any("kernel" in path for path in unchanged) and len(kernels) >= 10
    for path in unchanged:
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)


def test_layers_are_chosen_by_pattern_and_tower(loaded):
    chosen = flatten(adapters.shapes(loaded.params, 2, ("text/.*/attn/query", "image/projection|text/projection")))
    image = {"image/projection"} & {path.removesuffix("/kernel") for path in flatten(loaded.params)}
    layers = {path.rpartition("/")[0] for path in chosen} - {""}
    assert layers == {"text/transformer/blocks/attn/query", "text/projection", *image}
    with pytest.raises(UserError, match=r"config\.adapter\.targets: 'vision.*' matches no layer; .*attn/query"):
        adapters.shapes(loaded.params, 2, ("text/.*", "vision/.*"))


def test_digest_is_that_of_the_bits_on_any_number_of_devices(loaded):
    expected = adapters.digest(loaded.params)
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2})
    assert adapters.digest(jax.device_put(loaded.params, shardings(loaded.params, mesh))) == expected
    swapped = jax.tree.map(np.array, loaded.params)
    bias = swapped["text"]["post_norm"]["bias"]
    bias[[0, 1]] = bias[[1, 0]]
    assert adapters.digest(swapped) != expected
    assert adapters.digest(loaded.params | {"logit_scale": np.float32(0)}) == expected, "adapters have their own"


def test_merged_parameters_lie_where_the_base_does():
    params, mesh = tiny("tiny-clip").params, make_mesh({"data": 1, "fsdp": 4, "tensor": 2})
    adapter = random_adapter(params, Adapter(rank=3, targets=("image/.*", "text/.*/query")))
    base, expected = (
        jax.device_put(params, shardings(params, mesh)),
        flatten(jax.jit(adapters.merged)(params, adapter, 0.5)),
    )
    for path, found in flatten(adapters.apply(base, jax.device_put(adapter, shardings(adapter, mesh)), 0.5)).items():
        np.testing.assert_allclose(found, expected[path], atol=1e-6, err_msg=path)
        assert "logit" in path or found.sharding == flatten(base)[path].sharding, path
