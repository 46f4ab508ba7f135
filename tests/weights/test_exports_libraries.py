"""Exports in the libraries of their users: a process that imports nothing of ours loads the folders, preprocesses odd
images and 200 captions with the exported processors, and computes our logits."""

import base64
import dataclasses
import importlib.util
import io
import json
import os
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import naturel_jax
from naturel_jax import config as c
from naturel_jax import weights
from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.models import adapters
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import CLIP, SIGLIP, preset
from naturel_jax.models.two_tower import TwoTowerConfig
from naturel_jax.weights import export, hub, processor_files
from naturel_jax.weights.sources import Loaded
from tests.helpers import hub_server, image_files
from tests.helpers.model_files import gemma_tokenizer, random_adapter, random_params, reduced, sentencepiece_model, tiny
from tests.helpers.processes import run

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[1] / "helpers" / "exports_process.py"
WORDS = ("the a old red cat dog café person table guitar", "is under on left right of holding two, small wet")
ODD = [
    *("", " ", "A Cat; and: the DOG!", "кошка под столом", "犬と猫", "a 😀 dog", "it's 5 o'clock", "cat " * 200),
    "É\u0301é",
    *("a </s> dog", "</s>", "dog</s>cat a", "cat<|endoftext|> dog", "a <end_of_text> cat", "a_b"),
    "<pad> a <unk> <eos>cat",
]
HUB = "owner/openclip"
Arrays = dict[str, np.ndarray]


def captions() -> list[str]:
    rng, words = random.Random(0), " ".join(WORDS).split()
    return [*ODD, *(" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(200 - len(ODD)))]


def write_images(folder: Path) -> list[str]:
    """Photos of odd sizes; grey, transparent, with a palette, rotated by EXIF; some tiny, two narrow; and noise."""

    def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
        return Image.open(io.BytesIO(image_files.photo(width, height, seed=width))).convert(mode)

    def noise(width: int, height: int) -> Image.Image:
        return Image.fromarray(np.random.default_rng(2).integers(0, 2, (height, width, 3)).astype(np.uint8) * 255)

    transparent = photo(233, 181, "RGBA")
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    grey = photo(90, 130, "LA")
    grey.putalpha(Image.linear_gradient("L").resize(grey.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        **{"plain.jpg": (photo(301, 200), {}), "tall.png": (photo(187, 333), {})},
        **{"rotated.jpg": (photo(240, 135), {"exif": exif}), "grey.jpg": (photo(221, 160, "L"), {})},
        **{"grey-transparent.png": (grey, {}), "transparent.png": (transparent, {})},
        "palette.png": (photo(210, 140).quantize(32), {}),
        "palette-transparent.png": (photo(140, 210).quantize(16), {"transparency": 3}),
        **{"narrow.webp": (photo(40, 300), {}), "small.png": (photo(31, 45), {}), "thread.png": (photo(20, 3000), {})},
        **{"print.jpg": (photo(99, 77, "CMYK"), {}), "black-white.png": (photo(120, 120, "1"), {})},
        **{"noise.png": (noise(31, 45), {}), "noise-tall.png": (noise(90, 130), {})},
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return [str(folder / name) for name in images]


def model(config: TwoTowerConfig, text: processor_files.Text | None = None, **fields: str) -> Loaded:
    """``config`` with random parameters, and its family's processor, with a tokenizer trained here unless ``text``."""
    family = family_of(config)
    context = config.text.context
    text = text or {"tokenizer": train_tokenizer(family.name, captions()[10:], 300, context), "clean": "none"}
    processor = Processor(context=context, size=config.image.size, **family.pixels | text | fields)
    return Loaded(config, random_params(config), processor)


def clip(size: int = 64, patch: int = 16, **fields: str) -> Loaded:
    towers = {"image": CLIP.tower(128, 2, 2), "text": CLIP.tower(64, 1, 1)}
    return model(CLIP.config(size=size, patch=patch, **towers, embed_dim=32, vocab=300, eos_id=1), **fields)


def odd_size() -> Loaded:
    """Crops have odd margins, which transformers and OpenCLIP halve differently."""
    return clip(37, 12)


def exact_gelu() -> Loaded:
    """As LAION's models, with OpenAI's vocabulary, which OpenCLIP takes from its own package."""
    towers = {"image": CLIP.tower(128, 2, 2, activation="gelu"), "text": CLIP.tower(64, 1, 1, activation="gelu")}
    config = CLIP.config(size=64, patch=16, **towers, embed_dim=32)
    return model(config, processor_files.openai_tokenizer(hub.clip_vocabulary(), 77))


def siglip(size: int = 64, patch: int = 16, mlp_dim: int = 512, context: int = 64) -> TwoTowerConfig:
    towers = {"image": SIGLIP.tower(128, 2, 2, mlp_dim), "text": SIGLIP.tower(128, 1, 2, mlp_dim)}
    return SIGLIP.config(size=size, patch=patch, **towers, vocab=300, context=context)


def gemma(config: TwoTowerConfig, clean: str, folder: Path, **fields: str) -> Loaded:
    gemma_tokenizer(folder, captions()[10:])
    return model(config, processor_files.tokenizer(folder, SIGLIP, config.text.context, clean), **fields)


def registered() -> TwoTowerConfig:
    """With an image tower that timm knows by name, which has full depth."""
    config = reduced("siglip2-b32-256")
    return dataclasses.replace(config, image=preset("siglip2-b32-256").image)


def adapter(base: Path) -> weights.Adapter:
    """Of ``clip()``, whose export is in ``base``."""
    params, options = clip().params, c.Adapter(rank=3, alpha=6.0, targets=(".*",))
    return weights.Adapter(random_adapter(params, options), options, str(base), adapters.digest(params))


def sentencepiece() -> processor_files.Text:
    return {"tokenizer": base64.b64encode(sentencepiece_model(captions()[10:], 60)).decode(), "clean": "siglip"}


# Processors have the conventions of models trained here from scratch: exports take those of their library.
MODELS: dict[str, tuple[str, Callable[[Path], Loaded]]] = {
    "clip": ("hf", lambda _: clip()),
    "clip-odd": ("hf", lambda _: odd_size()),
    "clip-square": ("hf", lambda _: clip(resize="square", interpolation="bilinear")),
    "siglip": ("hf", lambda _: model(siglip(), sentencepiece())),
    "siglip-16": ("hf", lambda _: model(siglip(context=16))),
    "siglip2": ("hf", lambda folder: gemma(siglip(), "none", folder)),
    # Images with a border narrower than a patch, and its own MLP width, as So400m/14 at 384.
    "so400m": ("hf", lambda _: model(siglip(50, 14, 478), sentencepiece())),
    "openclip": ("openclip", lambda _: clip()),
    "openclip-odd": ("openclip", lambda _: odd_size()),
    "openclip-gelu": ("openclip", lambda _: exact_gelu()),
    # Google's GELU, which timm's trunks of most names do not have; another size, as So400m/14.
    "openclip-siglip": ("openclip", lambda _: model(siglip(50, 14, 478), sentencepiece())),
    "openclip-siglip2": ("openclip", lambda folder: gemma(siglip(), "openclip_siglip", folder)),
    "openclip-timm": ("openclip", lambda folder: gemma(registered(), "openclip_siglip", folder)),
    "run": ("run", lambda _: tiny("tiny-clip")),
}
HF = [name for name, (form, _) in MODELS.items() if form == "hf"]
OPENCLIPS = [name for name, (form, _) in MODELS.items() if form == "openclip"]
CARDS = ["clip", "siglip", "siglip-16", "openclip", "openclip-siglip", "hub", "peft"]  # whose code is run


SENTENCES = importlib.util.find_spec("sentence_transformers") is not None


def code_blocks(folder: Path) -> list[str]:
    """The code of its model card, without that for a library that is not installed."""
    codes = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), re.DOTALL)
    return [code for code in codes if SENTENCES or "sentence_transformers" not in code]


def jobs_of(folders: dict[str, Path]) -> dict[str, tuple[str, list[object]]]:
    jobs: dict[str, tuple[str, list[object]]] = {
        "towers": ("clip_towers", [str(folders["clip"])]),
        "hub": ("openclip_model", [f"hf-hub:{HUB}"]),
        "hub-siglip": ("openclip_model", [f"hf-hub:{HUB}-siglip"]),
    }
    for name in HF:
        jobs[name] = ("transformers_model", [str(folders[name])])
    for name, context in (("clip", None), ("siglip", None), ("siglip-16", 16)):
        jobs[f"{name}-pipeline"] = ("pipeline_scores", [str(folders[name]), context])
    if SENTENCES:
        jobs["sentences"] = ("sentence_embeddings", [str(folders["clip"])])
    for name in OPENCLIPS:
        jobs[name] = ("openclip_model", [f"local-dir:{folders[name]}"])
    for name in CARDS:
        for n, code in enumerate(code_blocks(folders[name])):
            jobs[f"{name}-snippet-{n}"] = ("snippet", [code, str(folders[name])])
    return jobs


@dataclasses.dataclass
class Session:
    """The exported folders, the images, and what the libraries computed: ``<job>/<array>``."""

    folders: dict[str, Path]
    images: list[str]
    arrays: dict[str, np.ndarray]
    logits: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def ours(self, name: str) -> np.ndarray:
        if name not in self.logits:
            model = naturel_jax.load(self.folders[name], batch_size=64)
            self.logits[name] = model.logits(self.images, captions())
        return self.logits[name]


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    root = tmp_path_factory.mktemp("exports")
    (root / "images").mkdir()
    images = write_images(root / "images")
    folders = {}
    for name, (form, make) in MODELS.items():
        (root / f"{name}-files").mkdir()
        folders[name] = root / name
        export.save(folders[name], *make(root / f"{name}-files"), form=form)
    folders["peft"] = root / "peft"
    export.save(folders["peft"], *clip(), form="peft", adapter=adapter(folders["clip"]))
    folders["hub"] = root / "hub"
    export.save(folders["hub"], *clip(), form="openclip", repository=HUB)
    folders["hub-siglip"] = root / "hub-siglip"
    siglip_files = MODELS["openclip-siglip"][1](root)
    export.save(folders["hub-siglip"], *siglip_files, form="openclip", repository=f"{HUB}-siglip")
    hub = hub_server.Hub()
    hub.add(HUB, folders["hub"])
    hub.add(f"{HUB}-siglip", folders["hub-siglip"])
    return Session(folders, images, computed(root, hub, images, jobs_of(folders)))


def computed(root: Path, hub: hub_server.Hub, images: list[str], jobs: dict[str, tuple[str, list[object]]]) -> Arrays:
    """What the libraries compute, in a process of their own that can reach ``hub`` alone."""
    (root / "jobs.json").write_text(json.dumps({"images": images, "captions": captions(), "jobs": jobs}), "utf-8")
    with hub_server.serve(hub):
        run([sys.executable, "-P", SCRIPT, "jobs.json", "out.npz"], root, hub.environment(root / "cache"))
    with np.load(root / "out.npz") as arrays:
        return dict(arrays)


@pytest.mark.proof
@pytest.mark.parametrize("form", ["hf", "openclip"])
@pytest.mark.parametrize("name", ["clip-b32", "clip-b16", "siglip-b16-224"])
def test_presets_of_full_size_are_ours(tmp_path, name, form):
    """SigLIP has Google's GELU in OpenCLIP, too."""
    (tmp_path / "images").mkdir()
    images, path = write_images(tmp_path / "images"), str(tmp_path / "out")
    text = sentencepiece() if name.startswith("siglip") else processor_files.openai_tokenizer(hub.clip_vocabulary(), 77)
    export.save(tmp_path / "out", *model(preset(name), text), form=form)
    job = ("transformers_model", [path]) if form == "hf" else ("openclip_model", [f"local-dir:{path}"])
    logits = computed(tmp_path, hub_server.Hub(), images, {"full": job})["full/logits"]
    loaded = naturel_jax.load(path, batch_size=64)
    np.testing.assert_allclose(logits, loaded.logits(images, captions()), atol=1e-5 * np.exp(2.5))


@pytest.mark.parametrize("name", [*HF, *OPENCLIPS])
def test_logits_are_ours(session, name):
    np.testing.assert_allclose(session.arrays[f"{name}/logits"], session.ours(name), atol=1e-5)


def test_openclip_from_the_hub(session):
    """Config, tokenizer and weights, by name."""
    np.testing.assert_array_equal(session.arrays["hub/logits"], session.arrays["openclip/logits"])
    np.testing.assert_array_equal(session.arrays["hub-siglip/logits"], session.arrays["openclip-siglip/logits"])


@pytest.mark.parametrize("job", ["towers", "sentences"])
def test_embeddings_of_single_towers_are_ours(session, job):
    """``CLIPTextModelWithProjection``, ``CLIPVisionModelWithProjection``, and sentence-transformers."""
    if f"{job}/images" not in session.arrays:
        pytest.skip("sentence-transformers is not installed")
    ours = naturel_jax.load(session.folders["clip"])
    np.testing.assert_allclose(session.arrays[f"{job}/images"], ours.encode_image(session.images), atol=1e-5)
    np.testing.assert_allclose(session.arrays[f"{job}/texts"], ours.encode_text(captions()), atol=1e-5)


def probabilities(name: str, logits_IU: np.ndarray) -> np.ndarray:
    """Those of a CLIP over the captions, those of a SigLIP of each pair."""
    logits_IU = logits_IU.astype(np.float64)
    if not name.startswith("siglip"):
        return np.exp(logits_IU) / np.exp(logits_IU).sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits_IU))


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip-16"])
def test_pipeline_scores_are_ours(session, name):
    short = [n for n, caption in enumerate(captions()) if len(caption) < 40]
    expected = probabilities(name, session.ours(name)[:2, short])
    np.testing.assert_allclose(session.arrays[f"{name}-pipeline/scores"], expected, atol=1e-5)


@pytest.mark.parametrize("name", CARDS)
def test_code_of_model_cards_prints_our_scores(session, name):
    model, pair = naturel_jax.load(session.folders[name]), (session.images[1:2], ["a red square", "a blue circle"])
    for n, code in enumerate(code_blocks(session.folders[name])):
        expected = model.score(*pair) if "# cosines" in code else probabilities(name, model.logits(*pair))
        scores = session.arrays[f"{name}-snippet-{n}/scores"]
        np.testing.assert_allclose(scores, expected, atol=1e-5, err_msg=code)


@pytest.mark.parametrize("name", HF)
def test_default_backend_differs_by_the_rounding_of_a_pixel(session, name):
    """Without ``backend``, transformers resizes with torchvision: always the width first, unlike Pillow 13."""
    pixels, default = (session.arrays[f"{name}/{key}"] for key in ("pixels", "default_pixels"))
    assert pixels.shape == default.shape
    std = np.array(naturel_jax.load(session.folders[name]).processor.std)[:, None, None]
    *levels_I, tall = np.abs((pixels - default) * std * 255).max(axis=(1, 2, 3))
    assert max(levels_I) < 2.01 and tall < 31


def test_snippet_of_a_run(session):
    (code,) = code_blocks(session.folders["run"])
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2])}
    printed = run([sys.executable, "-c", code], session.folders["run"], environment)
    assert re.match(r"\[\[-?0\.\d+ +-?0\.\d+\]\]", printed), printed
