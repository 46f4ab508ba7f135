"""Evaluation mistakes, made on purpose and labelled as such: if a score differs from the published one, the mistake
that gives the same number explains it.

Their embeddings and results are never stored with those of the correct evaluation.

Shape letters: I images, U captions, L tokens, D embedding.
"""

import dataclasses
import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tokenizers

from naturel_jax import weights
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Outcomes
from naturel_jax.data.text.processor import Processor
from naturel_jax.data.text.tokenizer import padded
from naturel_jax.devices.sharding import make_mesh, param_sharding
from naturel_jax.evaluators import fingerprints, results, scoring
from naturel_jax.evaluators.embed import Embedder, Encoder, Sides, cosines
from naturel_jax.models.families import FAMILIES, family_of
from naturel_jax.weights import processor_files, runs
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common.errors import UserError

_LOG = logging.getLogger(__name__)

FOLDER = "mistakes"  # below ``--out``; a report reads no results from it


class Right(NamedTuple):
    """A correctly evaluated model, from which a mistake starts.

    ``embedder`` may store embeddings. ``encoder`` makes an encoder for anything else, which stores none.
    """

    source: str
    loaded: Loaded
    embedder: Embedder
    encoder: Callable[[Loaded], Encoder]

    def embed(self, loaded: Loaded) -> Embedder:
        """Embeds with another model, or other preprocessing."""
        return self.encoder(loaded).with_params(loaded.params)


Make = Callable[[Right], Embedder | None]


class Mistake(NamedTuple):
    """``what``: what goes wrong. ``make``: gives the embedder that makes the mistake, or None for a model with which it
    cannot be made. ``rule``: gives the benchmark with another rule, or None if its items do not allow it."""

    what: str
    make: Make = lambda right: right.embedder
    rule: Callable[[Benchmark], Benchmark | None] = lambda benchmark: benchmark


# ---- Texts -----------------------------------------------------------------------------------------------------------


def _uncleaned(loaded: Loaded) -> dict[str, Any]:
    processor = loaded.processor
    if processor.sentencepiece:
        return {"clean": "none"}
    state = json.loads(processor.tokenizer)
    normalizer = _without_cleaning(state["normalizer"])
    if normalizer == state["normalizer"]:
        return {"clean": "none"}
    return {"clean": "none", "tokenizer": json.dumps(state | {"normalizer": normalizer})}


def _without_cleaning(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    """A tokenizer's normalizer, as JSON, without the steps that lower-case or remove characters."""
    if normalizer is None or normalizer["type"] == "Lowercase" or normalizer.get("content") == "":
        return None
    if normalizer["type"] != "Sequence":
        return normalizer
    steps = [step for part in normalizer["normalizers"] if (step := _without_cleaning(part))]
    return normalizer | {"normalizers": steps}


def _embed_short(right: Right, longest: bool, texts: Sequence[str]) -> np.ndarray:
    """Embeddings [U, D] of a tower that pools at the last position, without padding texts to its context: each keeps
    its own length, or all are padded to the longest."""
    if not texts:
        return right.embedder.captions(texts)
    lengths_U = token_counts(right.loaded, texts)
    if longest:
        lengths_U = np.full(len(texts), lengths_U.max())
    ztxt_UD = np.zeros((len(texts), right.loaded.config.embed_dim), np.float32)
    for length in np.unique(lengths_U):
        which = np.flatnonzero(lengths_U == length)
        embedder = right.embed(_shortened(right.loaded, int(length)))
        ztxt_UD[which] = embedder.captions([texts[n] for n in which.tolist()])
    return ztxt_UD


def token_counts(loaded: Loaded, texts: Sequence[str]) -> np.ndarray:
    """The number of tokens of each text [U], up to and including its end token."""
    ids = processor_files.special_ids(loaded.processor, family_of(loaded.config))
    tokens_UL = loaded.processor.tokenize(texts)
    context, real_UL = tokens_UL.shape[1], tokens_UL != ids["pad_token_id"]
    counts_U = np.where(real_UL.any(axis=1), context - np.argmax(real_UL[:, ::-1], axis=1), 0)
    return np.minimum(counts_U + (ids["pad_token_id"] == ids["eos_token_id"]), context)


def _shortened(loaded: Loaded, context: int) -> Loaded:
    """The model with a shorter context: the first position embeddings, and texts padded to no more."""
    config, params, processor = loaded
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, context=context))
    text = params["text"] | {"position": params["text"]["position"][:context]}
    tokenizer = processor.tokenizer
    if not processor.sentencepiece:
        read = tokenizers.Tokenizer.from_str(tokenizer)
        padding = read.padding or {}
        tokenizer = padded(read, context, padding["pad_token"], padding["direction"]).to_str()
    return Loaded(config, params | {"text": text}, dataclasses.replace(processor, context=context, tokenizer=tokenizer))


def _short_texts(longest: bool) -> Make:
    """Cannot be made with a causal tower: nothing in it depends on what follows the end token."""

    def make(right: Right) -> Embedder | None:
        if right.loaded.config.text.causal:
            return None
        return Sides(right.embedder.images, functools.partial(_embed_short, right, longest))

    return make


# ---- Images ----------------------------------------------------------------------------------------------------------


def _other(field: str, *choices: str) -> Callable[[Loaded], dict[str, Any]]:
    return lambda loaded: {field: next(c for c in choices if c != getattr(loaded.processor, field))}


def _other_statistics(loaded: Loaded) -> dict[str, Any]:
    family = family_of(loaded.config)
    pixels = next(other for other in FAMILIES.values() if other != family).pixels
    return {"mean": pixels["mean"], "std": pixels["std"]}


def _bgr(right: Right) -> Embedder:
    """Swaps red and blue in the statistics and the patch kernel, which has the same effect as swapped pixels."""
    config, params, processor = right.loaded
    patch = params["image"]["patch"]
    inputs, width = patch["kernel"].shape
    kernel = patch["kernel"].reshape(inputs // 3, 3, width)[:, ::-1].reshape(inputs, width)
    image = params["image"] | {"patch": patch | {"kernel": kernel}}
    processor = dataclasses.replace(processor, mean=processor.mean[::-1], std=processor.std[::-1])
    swapped = right.embed(Loaded(config, params | {"image": image}, processor))
    return Sides(swapped.images, right.embedder.captions)


def _preprocessing(side: Literal["images", "captions"], change: Callable[[Loaded], dict[str, Any]]) -> Make:
    """Changes fields of the processor. Cannot be made if the model already has these values."""

    def make(right: Right) -> Embedder | None:
        processor: Processor = dataclasses.replace(right.loaded.processor, **change(right.loaded))
        if processor == right.loaded.processor:
            return None
        wrong = right.embed(right.loaded._replace(processor=processor))
        if side == "images":
            return Sides(wrong.images, right.embedder.captions)
        return Sides(right.embedder.images, wrong.captions)

    return make


# ---- The model, and the rule -----------------------------------------------------------------------------------------


def _other_activation(right: Right) -> Embedder:
    others = {"quick_gelu": "gelu", "gelu": "quick_gelu", "gelu_tanh": "gelu"}
    config = right.loaded.config
    for name in ("image", "text"):
        tower = getattr(config, name)
        transformer = dataclasses.replace(tower.transformer, activation=others[tower.transformer.activation])
        config = dataclasses.replace(config, **{name: dataclasses.replace(tower, transformer=transformer)})
    return right.embed(right.loaded._replace(config=config))


def _base(right: Right) -> Embedder | None:
    workdir = right.source.removeprefix("run:")
    if workdir == right.source or not (base := runs.base(workdir)):
        return None
    try:
        loaded = weights.load(base, sharding_for=param_sharding(make_mesh({"data": -1})))
    except (UserError, OSError) as error:  # removed since, or no network: the other mistakes do not need it
        _LOG.warning("the base of %s cannot be read: %s", workdir, error)
        return None
    return right.embed(loaded)


def _unnormalized(right: Right) -> Embedder:
    """Embeddings keep the length that the towers give them."""
    encoder, params = right.encoder(right.loaded), right.loaded.params

    def images(images: Sequence[Image]) -> tuple[np.ndarray, dict[int, str]]:
        zimg_ID, faults = right.embedder.images(images)
        return zimg_ID * encoder.image_norms(params, images)[:, None], faults

    def captions(texts: Sequence[str]) -> np.ndarray:
        ztxt_UD = right.embedder.captions(texts)
        return ztxt_UD * encoder.text_norms(params, texts)[:, None] if texts else ztxt_UD

    return Sides(images, captions)


def _transposed(benchmark: Benchmark) -> Benchmark | None:
    if any(len(item.images) < 2 or len(item.images) != len(item.captions) for item in benchmark.items):
        return None

    def outcomes(items: Sequence[Item], matrices: Sequence[np.ndarray]) -> Outcomes:
        return benchmark.outcomes(items, [matrix.T for matrix in matrices])

    return dataclasses.replace(benchmark, outcomes=outcomes)


MISTAKES = {
    "unpadded": Mistake("each text is as long as it is, not padded to the context", _short_texts(longest=False)),
    "longest": Mistake("texts are padded to the longest of the benchmark, not to the context", _short_texts(True)),
    "uncleaned": Mistake(
        "texts are not lower-cased, and keep their punctuation", _preprocessing("captions", _uncleaned)
    ),
    "resize": Mistake(
        "images are cropped where both sides should be resized, or the reverse",
        _preprocessing("images", _other("resize", "square", "short")),
    ),
    "interpolation": Mistake(
        "images are resized bilinearly where bicubic is right, or the reverse",
        _preprocessing("images", _other("interpolation", "bilinear", "bicubic")),
    ),
    "statistics": Mistake(
        "pixels have the mean and standard deviation of the other family, CLIP or SigLIP",
        _preprocessing("images", _other_statistics),
    ),
    "unscaled": Mistake(
        "pixels from 0 to 1, without mean and standard deviation",
        _preprocessing("images", lambda loaded: {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}),
    ),
    "bgr": Mistake("red and blue are exchanged", _bgr),
    "activation": Mistake("GELU in place of QuickGELU or its tanh form, QuickGELU in place of GELU", _other_activation),
    "unnormalized": Mistake("dot products of embeddings that are not normalized, in place of cosines", _unnormalized),
    "transposed": Mistake("images and captions are exchanged in the scores' matrix", rule=_transposed),
    "base": Mistake("the weights that the run started from, in place of its own", _base),
}


def parse(names: Sequence[str]) -> list[str]:
    """The mistakes called ``names``; ``all`` means every one. Raises UserError for an unknown name."""
    if unknown := [name for name in names if name not in (*MISTAKES, "all")]:
        raise UserError(f"--mistakes {' '.join(unknown)}: unknown; expected all, or any of: {', '.join(MISTAKES)}")
    return list(MISTAKES) if "all" in names else list(dict.fromkeys(names))


def evaluate(
    name: str, model: str, right: Right, fingerprint: str, benchmarks: Sequence[Benchmark], out: Path
) -> list[results.Result] | None:
    """The results of ``model`` on ``benchmarks`` with the mistake ``name``, each also saved to the mistake's folder
    below ``out`` once ready; None if it cannot be made. ``fingerprint``: the model's, without a mistake."""
    mistake = MISTAKES[name]
    folder, label = out / FOLDER / name, f"{model}, mistake: {name}"
    embedder = functools.cache(lambda: mistake.make(right))
    found = []
    for benchmark in benchmarks:
        if (wrong := mistake.rule(benchmark)) is None:
            continue
        # A blind baseline reads captions as they are: no mistake changes it.
        wrong = dataclasses.replace(wrong, true_captions=0)
        pair = fingerprints.of_pair(f"{fingerprint}, mistake: {name}", wrong)
        done = results.finished(folder, label, wrong.name, pair)
        if done is None:
            if (made := embedder()) is None:
                return None
            done = scoring.save(folder, label, wrong, pair, cosines(wrong.whole.items, made), {})
        found.append(done)
    return found or None
