"""``python -m naturel_jax.convert`` from every source to every format."""

import json
import re

import jax
import numpy as np
import open_clip
import pytest
import transformers

from naturel_jax import convert, weights
from naturel_jax.weights import conversion, export, tables
from tests.helpers.model_files import assert_same, tiny
from tfds_naturel.common.errors import UserError


def test_run_round_trips_through_every_format(tmp_path, capsys):
    """Run -> Hugging Face -> OpenCLIP -> run, each verified by its own library; the final weights equal the first, bit
    for bit."""
    export.save(tmp_path / "run", *tiny("tiny-clip"), form="run")
    steps = [(f"run:{tmp_path}/run", "a", "hf"), (f"{tmp_path}/a", "b", "openclip"), (f"{tmp_path}/b", "c", "run")]
    for source, name, form in steps:
        convert.main([source, str(tmp_path / name), "--to", form, "--verify"])
    lines = capsys.readouterr().out.splitlines()
    compared = [line for line in lines if "logits within" in line]
    assert len(compared) == 4  # source and destination of each conversion, except the runs
    assert max(float(line.split(" within ")[1].split(" ")[0]) for line in compared) < 1e-5
    assert sum("not compared: a run is our own format" in line for line in lines) == 1
    assert_same(weights.load(f"run:{tmp_path}/c").params, tiny("tiny-clip").params)


def test_siglip_round_trips_through_big_vision(tmp_path, capsys):
    config, params, processor = tiny("tiny-siglip")
    export.save(tmp_path / "a", config, params, processor, form="hf")
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--to", "big_vision", "--verify"])
    out = capsys.readouterr().out
    assert "a: logits within " in out and "of those of transformers" in out
    assert "/b: not compared: big_vision cannot be installed as a package" in out
    convert.main([f"{tmp_path}/b/checkpoint.npz", str(tmp_path / "c")])
    assert_same(weights.load(str(tmp_path / "c")).params, params)
    assert weights.load(str(tmp_path / "c")).processor == processor


def test_interpolation_is_the_weighted_mean(tmp_path):
    config, base, processor = tiny("tiny-clip", seed=0)
    tuned = tiny("tiny-clip", seed=1).params
    for name, params in (("base", base), ("tuned", tuned)):
        export.save(tmp_path / name, config, params, processor, form="hf")
    arguments = ["--interpolate", str(tmp_path / "base"), "--alpha", "0.25"]
    convert.main([str(tmp_path / "tuned"), str(tmp_path / "mix"), *arguments])
    got = tables.flatten(weights.load(str(tmp_path / "mix")).params)
    for path, leaf in tables.flatten(tuned).items():
        expected = 0.75 * np.float64(tables.flatten(base)[path]) + 0.25 * np.float64(leaf)
        np.testing.assert_allclose(got[path], expected, rtol=1e-6, atol=1e-7)
    assert "0.75 of" in (tmp_path / "mix" / "README.md").read_text()


def test_size_resamples_positions_and_updates_the_processor(tmp_path):
    config, params, processor = tiny("tiny-clip")
    export.save(tmp_path / "a", config, params, processor, form="hf")
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--size", "64", "--verify"])
    got_config, got, got_processor = weights.load(str(tmp_path / "b"))
    assert (got_config.image.size, got_processor.size) == (64, 64)
    assert len(got["image"]["position"]) == 1 + (64 // config.image.patch) ** 2
    np.testing.assert_array_equal(got["text"]["embed"], params["text"]["embed"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "{a}"], "a exists; choose another name or remove it"),
        (["{a}/absent", "{out}"], "absent: no such file or folder"),
        (["run:{a}", "{out}"], "is not a run directory with a checkpoint"),
        (["{a}", "{out}", "--to", "big_vision"], "big_vision's two-tower model is SigLIP"),
        (["{a}", "{out}", "--size", "8"], "--size 8 is smaller than one patch of SRC: 12 pixels"),
        (["{a}", "{out}", "--interpolate", "{s}"], "is a different model from SRC: image, text, "),
    ],
)
def test_errors_name_the_fix_and_leave_no_files(tmp_path, arguments, message):
    export.save(tmp_path / "a", *tiny("tiny-clip"), form="hf")
    export.save(tmp_path / "s", *tiny("tiny-siglip"), form="hf")
    places = {"a": tmp_path / "a", "s": tmp_path / "s", "out": tmp_path / "out"}
    with pytest.raises((UserError, OSError), match=re.escape(message)):
        convert.main([argument.format(**places) for argument in arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "s"]


def test_interpolation_rejects_different_shapes():
    a = {"x": {"y": np.zeros((2, 3))}, "z": np.zeros(1)}
    b = {"x": {"y": np.zeros((2, 4))}, "z": np.zeros(1)}
    with pytest.raises(UserError, match="x/y differ in shape"):
        conversion.interpolate(a, b, 0.5)
    assert jax.tree.leaves(conversion.interpolate(a, a, 0.5))[0].shape == (2, 3)


def test_verification_says_what_is_preprocessed_differently(tmp_path, capsys):
    """A processor that converts images as big_vision does, in the two libraries that do otherwise."""
    export.save(tmp_path / "a", *tiny("tiny-clip"), form="hf")
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--to", "openclip", "--verify"])
    source, target = (line for line in capsys.readouterr().out.splitlines() if "logits within" in line)
    library = f"transformers {transformers.__version__} with its own image processor and tokenizer"
    assert f"{library} (8 images, 26 captions; scale 12.2)" in source
    assert "it preprocesses 1 of 8 images (transparent.png) differently" in source
    assert f"OpenCLIP {open_clip.__version__}" in target
    assert "it preprocesses 2 of 8 images (palette.png, transparent.png)" in target


def edit(folder, name: str, **fields) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "does not reproduce this model; expected logit"),
        ("preprocessor_config.json", {"crop_size": 30}, "b: transformers .* fails: .*30"),
        ("tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]}, "does not reproduce this mo"),
    ],
)
def test_verification_runs_the_exported_processor(tmp_path, monkeypatch, name, fields, message):
    """Wrong pixels, images of a wrong size, and a mask of the padding that SigLIP was not trained with."""
    save, model = export.save, "tiny-siglip" if name.startswith("tok") else "tiny-clip"

    def damaged(folder, *rest, **options):
        save(folder, *rest, **options)
        edit(folder, name, **fields)

    save(tmp_path / "a", *tiny(model), form="run")
    monkeypatch.setattr(export, "save", damaged)
    with pytest.raises(UserError, match=message):
        convert.main([f"run:{tmp_path / 'a'}", str(tmp_path / "b"), "--verify"])
