"""The mesh over several TPU slices or GPU hosts, with stand-ins for devices that have a ``slice_index``; and what is
sent between devices that share parameters."""

import dataclasses

import jax
import numpy as np
import pytest

from naturel_jax.config import Config, Optim
from naturel_jax.devices.sharding import batch_sharding, make_mesh, path_string, shardings
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.planning import compiled
from naturel_jax.training import optim, train
from naturel_jax.training.choices import make_model
from tfds_naturel.common.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_compilation")


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100 80GB HBM3"


def devices(*sizes: int) -> list[Device]:
    """Devices of slices of these sizes."""
    indices = [index for index, size in enumerate(sizes) for _ in range(size)]
    return [Device(number, index) for number, index in enumerate(indices)]


@pytest.mark.parametrize(
    ("sizes", "axes", "across"),
    [
        ((4, 4), {"data": -1}, (2, 1, 1)),  # each half of the batch stays within a slice
        ((4, 4), {"data": 2, "fsdp": 4}, (2, 1, 1)),  # parameters are split within a slice
        ((4, 4), {"data": 1, "fsdp": -1}, (1, 2, 1)),  # or over both, if the config says so
        ((4, 4, 4, 4), {"data": 2, "fsdp": 4, "tensor": 2}, (2, 2, 1)),
        ((3, 3, 3, 3, 3, 3), {"data": 2, "fsdp": 9}, (2, 3, 1)),
    ],
)
def test_only_the_first_axes_cross_slices(sizes, axes, across):
    mesh = make_mesh(axes, devices(*sizes)).devices
    assert sorted(device.id for device in mesh.flat) == list(range(sum(sizes)))
    index = np.vectorize(lambda device: device.slice_index)(mesh)
    seen = []
    for block in np.ndindex(*across):
        inner = [whole // outer for outer, whole in zip(across, mesh.shape, strict=True)]
        part = index[tuple(slice(b * n, (b + 1) * n) for b, n in zip(block, inner, strict=True))]
        assert len(np.unique(part)) == 1
        seen.append(part.flat[0])
    assert seen == list(range(len(sizes)))  # processes are numbered by slice: the rows of a batch follow their order


def test_slices_of_different_sizes_are_refused():
    with pytest.raises(UserError, match="expected equal ones"):
        make_mesh({"data": -1}, devices(4, 2))


def test_a_single_slice_is_what_jax_makes_of_it():
    assert [device.id for device in make_mesh({"data": -1}, devices(4)).devices.flat] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_optimizer_state_is_split_like_the_parameters_that_it_has_the_shape_of(name):
    """Adafactor's factors have others."""
    mesh, model = make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), Model(preset("tiny-clip"))
    places = shardings(model.shapes(), mesh)
    params = jax.tree.map(lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s), model.shapes(), places)
    tx = optim.make_optimizer(Optim(name=name), params, lambda step: 0.1)
    state = train.make_state(params, tx, mesh, ema=True)
    assert jax.tree.map(lambda x: x.sharding, state.ema) == places
    kernel = places["text"]["transformer"]["blocks"]["mlp"]["up"]["kernel"]
    found = {
        leaf.shape: leaf.sharding.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if path_string(path).endswith("text/transformer/blocks/mlp/up/kernel")
    }
    shape = model.shapes()["text"]["transformer"]["blocks"]["mlp"]["up"]["kernel"].shape
    assert found.pop(shape, kernel.spec) == kernel.spec and tuple(kernel.spec) == (None, "fsdp", "tensor")
    assert all(axis is None for spec in found.values() for axis in spec)
    assert bool(found) == (name == "adafactor")


@pytest.mark.slow  # of the program that XLA makes by default, without the flag of `make test`
@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_split_parameters_are_gathered_and_activations_stay(name):
    sizes, mesh = preset(name), make_mesh({"data": 2, "fsdp": 4})
    tower, text, rows = sizes.image, sizes.text, 1024

    def gradient(model):
        """The compiled gradient of both towers."""
        places = shardings(model.shapes(), mesh)
        params = jax.tree.map(lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s), model.shapes(), places)
        images = jax.ShapeDtypeStruct((rows, tower.size, tower.size, 3), np.float32, sharding=batch_sharding(mesh))
        tokens = jax.ShapeDtypeStruct((rows, text.context), np.int32, sharding=batch_sharding(mesh))

        def total(params, images, tokens):
            return (model.encode_image(params, images) * model.encode_text(params, tokens)).sum()

        return jax.jit(jax.grad(total), out_shardings=places).lower(params, images, tokens).compile().as_text()

    def largest(program):
        """Bytes of the largest result of a collective."""
        return max(one.bytes for one in compiled.collectives(program))

    model = make_model(Config(), sizes, mesh)
    of_all_rows = 4 * rows * min(tower.grid**2 * tower.transformer.width, text.context * text.transformer.width)
    assert " while(" not in gradient(model), "XLA's CPU runtime may wait forever in loops with collectives"
    looped = dataclasses.replace(model.compute, unroll=False)  # as elsewhere; unrolled, all sums are one
    split, unsplit = (
        dataclasses.replace(model, compute=dataclasses.replace(looped, rows=rows)) for rows in (looped.rows, None)
    )
    assert largest(gradient(split)) < of_all_rows / 4
    assert largest(gradient(unsplit)) > of_all_rows / 4  # of activations of all rows: the compiler's own choice
