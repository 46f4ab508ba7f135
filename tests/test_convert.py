"""``python -m naturel_jax.convert`` from every source to every format."""

import jax
import numpy as np
import pytest
from model_files import random_params

from naturel_jax import checkpoint, convert, weights
from naturel_jax.data.processor import Processor, train_tokenizer
from naturel_jax.models.presets import preset
from naturel_jax.weights import export, processor_files, tables

CAPTIONS = ["the cat is under the table", "a dog on a chair", "a person holds the guitar"] * 20


def model(name: str, seed: int = 0):
    config, kind = preset(name), name.removeprefix("tiny-")
    tokenizer = train_tokenizer(kind, CAPTIONS, 300, config.text.context)
    image = processor_files.IMAGE_DEFAULTS[kind]
    return config, random_params(config, seed), Processor(tokenizer, config.text.context, config.image.size, **image)


def run_folder(path, name: str) -> None:
    """A run as training leaves it."""
    config, params, processor = model(name)
    recipe = {
        "objective": {"name": "softmax"},
        "optim": {"lr": 1e-6},
        "duration": "5 epochs",
        "seed": 0,
        "data": {"dir": "d"},
    }
    checkpoints = checkpoint.Checkpoints(str(path), keep=1)
    checkpoints.save(7, {"params": params}, checkpoint.make_meta(recipe, config, processor), wait=True)
    checkpoints.close()


def same(source: str, params) -> bool:
    got = tables.flatten(weights.load(source)[1])
    return all(np.array_equal(leaf, got[path]) for path, leaf in tables.flatten(params).items())


def test_a_run_goes_to_every_format_and_back(tmp_path, capsys):
    """Run -> Hugging Face -> OpenCLIP -> Hugging Face, each verified by its own library; the last weights are the
    first, bit for bit."""
    run_folder(tmp_path / "run", "tiny-clip")
    steps = [(f"run:{tmp_path}/run", "a", "hf"), (f"{tmp_path}/a", "b", "openclip"), (f"{tmp_path}/b", "c", "run")]
    for source, name, form in steps:
        assert convert.main([source, str(tmp_path / name), "--to", form, "--verify"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "embeddings within" in line]
    assert len(lines) == 5  # both sides of each, but for the run at the start
    assert max(float(line.split(" within ")[1].split(" ")[0]) for line in lines) < 2e-6
    assert same(f"run:{tmp_path}/c", model("tiny-clip")[1])
    card = (tmp_path / "a" / "README.md").read_text()
    assert '"step": 7' in card and '"duration": "5 epochs"' in card and "## Data" in card


def test_siglip_goes_through_big_vision_unchanged(tmp_path, capsys):
    config, params, processor = model("tiny-siglip")
    export.save(tmp_path / "a", config, params, processor, form="hf", facts={})
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--to", "big_vision", "--verify"]) == 0
    assert "/b: embeddings within 0.00e+00 of" in capsys.readouterr().out
    assert convert.main([f"{tmp_path}/b/checkpoint.npz", str(tmp_path / "c")]) == 0
    assert same(str(tmp_path / "c"), params)
    assert weights.load(str(tmp_path / "c"))[2] == processor


def test_interpolation_is_the_weighted_mean(tmp_path):
    config, base, processor = model("tiny-clip", seed=0)
    tuned = random_params(config, seed=1)
    for name, params in (("base", base), ("tuned", tuned)):
        export.save(tmp_path / name, config, params, processor, form="hf", facts={})
    arguments = ["--interpolate", str(tmp_path / "base"), "--alpha", "0.25"]
    assert convert.main([str(tmp_path / "tuned"), str(tmp_path / "mix"), *arguments]) == 0
    got = tables.flatten(weights.load(str(tmp_path / "mix"))[1])
    for path, leaf in tables.flatten(tuned).items():
        expected = 0.75 * np.float64(tables.flatten(base)[path]) + 0.25 * np.float64(leaf)
        np.testing.assert_allclose(got[path], expected, rtol=1e-6, atol=1e-7)
    assert "0.75 of" in (tmp_path / "mix" / "README.md").read_text()


def test_size_resamples_positions_and_prepares_larger_pictures(tmp_path):
    config, params, processor = model("tiny-clip")
    export.save(tmp_path / "a", config, params, processor, form="hf", facts={})
    assert convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--size", "64", "--verify"]) == 0
    got_config, got, got_processor = weights.load(str(tmp_path / "b"))
    assert (got_config.image.size, got_processor.size) == (64, 64)
    assert len(got["image"]["position"]) == 1 + (64 // config.image.patch) ** 2
    np.testing.assert_array_equal(got["text"]["embed"], params["text"]["embed"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "{a}"], "a exists; choose another name or remove it"),
        (["{a}/absent", "{out}"], "absent: no such file or folder"),
        (["run:{a}", "{out}"], "is no run with a checkpoint"),
        (["{a}", "{out}", "--to", "big_vision"], "big_vision's two-tower model is SigLIP"),
        (["{a}", "{out}", "--interpolate", "{s}"], "computes something else than SRC: image, text, "),
    ],
)
def test_errors_say_what_to_do_and_leave_nothing(tmp_path, capsys, arguments, message):
    export.save(tmp_path / "a", *model("tiny-clip"), form="hf", facts={})
    export.save(tmp_path / "s", *model("tiny-siglip"), form="hf", facts={})
    places = {"a": tmp_path / "a", "s": tmp_path / "s", "out": tmp_path / "out"}
    assert convert.main([argument.format(**places) for argument in arguments]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "s"]


def test_interpolation_refuses_other_shapes():
    a = {"x": {"y": np.zeros((2, 3))}, "z": np.zeros(1)}
    b = {"x": {"y": np.zeros((2, 4))}, "z": np.zeros(1)}
    with pytest.raises(ValueError, match="x/y differ in shape"):
        convert.interpolate(a, b, 0.5)
    assert jax.tree.leaves(convert.interpolate(a, a, 0.5))[0].shape == (2, 3)
