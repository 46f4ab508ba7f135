"""The public API: parity with transformers' processor and model, every kind of input, errors, and docs/api.md."""

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import naturel_jax
from naturel_jax.benchmarks import registry
from naturel_jax.data.images.decode import open_image
from naturel_jax.data.seen.trained_on import from_used
from tests.helpers import benchmark_files, image_files
from tests.helpers.model_files import CAPTIONS, save_hf, tiny
from tests.helpers.processes import run
from tfds_naturel.common.errors import UserError

ROOT = Path(__file__).parents[2]
TEXTS = [*CAPTIONS[:3], "a guitar"]
SIZES = [(60, 40), (33, 71), (50, 50)]
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("api")
    return {name: save_hf(root / name, f"tiny-{name}") for name in ("clip", "siglip")}


@pytest.fixture(scope="module")
def model(folders) -> naturel_jax.EmbeddingModel:
    return naturel_jax.load(folders["clip"], batch_size=8)


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    """Three photos of different shapes."""
    files = [tmp_path / f"{n}.png" for n in range(len(SIZES))]
    for n, (file, size) in enumerate(zip(files, SIZES, strict=True)):
        file.write_bytes(image_files.photo(*size, seed=n, form="PNG"))
    return files


def image(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    return open_image(image_files.photo(*size, seed=5)).convert(mode)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_embeddings_and_logits_match_transformers(folders, family, paths):
    ours = naturel_jax.load(folders[family])
    processor = transformers.AutoProcessor.from_pretrained(folders[family], use_fast=False)
    theirs = transformers.AutoModel.from_pretrained(folders[family]).eval()
    images = [Image.open(path) for path in paths]
    inputs = processor(text=TEXTS, images=images, return_tensors="pt", padding="max_length", truncation=True)
    if family == "siglip":
        inputs.pop("attention_mask", None)  # SigLIP was trained without one
    with torch.no_grad():
        output = theirs(**inputs)
    np.testing.assert_allclose(ours.encode_image(paths), output.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(ours.encode_text(TEXTS), output.text_embeds.numpy(), atol=1e-5)
    cosines = (output.image_embeds @ output.text_embeds.T).numpy()
    np.testing.assert_allclose(ours.score(paths, TEXTS), cosines, atol=1e-5)
    np.testing.assert_allclose(ours.logits(paths, TEXTS), output.logits_per_image.numpy(), atol=1e-4)


def test_results_are_float32_unit_vectors(model, paths):
    embeddings = [model.encode_image(paths), model.encode_text(TEXTS)]
    for z in [*embeddings, model.score(paths, TEXTS), model.logits(paths, TEXTS)]:
        assert type(z) is np.ndarray and z.dtype == np.float32
    for z in embeddings:
        assert z.shape[1] == model.model.config.embed_dim
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1, atol=1e-6)


def test_every_kind_of_image_is_embedded_alike(model, paths):
    expected = model.encode_image(paths)
    opened = [Image.open(path) for path in paths]
    kinds = ([str(p) for p in paths], [p.read_bytes() for p in paths], opened, [np.asarray(i) for i in opened])
    for images in kinds:
        np.testing.assert_array_equal(model.encode_image(images), expected)
    mixed = [paths[0], kinds[1][1], opened[2], paths[0], opened[2]]
    np.testing.assert_array_equal(model.encode_image(tuple(mixed)), expected[[0, 1, 2, 0, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "half"}, "dtype is 'half'; expected 'float32' or"), ({"batch_size": 0}, "batch_size is 0, expected 1")],
)
def test_wrong_options_of_load(folders, options, message):
    with pytest.raises(UserError, match=message):
        naturel_jax.load(folders["clip"], **options)
    with pytest.raises(FileNotFoundError, match="no such file or folder; write hf:owner/name"):
        naturel_jax.load("nothing")


def test_bfloat16_is_close_to_float32(folders, model, paths):
    half = naturel_jax.load(folders["clip"], dtype="bfloat16")
    difference = np.abs(half.score(paths, TEXTS) - model.score(paths, TEXTS)).max()
    assert 0 < difference < 0.05


def test_array_of_images_is_a_list_of_them(model):
    images_IHWC = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    embeddings = model.encode_image([Image.fromarray(image) for image in images_IHWC])
    np.testing.assert_array_equal(model.encode_image(images_IHWC), embeddings)


@pytest.mark.parametrize("mode", MODES)
def test_pil_images_are_treated_as_their_files(model, mode, tmp_path):
    source = image(mode)
    if mode in ("LA", "RGBA"):
        source.putalpha(Image.linear_gradient("L").resize(source.size))
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    source.save(path)
    np.testing.assert_array_equal(model.encode_image([source]), model.encode_image([path]))


def test_palette_with_transparency_and_rotated_photo_are_treated_as_their_files(model, tmp_path):
    image("P").save(tmp_path / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees, which processors ignore
    image().save(tmp_path / "rotated.jpg", exif=exif)
    for path in (tmp_path / "palette.png", tmp_path / "rotated.jpg"):
        np.testing.assert_array_equal(model.encode_image([Image.open(path)]), model.encode_image([path]))
    np.testing.assert_array_equal(
        model.encode_image([tmp_path / "rotated.jpg"]),
        model.encode_image([np.asarray(Image.open(tmp_path / "rotated.jpg"))]),
    )


def test_batch_size_and_order_do_not_matter(model):
    images = [np.full((8 + n, 9, 3), 10 * n, np.uint8) for n in range(19)]
    texts = [f"{text} {n}" for n, text in enumerate(CAPTIONS[:19])]
    for encode, values in ((model.encode_image, images), (model.encode_text, texts)):
        together = encode(values)
        np.testing.assert_allclose(np.concatenate([encode([value]) for value in values]), together, atol=1e-6)
        np.testing.assert_allclose(encode(values[::-1])[::-1], together, atol=1e-6)


def test_empty_lists_have_empty_results(model, paths):
    width = model.model.config.embed_dim
    assert model.encode_image([]).shape == model.encode_text([]).shape == (0, width)
    assert model.score([], TEXTS).shape == (0, 4) and model.logits(paths, []).shape == (3, 0)
    assert model.encode_image([]).dtype == model.score(paths, []).dtype == np.float32


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("cat.jpg", r"images: expected a list, found str"),
        (np.zeros((4, 4, 3), np.uint8), r"images: expected a list, found uint8 array \(4, 4, 3\)"),
        (None, r"images: expected a list, found NoneType"),
        ([3], r"images\[0\]: expected a path, bytes, a PIL image or a uint8 array, found int"),
        ([np.zeros((4, 4, 3))], r"images\[0\]: expected a uint8 array .*, found float64 array \(4, 4, 3\)"),
        ([np.zeros((4, 4, 2), np.uint8)], r"images\[0\]: expected a uint8 array \[H, W\], .* found uint8 array"),
    ],
    ids=str,
)
def test_wrong_types_of_images(model, images, message):
    with pytest.raises(TypeError, match=message):
        model.encode_image(images)


@pytest.mark.parametrize(
    ("texts", "message"),
    [("a cat", "texts: expected a list, found str"), (["a", 3], r"texts\[1\]: expected str, found int")],
)
def test_wrong_types_of_texts(model, texts, message):
    with pytest.raises(TypeError, match=message):
        model.encode_text(texts)


def test_missing_and_broken_images_are_named(model, paths, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"images\[0\]: .*: a folder: pass the images in it"):
        model.encode_image([tmp_path])
    for empty in (np.zeros((0, 4, 3), np.uint8), Image.new("RGB", (0, 4))):
        with pytest.raises(UserError, match="without pixels"):
            model.encode_image([empty])
    with pytest.raises(UserError, match=r"text 'a \\udc80 cat' has a lone surrogate"):
        model.encode_text(["a cat", "a \udc80 cat"])
    with pytest.raises(UserError, match=r"^text 'aaa.* has 100,001 characters; the limit is 100,000"):
        model.encode_text(["a" * 100_001])
    with pytest.raises(FileNotFoundError, match=r"images\[3\]: .*nothing\.png: no such file"):
        model.encode_image([*paths, tmp_path / "nothing.png"])
    with pytest.raises(FileNotFoundError, match=r"images\[0\]: https://host/a\.jpg: an address: download it"):
        model.encode_image(["https://host/a.jpg"])
    half = paths[0].read_bytes()[:300]
    (tmp_path / "broken.png").write_bytes(half)
    broken = [paths[0], tmp_path / "broken.png", b"no image", Image.open(io.BytesIO(half))]
    with pytest.raises(
        UserError, match=r"3 of 4 images cannot be read; the first: image 1 \(.*broken\.png\): not a read"
    ):
        model.encode_image(broken)
    os.truncate(tmp_path / "broken.png", (1 << 28) + 1)
    with pytest.raises(UserError, match=r"broken\.png\): an image of 268,435,457 bytes; the limit is"):
        model.encode_image([tmp_path / "broken.png"])


def test_progress_bar_only_for_many_inputs_or_on_request(model, capsys):
    model.encode_text([f"caption {n}" for n in range(20)])
    assert not capsys.readouterr().err
    model.encode_text(["a", "b"], progress=True)
    assert "2/2" in capsys.readouterr().err


def test_saved_model_is_read_again_and_mistakes_are_named(model, paths, tmp_path):
    model.save(tmp_path / "saved")
    np.testing.assert_array_equal(naturel_jax.load(tmp_path / "saved").score(paths, TEXTS), model.score(paths, TEXTS))
    with pytest.raises(FileExistsError, match="saved exists"):
        model.save(tmp_path / "saved")
    with pytest.raises(UserError, match="to is 'tf'; expected one of: hf, openclip, big_vision, run"):
        model.save(tmp_path / "other", to="tf")


def test_evaluate_scores_the_items_that_were_not_trained_on(model, tmp_path, monkeypatch):
    benchmark_files.sugarcrepe(tmp_path, items=3)
    (whole,) = registry.read(["sugarcrepe"], files=tmp_path)
    trained = {Path(item.images[0].key).stem for item in whole.items[:4]}
    monkeypatch.setattr(model, "trained_on", from_used({"coco": [str(int(number)) for number in trained]}))
    scores = naturel_jax.evaluate(model, "sugarcrepe", tmp_path)
    right: dict[str, list[bool]] = {}
    for item in whole.items:
        if Path(item.images[0].key).stem in trained:
            continue
        positive, negative = model.score([image.read() for image in item.images], item.captions)[0]
        for value in item.tags.values():
            right.setdefault(f"sugarcrepe/{value}", []).append(bool(positive > negative))
    assert scores and {name: np.mean(right[name]) for name in scores if name in right} == pytest.approx(
        {name: value for name, value in scores.items() if name in right}
    )
    assert len(right) >= 5 and set(right) <= set(scores)


def python(code: str, folder: Path) -> str:
    command = [sys.executable, "-W", "error::SyntaxWarning", "-c", code]
    return run(command, folder, os.environ | {"PYTHONPATH": str(ROOT)})


def test_import_loads_neither_jax_nor_transformers(tmp_path):
    code = "import sys, naturel_jax; print(naturel_jax.__version__, dir(naturel_jax))\n"
    code += "print([m for m in ('jax', 'numpy', 'transformers', 'flax', 'PIL', 'absl') if m in sys.modules])"
    assert python(code, tmp_path).splitlines()[1] == "[]"
    assert not hasattr(naturel_jax, "no_such_name")
    assert set(naturel_jax.__all__) <= set(dir(naturel_jax))


def test_evaluate_is_callable_after_its_module_was_imported(tmp_path):
    """Without that, the examples of the docs call it."""
    code = "import naturel_jax, naturel_jax.evaluate\ntry: naturel_jax.evaluate(None, 'no such', '.')\n"
    assert "unknown benchmarks" in python(code + "except ValueError as error: print(error)", tmp_path)


def test_examples_of_the_docs_run(folders, paths, tmp_path):
    """Every Python block of docs/api.md, in one fresh process, with a saved model in place of the one on the hub. The
    three lines of the package's docstring are among them."""
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    assert len(lines := re.findall(r"^    (.+)", naturel_jax.__doc__, re.MULTILINE)) == 3
    assert {*lines} <= {*code.splitlines()}
    for name, path in zip(("mug.jpg", "cat.jpg", "dog.png"), paths, strict=True):
        Image.open(path).save(tmp_path / name)
    benchmark_files.winoground(tmp_path / "benchmarks", items=4)
    sources = re.findall(r"hf:[\w./-]+", code)
    assert sources
    for source in sources:
        code = code.replace(source, str(folders["siglip" if "siglip" in source else "clip"]))
    output = python(code, tmp_path)
    assert "(1, 2)" in output and (tmp_path / "exported" / "model.safetensors").is_file()
    assert tiny("tiny-clip").config.embed_dim == int(re.search(r"embed_dim=(\d+)", output)[1])
