"""Mistakes of evaluation made on purpose: as transformers makes them if misused, and never among the scores."""

import dataclasses
import functools
import io
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from naturel_jax import evaluate
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Benchmark, Item
from naturel_jax.data.text.processor import Processor, train_tokenizer
from naturel_jax.evaluators import mistakes, results
from naturel_jax.evaluators.embed import Encoder, cosines, load_encoder, make_encoder
from naturel_jax.models.families import family_of
from naturel_jax.models.presets import preset
from naturel_jax.report import mistakes as page
from naturel_jax.report import published
from naturel_jax.report.tables import MEASURED, MISTAKE, PUBLISHED, Cell, ModelRow
from naturel_jax.weights import processor_files
from naturel_jax.weights.sources import Loaded
from tests.helpers.model_files import hf_model, random_params
from tests.helpers.tiny_models import tiny, write_run
from tfds_naturel.common.errors import UserError
from tfds_naturel.scenes import twins
from tfds_naturel.scenes.scene import CONFIGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twins of the benchmarks on the drawn world, and two models."""
    root = tmp_path_factory.mktemp("mistakes")
    twins.write(root, CONFIGS["scenes"], seed=0, items=10)
    texts = [text for item in winoground(root).items for text in item.captions]
    for name in ("tiny-clip", "tiny-siglip"):
        config = preset(name)
        tokenizer = train_tokenizer(family_of(config).name, texts, 400, 32)
        vocab = {"vocab": 400, "context": 32} | ({"eos_id": 1} if config.text.causal else {})
        config = dataclasses.replace(config, text=dataclasses.replace(config.text, **vocab))
        pixels = family_of(config).pixels
        hf_model(config, random_params(config)).save_pretrained(root / name)
        processor = Processor(tokenizer, 32, config.image.size, **pixels)
        processor_files.write(root / name, processor, family_of(config))
    return root


class Peer:
    """transformers' model and processor, which a test may misuse."""

    def __init__(self, folder: Path):
        self.model = transformers.AutoModel.from_pretrained(folder)
        self.processor = transformers.AutoProcessor.from_pretrained(folder, use_fast=False)
        self.padding: dict[str, str | bool] = {"padding": "max_length"}
        self.prepare: Callable[[Image.Image], Image.Image] = lambda image: image
        self.images: dict[str, object] = {}
        self.unit = True

    def features(self, item: Item) -> tuple[torch.Tensor, torch.Tensor]:
        images = [Image.open(io.BytesIO(image.read())).convert("RGB") for image in item.images]
        images = [self.prepare(p.crop(i.box) if i.box else p) for p, i in zip(images, item.images, strict=True)]
        groups = [list(item.captions)] if self.padding["padding"] else [[text] for text in item.captions]
        with torch.no_grad():
            pixels = self.processor(images=images, return_tensors="pt", **self.images)["pixel_values"]
            zimg_ID = self.model.vision_model(pixels).pooler_output
            ids = [
                self.processor(text=g, return_tensors="pt", truncation=True, **self.padding)["input_ids"]
                for g in groups
            ]
            ztxt_CD = torch.cat([self.model.text_model(input_ids=i).pooler_output for i in ids])
        return zimg_ID, ztxt_CD

    def cosines(self, item: Item) -> np.ndarray:
        zimg_ID, ztxt_CD = self.features(item)
        if self.unit:
            zimg_ID, ztxt_CD = (z / z.norm(dim=1, keepdim=True) for z in (zimg_ID, ztxt_CD))
        return (zimg_ID @ ztxt_CD.T).numpy()


@functools.cache  # what is compiled for one test serves the others
def right(source: Path | str) -> mistakes.Right:
    encoder, params = load_encoder(str(source), dtype="float32", batch_size=8)
    loaded = Loaded(encoder.model.config, params, encoder.processor)

    def make(loaded: Loaded) -> Encoder:
        return make_encoder(loaded, dtype="float32", batch_size=8)

    return mistakes.Right(str(source), loaded, encoder.with_params(params), make)


def winoground(folder: Path) -> Benchmark:
    return registry.read(["winoground"], files=folder)[0]


def unpadded(peer: Peer) -> None:
    peer.padding = {"padding": False}


def bgr(peer: Peer) -> None:
    peer.prepare = lambda image: Image.fromarray(np.ascontiguousarray(np.asarray(image)[..., ::-1]))


def cropped(peer: Peer) -> None:
    size = peer.processor.image_processor.size["height"]

    def prepare(image: Image.Image) -> Image.Image:
        scale = size / min(image.size)
        image = image.resize((int(image.width * scale), int(image.height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        return image.crop((left, top, left + size, top + size))

    peer.prepare = prepare


def unnormalized(peer: Peer) -> None:
    peer.unit = False


MISUSES = {
    "unpadded": unpadded,
    "bgr": bgr,
    "resize": cropped,
    "interpolation": lambda peer: peer.images.update(resample=Image.Resampling.BICUBIC),
    "statistics": lambda peer: peer.images.update(
        image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711]
    ),
    "unscaled": lambda peer: peer.images.update(do_normalize=False),
    "unnormalized": unnormalized,
}


def widened(item: Item) -> Item:
    """The item, its square images cropped so that it matters how they become square again."""
    return dataclasses.replace(item, images=tuple(dataclasses.replace(i, box=(0, 8, 60, 40)) for i in item.images))


SLOW = ("interpolation", "unscaled")  # made in the same way as others


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MISUSES])
def test_mistake_is_that_of_transformers_misused(folder, name):
    peer, items = Peer(folder / "tiny-siglip"), list(map(widened, winoground(folder).items[:4]))
    good = [peer.cosines(item) for item in items]
    MISUSES[name](peer)
    expected = [peer.cosines(item) for item in items]
    assert max(np.abs(a - b).max() for a, b in zip(good, expected, strict=True)) > 1e-3, "it matters"
    found = cosines(items, mistakes.MISTAKES[name].make(right(folder / "tiny-siglip")))[1]
    tolerance = 1e-5 if name != "unnormalized" else 1e-5 * max(np.abs(matrix).max() for matrix in expected)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_longest_pads_all_texts_to_the_longest(folder):
    subject, texts = right(folder / "tiny-siglip"), ["the cat", "the cat is under the table"]
    peer = Peer(folder / "tiny-siglip")
    with torch.no_grad():
        ids = peer.processor(text=texts, return_tensors="pt", padding=True, truncation=True)["input_ids"]
        assert ids.shape[1] < subject.loaded.config.text.context
        z_UD = peer.model.text_model(input_ids=ids).pooler_output
    found = mistakes.MISTAKES["longest"].make(subject).captions(texts)
    np.testing.assert_allclose(found, (z_UD / z_UD.norm(dim=1, keepdim=True)).numpy(), atol=1e-5)
    assert mistakes.token_counts(subject.loaded, texts).max() == ids.shape[1]


def test_uncleaned_texts_keep_case_and_punctuation(folder):
    for model in ("tiny-clip", "tiny-siglip"):
        subject = right(folder / model)
        wrong = mistakes.MISTAKES["uncleaned"].make(subject)
        clean = ["a cat on a box", "the hat"]
        np.testing.assert_array_equal(wrong.captions(clean), subject.embedder.captions(clean))
        shouted = ["A CAT on a box.", "The hat"]
        assert np.abs(wrong.captions(shouted) - subject.embedder.captions(shouted)).max() > 1e-3


def test_transposed_exchanges_text_and_image_scores(folder):
    benchmark = winoground(folder)
    wrong = mistakes.MISTAKES["transposed"].rule(benchmark)
    matrices = [np.array([[0.3, 0.2], [0.4, 0.5]])] * len(benchmark.items)  # right by text, wrong by image
    good, bad = (b.score(b.items, matrices) for b in (benchmark, wrong))
    assert good["winoground/text"].value == bad["winoground/image"].value == 1
    assert good["winoground/image"].value == bad["winoground/text"].value == 0
    assert mistakes.MISTAKES["transposed"].rule(registry.read(["sugarcrepe"], files=folder)[0]) is None


def test_what_does_not_matter_cannot_be_made(folder):
    causal = right(folder / "tiny-clip")
    assert mistakes.MISTAKES["unpadded"].make(causal) is None, "what follows the end token does not matter"
    assert mistakes.MISTAKES["base"].make(causal) is None, "not a run"


@pytest.mark.slow
def test_base_is_what_the_run_started_from(folder, tmp_path, caplog):
    for seed, (name, init) in enumerate({"first": "", "second": "base:first"}.items()):
        write_run(tmp_path / name, {1: tiny()[0].init(jax.random.key(seed))}, {"name": name, "init": init})
    items = winoground(folder).items
    first, second = (right(f"run:{tmp_path / name}") for name in ("first", "second"))
    found = cosines(items, mistakes.MISTAKES["base"].make(second))[1]
    np.testing.assert_allclose(found, cosines(items, first.embedder)[1], atol=1e-6)
    assert np.abs(np.array(found) - cosines(items, second.embedder)[1]).max() > 1e-3
    assert mistakes.MISTAKES["base"].make(first) is None, "from scratch"
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert mistakes.MISTAKES["base"].make(second) is None and "first is not a run directory" in caplog.text


def embeddings(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "embeddings").glob("*/*")}


@pytest.mark.slow
def test_one_command_tells_which_mistake_was_made(folder, tmp_path, capsys, monkeypatch):
    """The 'published' scores are those of transformers without padding, on the drawn Winoground."""
    benchmark, peer = winoground(folder), Peer(folder / "tiny-siglip")
    unpadded(peer)
    scores = benchmark.score(benchmark.items, [peer.cosines(item) for item in benchmark.items])
    metrics = [f"winoground/{score}" for score in ("text", "image", "group", "matching")]
    values = {metric: scores[metric].value for metric in metrics}
    siglip = published.Checkpoint("SigLIP", "", values, "elsewhere", shown=True)
    monkeypatch.setattr(published, "is_official", lambda name, rows: name == "winoground")
    monkeypatch.setattr(published, "ITEM_SETS", {"winoground": published.ItemSet(10)})
    monkeypatch.setattr(published, "CHECKPOINTS", {siglip.row: siglip})
    command = ["--models", f"SigLIP={folder / 'tiny-siglip'}", "--benchmarks", "winoground", "vg_relation"]
    command += ["--benchmarks_dir", str(folder), "--batch_size", "8"]
    monkeypatch.setattr(registry, "read", read_as_published)
    evaluate.main([*command, "--out", str(tmp_path / "alone")])
    evaluate.main([*command, "--out", str(tmp_path / "out"), "--mistakes", *MADE])

    text = (tmp_path / "out/mistakes/report.md").read_text()
    assert text in capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("Mean distance from SigLIP (elsewhere)"))
    assert line.split(": ")[1].startswith("unpadded 0.000, "), line
    assert "without a mistake 0.000" not in line
    assert "*base*: the weights that the run started from, in place of its own; cannot be made" in text

    # Nothing of it among scores, reports and stored embeddings.
    assert [(r.model, r.benchmark) for r in results.load(tmp_path / "out")] == [
        ("SigLIP", "vg_relation"),
        ("SigLIP", "winoground"),
    ]
    for name in ("report.md", "report.html", "report.tex", "scores.csv"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "alone" / name).read_text()
    assert embeddings(tmp_path / "out") == embeddings(tmp_path / "alone") != {}
    wrong = results.load(tmp_path / "out/mistakes/unpadded")
    assert {result.model for result in wrong} == {"SigLIP, mistake: unpadded"}

    monkeypatch.setattr(mistakes, "cosines", lambda *_: pytest.fail("a finished pair was embedded again"))
    evaluate.main([*command, "--out", str(tmp_path / "out"), "--mistakes", "unpadded"])


def read_as_published(*arguments, **options):
    """The twins, as if they were of the published number of items."""
    return [dataclasses.replace(b, published=len(b.items)) for b in READ(*arguments, **options)]


READ = registry.read
MADE = ("longest", "unpadded", "bgr", "transposed", "base")


def test_nearest_is_by_the_scores_in_common():
    def row(name: str, kind: str, *values: float) -> ModelRow:
        return ModelRow(name, kind, {f"m/{n}": Cell(value) for n, value in enumerate(values)})

    rows = [row("without a mistake", MEASURED, 0.33, 0.5), row("a", MISTAKE, 0.15, 0.4), row("b", MISTAKE, 0.14)]
    line = page.nearest(rows, row("SigLIP (poster)", PUBLISHED, 0.14, 0.46, 0.9))
    assert line == "Mean distance from SigLIP (poster) over 2 scores: a 0.035, without a mistake 0.115."


def test_command_line_errors(folder, tmp_path):
    with pytest.raises(UserError, match=r"--mistakes unpaded: unknown; expected all, or any of: unpadded, longest"):
        evaluate.main(["--models", "a=x", "--mistakes", "unpaded"])
    assert mistakes.parse(["all"]) == list(mistakes.MISTAKES)
    with pytest.raises(UserError, match="--mistakes is for models, not for --watch"):
        evaluate.main(["--watch", str(tmp_path), "--mistakes", "all"])
