"""``python -m naturel_jax.convert`` from every source to every format."""

import dataclasses
import json
import re

import jax
import numpy as np
import open_clip
import PIL.Image
import pytest

import naturel_jax
from naturel_jax import convert, weights
from naturel_jax.data.text.tokenizer import train_tokenizer
from naturel_jax.weights import export, tables, verify
from tests.helpers.model_files import assert_same, random_params, tiny
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
    assert weights.load(str(tmp_path / "c")).processor == weights.load(str(tmp_path / "a")).processor


def test_naflex_is_verified_by_transformers(tmp_path, capsys):
    """On images of nine aspect ratios. Read again, its processor keeps the number of patches."""
    config, params, processor = tiny("tiny-naflex")
    export.save(tmp_path / "run", config, params, dataclasses.replace(processor, max_patches=20), form="run")
    convert.main([f"run:{tmp_path}/run", str(tmp_path / "a"), "--verify"])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "logits within" in line]
    assert float(line.split(" within ")[1].split(" ")[0]) < 1e-5
    assert line.endswith("its image processor and tokenizer give the same pixels and ids")
    (tmp_path / "a/processor.json").unlink()
    got = weights.load(str(tmp_path / "a"))
    assert_same(got.params, params)
    assert got.config == config
    assert got.processor == dataclasses.replace(processor, max_patches=20, to_rgb="on_white")


@pytest.mark.slow
def test_naflex_at_a_fixed_size_embeds_square_images_as_before(tmp_path):
    config, params, processor = tiny("tiny-naflex")
    processor = dataclasses.replace(processor, max_patches=config.image.grid**2)
    export.save(tmp_path / "a", config, params, processor, form="hf")
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--size", str(config.image.size), "--verify"])
    assert weights.load(str(tmp_path / "b")).config.image == dataclasses.replace(config.image, naflex=False)
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)
    one, other = (naturel_jax.load(tmp_path / name).encode_image([image]) for name in "ab")
    np.testing.assert_allclose(one, other, atol=1e-5)


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
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--size", "64", "--verify", "--dtype", "bfloat16"])
    got_config, got, got_processor = weights.load(str(tmp_path / "b"))
    assert (got_config.image.size, got_processor.size) == (64, 64)
    assert len(got["image"]["position"]) == 1 + (64 // config.image.patch) ** 2
    rounded = np.asarray(params["text"]["embed"].astype("bfloat16"), np.float32)
    np.testing.assert_array_equal(got["text"]["embed"], rounded)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "{a}"], "a exists; choose another name or remove it"),
        (["{a}/absent", "{out}"], "absent: no such file or folder"),
        (["run:{a}", "{out}"], "is not a run directory with a checkpoint"),
        (["{a}", "{out}", "--to", "big_vision"], "big_vision's two-tower model is SigLIP with the tanh"),
        (["run:{n}", "{out}"], "transformers reads every tokenizer of a Siglip2Model as Gemma's"),
        (["run:{n}", "{out}", "--to", "openclip"], "OpenCLIP has no NaFlex model; export to hf or run"),
        (["{a}", "{out}", "--size", "8"], "--size 8 is smaller than one patch of SRC: 12 pixels"),
        (["{a}", "{out}", "--size", "99999999"], "--size 99999999 is larger than 16,384 pixels"),
        (["{a}", "{out}", "--interpolate", "{a}", "--alpha", "50"], "--alpha is 50.0, expected a number from 0 to 1"),
        (["{a}", "{out}", "--interpolate", "{s}"], "is a different model from SRC: image, text, "),
    ],
)
def test_errors_name_the_fix_and_leave_no_files(tmp_path, arguments, message):
    export.save(tmp_path / "a", *tiny("tiny-clip"), form="hf")
    export.save(tmp_path / "s", *tiny("tiny-siglip"), form="hf")
    naflex = tiny("tiny-naflex")
    processor = dataclasses.replace(naflex.processor, tokenizer=tiny("tiny-siglip").processor.tokenizer)
    export.save(tmp_path / "n", naflex.config, naflex.params, processor, form="run")
    places = {"a": tmp_path / "a", "s": tmp_path / "s", "n": tmp_path / "n", "out": tmp_path / "out"}
    with pytest.raises((UserError, OSError), match=re.escape(message)):
        convert.main([argument.format(**places) for argument in arguments])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "n", "s"]


def test_interpolation_rejects_different_shapes():
    a = {"x": {"y": np.zeros((2, 3))}, "z": np.zeros(1)}
    b = {"x": {"y": np.zeros((2, 4))}, "z": np.zeros(1)}
    with pytest.raises(UserError, match="x/y differ in shape"):
        weights.interpolate(a, b, 0.5)
    assert jax.tree.leaves(weights.interpolate(a, a, 0.5))[0].shape == (2, 3)


def test_verification_says_what_is_preprocessed_otherwise(tmp_path, capsys):
    """An OpenCLIP model whose crops have odd margins, in transformers: the same weights, in other conventions."""
    config, _, processor = tiny("tiny-clip")
    config = dataclasses.replace(config, image=dataclasses.replace(config.image, size=35, patch=32))
    export.save(tmp_path / "a", config, random_params(config), dataclasses.replace(processor, size=35), form="openclip")
    convert.main([str(tmp_path / "a"), str(tmp_path / "b"), "--verify"])
    _, conventions, source, target, otherwise = capsys.readouterr().out.splitlines()
    changes = "clean openclip_whitespace -> none, centre round -> floor, to_rgb last -> on_white"
    assert conventions == f"{tmp_path}/b: its processor does as transformers does: {changes}"
    for line, library in ((source, f"OpenCLIP {open_clip.__version__}"), (target, "transformers")):
        assert f"of {library}" in line and "(9 images, 31 captions; scale 12.2)" in line
        assert line.endswith("its image processor and tokenizer give the same pixels and ids")
    assert f"preprocesses differently from {tmp_path}/a: " in otherwise
    assert "palette.png" in otherwise and "transparent.png" in otherwise and "'fish &amp; chips'" in otherwise
    assert "tall.jpg" in otherwise and "square.webp" not in otherwise, "a margin of 27 pixels, and none"


def edit(folder, name: str, **fields) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("form", ["hf", "openclip"])
def test_verification_tells_weights_from_pixels_and_ids(tmp_path, form):
    config, params, processor = tiny("tiny-clip")
    export.save(tmp_path / "a", config, params, processor, form=form)
    loaded, images = weights.load(str(tmp_path / "a")), {"a.png": verify.example_images()["wide.jpg"]}

    def problems(**fields) -> str:
        other = loaded._replace(**fields)
        return "; ".join(verify.compare(tmp_path / "a", form, other, images, ["a cat", "a dog"]).problems)

    assert problems() == ""
    assert problems(params=tiny("tiny-clip", seed=1).params).startswith("weights or architecture differ: logits ")
    resized = dataclasses.replace(loaded.processor, interpolation="bilinear")
    assert problems(processor=resized).startswith("other pixels for 1 of 1 images (a.png); logits up to ")
    tokenizer = train_tokenizer("clip", ["a dog"] * 9, 300, loaded.processor.context)
    assert re.match(
        r"other ids for \d of 2 captions \(.*\); logits up to ",
        problems(processor=dataclasses.replace(loaded.processor, tokenizer=tokenizer)),
    )


@pytest.mark.slow
def test_logit_bias_can_be_left_out_for_transformers(tmp_path):
    """Rankings stay: logits differ by the bias alone."""
    config, _, processor = tiny("tiny-clip")
    config = dataclasses.replace(config, init_bias=0.0)
    export.save(tmp_path / "a", config, random_params(config), processor, form="run")
    with pytest.raises(UserError, match=r"no logit bias.*--drop_bias"):
        convert.main([f"run:{tmp_path}/a", str(tmp_path / "b")])
    convert.main([f"run:{tmp_path}/a", str(tmp_path / "b"), "--drop_bias", "--verify"])
    image, captions = PIL.Image.new("RGB", (48, 48), "red"), ["a cat", "a dog"]
    a, b = (naturel_jax.load(source).logits([image], captions) for source in (f"run:{tmp_path}/a", tmp_path / "b"))
    np.testing.assert_allclose(a + 3.0, b, atol=1e-4)
    assert "## Logit bias" in (tmp_path / "b/README.md").read_text()
    with pytest.raises(UserError, match=r"--drop_bias: \S*b has no logit bias"):
        convert.main([str(tmp_path / "b"), str(tmp_path / "c"), "--drop_bias"])


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("preprocessor_config.json", {"image_mean": [0.5, 0.5, 0.5]}, "reproduce this model: other pixels for 9 of 9 "),
        ("config.json", {"logit_scale_init_value": 1.0, "projection_dim": 48}, "b: transformers .* fails: "),
        ("preprocessor_config.json", {"crop_size": 30}, "b: transformers .* fails: .*30"),
        ("tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]}, "passes more to its model"),
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
