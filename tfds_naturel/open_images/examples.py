"""Builds NatuRel examples from planned Open Images photos: re-encoded photo, boxes, relations and captions."""

import concurrent.futures
import dataclasses
import functools
import itertools
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfds_naturel.captions import bank, checks, decisions, exchanges, grammar
from tfds_naturel.captions.relations import converse
from tfds_naturel.common import photos
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import BadPhoto
from tfds_naturel.common.schema import Caption, Exchange, Triplet, numbered
from tfds_naturel.open_images.annotations import AnnotatedImage
from tfds_naturel.open_images.attribution import Attribution
from tfds_naturel.open_images.plan import OpenImagesConfig, Plan, options

_MAX_ATTEMPTS = 20  # most times that the grammar rewrites a pair that reviewers rejected
_BATCH = 256  # photos re-encoded by the threads at once, and so held in memory


def examples(plan: Plan, split: str, prefix: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, example) of one bucket of a split, in image id order.

    Raises UserError for a photo that was damaged after it was checked.
    """
    writer = _writer(plan.config, tuple(options(plan.config).values()))
    images, exchanged = plan.bucket(split, prefix), plan.exchanges(prefix)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        while batch := list(itertools.islice(images, _BATCH)):
            encoded = pool.map(functools.partial(_photo, plan), (image.image_id for image, _ in batch))
            for (image, attribution), data in zip(batch, encoded, strict=True):
                found = exchanged.get(image.image_id, [])
                yield image.image_id, _example(image, attribution, data, writer, found)


def _photo(plan: Plan, image_id: str) -> bytes:
    path = plan.images / f"{image_id}.jpg"
    try:
        return photos.reencode(path.read_bytes(), plan.config.short_side, plan.config.quality)
    except BadPhoto as error:
        raise UserError(f"{path}: {error}; it was intact when the build started; fetch it again") from error


def _example(
    image: AnnotatedImage,
    attribution: Attribution | None,
    data: bytes,
    writer: "Writer",
    exchanged: Sequence[Exchange],
) -> dict[str, Any]:
    triplets = image.triplets
    captions = numbered(writer.captions(triplet, triplets) for triplet in triplets)
    for group, exchange in enumerate(exchanged, len(triplets)):
        captions += exchanges.rows(exchange, group)
    from tensorflow_datasets.core.features import BBox  # slow to import, and only builders need it

    return {
        "image": data,
        "image_id": image.image_id,
        **(attribution or Attribution("", "", ""))._asdict(),
        "objects": [{"label": label, "box": BBox(**box._asdict())} for label, box in image.objects],
        "relations": [
            triplet._asdict() | {"subject_index": subject, "object_index": object_}
            for triplet, subject, object_ in image.relations
        ],
        "captions": captions,
    }


class Writer:
    """Captions of a triplet, from the bank or else the grammar, the same for every image that shows it.

    A paraphrase with a caption that a reviewer ``rejected`` is left out. The grammar rewrites pairs that have no other,
    and its own if they fail ``checks``. For a single image, it also rewrites pairs whose negative claims another
    annotation of that image. What it writes has one wording.
    """

    def __init__(
        self, captions: Mapping[Triplet, tuple[Caption, ...]], rejected: frozenset[tuple[Triplet, str]], seed: int
    ):
        self._bank, self._rejected, self._seed = captions, rejected, seed
        self._common: dict[Triplet, tuple[Caption, ...]] = {}

    def captions(self, triplet: Triplet, shown: tuple[Triplet, ...]) -> tuple[Caption, ...]:
        """The captions of ``triplet`` for an image that shows ``shown``, in the order of ``bank.load``."""
        if triplet not in self._common:
            written = bank.captions_for(triplet, self._bank, self._rng(triplet, 0))
            written, refused = self._accepted(written)
            if triplet not in self._bank:
                refused |= _faults(written, None).keys()
            self._common[triplet] = self._rewritten(triplet, written, refused, None)
        common = self._common[triplet]
        not_false = {c.pair for c in common if c.polarity == "negative" and c.asserts and _is_shown(c.asserts, shown)}
        return self._rewritten(triplet, common, not_false, functools.partial(_is_shown, shown=shown))

    def _accepted(self, captions: tuple[Caption, ...]) -> tuple[tuple[Caption, ...], set[int]]:
        """``captions`` without rejected paraphrases, the rest numbered from 0; and the pairs with no accepted
        paraphrase, which keep paraphrase 0."""
        rejected = {(c.pair, c.paraphrase) for c in captions if (c.triplet, c.text) in self._rejected}
        kept: dict[int, list[int]] = {c.pair: [] for c in captions}
        for c in captions[::2]:
            if (c.pair, c.paraphrase) not in rejected:
                kept[c.pair].append(c.paraphrase)
        refused = {pair for pair, paraphrases in kept.items() if not paraphrases}
        kept |= {pair: [0] for pair in refused}
        left = [c for c in captions if c.paraphrase in kept[c.pair]]
        renumbered = (dataclasses.replace(c, paraphrase=kept[c.pair].index(c.paraphrase)) for c in left)
        return tuple(sorted(renumbered, key=lambda c: (c.paraphrase, c.pair))), refused

    def _rewritten(
        self, triplet: Triplet, captions: tuple[Caption, ...], pairs: set[int], is_true: grammar.Truth | None
    ) -> tuple[Caption, ...]:
        """``captions`` with their ``pairs`` rewritten by the grammar, so that they pass the checks and no reviewer
        rejected the text.
        """
        faults: dict[int, str] = {}
        for attempt in range(_MAX_ATTEMPTS):
            if not pairs:
                return captions
            fresh = grammar.write(triplet, self._rng(triplet, attempt), is_true)
            faults = _faults(fresh, is_true)
            accepted = pairs - self._accepted(fresh)[1] - faults.keys()
            fixed = (
                new if new.pair in accepted else old for old, new in zip(captions[: bank.FIXED], fresh, strict=True)
            )
            captions = (*fixed, *(c for c in captions[bank.FIXED :] if c.pair not in accepted))
            pairs = pairs - accepted
        why = next((faults[pair] for pair in sorted(pairs) if pair in faults), "reviewers rejected the text")
        raise UserError(
            f"{triplet}: pair {min(pairs)} was written in {_MAX_ATTEMPTS} ways, and all were refused ({why}); add the "
            "triplet to the caption bank, or accept one of them in the decisions"
        )

    def _rng(self, triplet: Triplet, attempt: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, zlib.crc32(str(triplet).encode()), attempt])


@functools.cache
def _writer(config: OpenImagesConfig, contents: tuple) -> Writer:
    del contents  # part of the cache key, since the caption files may change without being renamed
    return Writer(bank.load(config.bank, config.release), decisions.rejected(config.decisions), config.seed)


def _faults(captions: tuple[Caption, ...], is_true: grammar.Truth | None) -> dict[int, str]:
    """Pair -> the caption that fails the checks and why. With ``is_true``, negatives are false of one image only, so
    the meaning of their words is not checked.
    """
    found = (*checks.texts(captions), *(checks.pairs(captions) if is_true is None else ()))
    return {caption.pair: f"{caption.text!r} {problem}" for caption, problem in found}


def _is_shown(claim: Triplet, shown: tuple[Triplet, ...]) -> bool:
    return claim in shown or converse(claim) in shown
