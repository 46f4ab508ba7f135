"""Captions in mining: those that images are near to, and mined negative captions, which are true of other images.

Shape letters: N images, B images of a block, T triplets, C captions of all of them, K results, D embedding.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfds_naturel.captions.relations import RELATIONS
from tfds_naturel.common.schema import Triplet
from tfds_naturel.hard_images import mining
from tfds_naturel.hard_images.survey import Survey

_SPARE = 64  # images more than are asked for, since copies of an image are left out, and products are rounded


def queries(survey: Survey, zimg_ND: mining.Embeddings, z_TD: np.ndarray, count: int) -> mining.Queries:
    """The images nearest to each triplet's caption, of all that do not show the triplet: at least ``count``, if there
    are as many, and some more, since ``mining.mine`` leaves out copies. ``z_TD``: unit embeddings of the captions."""
    implied = [mining.may_hold(t, [u]) for t in survey.triplets for u in survey.triplets]
    implied_TT = np.array(implied, bool).reshape(len(z_TD), len(z_TD))
    near_TK = np.full((len(z_TD), count + _SPARE), -1)
    best_TK = np.full(near_TK.shape, -np.inf, np.float32)
    for start in range(0, len(survey.image_ids), mining.ROWS):
        block = np.arange(start, min(start + mining.ROWS, len(survey.image_ids)))
        z_BD = zimg_ND[block]
        cosines_TB = z_TD @ z_BD.T
        cosines_TB[:, ~z_BD.any(axis=1)] = -np.inf  # without an embedding
        for b, n in enumerate(block.tolist()):
            shown = survey.shown[survey.first_N1[n] : survey.first_N1[n + 1]]
            cosines_TB[implied_TT[:, shown].any(axis=1), b] = -np.inf
        both = np.concatenate([best_TK, cosines_TB], axis=1)
        numbers = np.concatenate([near_TK, np.broadcast_to(block, cosines_TB.shape)], axis=1)
        kept = np.argpartition(-both, near_TK.shape[1] - 1, axis=1)[:, : near_TK.shape[1]]
        best_TK, near_TK = np.take_along_axis(both, kept, axis=1), np.take_along_axis(numbers, kept, axis=1)
    return mining.Queries(z_TD, np.sort(np.where(best_TK == -np.inf, -1, near_TK)))


class Foil(NamedTuple):
    """A true caption of an image, and the nearest caption that contradicts it; the facts that they assert."""

    caption: str
    fact: Triplet
    foil: str
    claim: Triplet


class Foils:
    """Finds negative captions among the true ones of other images: those of the same classes in another relation or
    with swapped roles, or of the same class with a contrary attribute."""

    def __init__(self, survey: Survey, captions: Sequence[Sequence[str]], z_CD: np.ndarray):
        """``captions`` of each triplet, and the unit embeddings [C, D] of all of them, one after the other."""
        self._survey, self._captions = survey, captions
        self._z = np.split(z_CD, np.cumsum([len(texts) for texts in captions], dtype=int)[:-1])
        self._kinds = [mining.kinds_of(triplet, survey.triplets) for triplet in survey.triplets]
        self._nearest = functools.cache(self._find)

    def of(self, n: int) -> list[Foil]:
        """The nearest foil of each true caption of image ``n`` that has any. None of them is true of the image, as far
        as annotations say, or has the words of one that is."""
        shown = self._survey.shown[self._survey.first_N1[n] : self._survey.first_N1[n + 1]].tolist()
        facts, foils = self._survey.triplets_of(n), list[Foil]()
        said = {_words(text) for t in shown for text in self._captions[t]}
        for t in shown:
            others = [u for numbers in self._kinds[t].values() for u in numbers]
            others = [u for u in others if not _may_be_true(self._survey.triplets[u], facts)]
            false = [(u, c) for u in others for c, text in enumerate(self._captions[u]) if _words(text) not in said]
            foils += self._nearest(t, tuple(false)) if false else []
        return foils

    def _find(self, t: int, false: Sequence[tuple[int, int]]) -> list[Foil]:
        """For each caption of triplet ``t`` the nearest of ``false``, numbers of a triplet and of a caption of it."""
        cosines = self._z[t] @ np.array([self._z[u][c] for u, c in false]).T
        facts, chosen = self._survey.triplets, [false[k] for k in cosines.argmax(axis=1)]
        pairs = zip(self._captions[t], chosen, strict=True)
        return [Foil(text, facts[t], self._captions[u][c], facts[u]) for text, (u, c) in pairs]


def _may_be_true(triplet: Triplet, shown: Iterable[Triplet]) -> bool:
    """``may_hold`` for the words: with a loosely symmetric relation, they may also say it the other way round."""
    subject, relation, object_ = triplet
    mutual = RELATIONS[relation].mutual if relation in RELATIONS else False
    return mining.may_hold(triplet, shown) or (mutual and mining.may_hold(Triplet(object_, relation, subject), shown))


def _words(text: str) -> str:
    return text.casefold().rstrip(".")
