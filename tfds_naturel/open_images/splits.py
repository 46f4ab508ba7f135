"""Assigns images to splits: near-duplicates stay together, and a share of the triplets is held out of training.

Shape letters: N images, U unique hashes, P pairs of them.
"""

import collections
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph

from tfds_naturel.captions.relations import converse
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import Triplet

SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
UNSEEN = "test_unseen_triplets"
HELD_OUT_TRIPLETS, HELD_OUT_IMAGES = 0.1, 0.05  # maximum shares

_BANDS = 4  # hashes that differ in fewer bits than there are bands agree in at least one band
_MOST_ALIKE = 10_000  # hashes that one agrees with in a band, on average; of a million photos, about 100 do


def near_duplicates(hashes: np.ndarray) -> np.ndarray:
    """Groups hashes (uint64 [N]) linked by at most 3 differing bits of 64; returns the lowest row in each one's group,
    int64 [N].

    Exact without comparing all pairs (multi-index hashing, Norouzi et al. 2012): two linked hashes agree in at least
    one of four 16-bit bands. Those that agree are compared; raises UserError if they are far more than of any photos.
    """
    unique, inverse = np.unique(hashes, return_inverse=True)
    bands = [(unique >> np.uint64(16 * band)) & np.uint64(0xFFFF) for band in range(_BANDS)]
    alike = sum(int(np.square(np.unique(band, return_counts=True)[1]).sum()) for band in bands)
    if alike > _MOST_ALIKE * len(unique):
        raise UserError(
            f"journal.csv of photos: of {len(unique):,} hashes each agrees with {alike // len(unique):,} in 16 bits; "
            f"expected at most {_MOST_ALIKE:,} of photos; delete the file, and they are computed again"
        )
    group_U, links, count = np.arange(len(unique)), list[np.ndarray](), 0
    for found in itertools.chain.from_iterable(_linked(unique, band) for band in bands):
        links.append(found)
        count += found.shape[1]
        if count > 4 * len(unique):  # in memory at a time: of hashes that all agree, there are thousands for each
            group_U, links, count = _joined(group_U, links), [], 0
    _, first, groups = np.unique(_joined(group_U, links)[inverse], return_index=True, return_inverse=True)
    return first[groups]


def _joined(group_U: np.ndarray, links: Sequence[np.ndarray]) -> np.ndarray:
    """The groups that are left of ``group_U`` where ``links``, pairs of rows [2, P], join them, [U]."""
    a, b = group_U[np.concatenate([np.zeros((2, 0), np.int64), *links], axis=1)]
    graph = sparse.coo_array((np.ones(len(a), bool), (a, b)), shape=(len(group_U), len(group_U)))
    return csgraph.connected_components(graph, directed=False)[1][group_U]


def _linked(hashes: np.ndarray, band: np.ndarray) -> Iterator[np.ndarray]:
    """Row pairs [2, P] that agree in their ``band`` and differ in fewer than ``_BANDS`` bits in total."""
    order = np.argsort(band, kind="stable")
    lower = np.arange(len(order))
    for offset in range(1, len(order)):
        lower = lower[lower + offset < len(order)]
        lower = lower[band[order[lower]] == band[order[lower + offset]]]
        if not len(lower):
            break
        a, b = order[lower], order[lower + offset]
        near = np.bitwise_count(hashes[a] ^ hashes[b]) < _BANDS
        yield np.stack([a[near], b[near]])


def hold_out(images: Mapping[Triplet, int], total: int, seed: int) -> frozenset[Triplet]:
    """Chooses the triplets held out of training, in an order that depends only on ``seed`` and the triplets.

    ``images``: number of images per triplet; ``total``: number of all images. At most 10% of the triplets and 5% of the
    images are held out. A triplet is held out together with its converse, and every class, attribute and relation
    remains in at least one training triplet.
    """
    left = collections.Counter(part for triplet in images for part in _parts(triplet))
    budget = HELD_OUT_IMAGES * total
    held: set[Triplet] = set()
    for triplet in sorted(images, key=lambda t: uniform(seed, str(t))):
        family = {t for t in (triplet, converse(triplet)) if t and t in images} - held
        parts = collections.Counter(part for t in family for part in _parts(t))
        cost = sum(images[t] for t in family)
        fits = len(held) + len(family) <= HELD_OUT_TRIPLETS * len(images) and cost <= budget
        if family and fits and all(left[part] > number for part, number in parts.items()):
            held |= family
            left -= parts
            budget -= cost
    return frozenset(held)


def _parts(triplet: Triplet) -> Iterable[tuple[str, str]]:
    yield "class", triplet.subject
    yield "relation", triplet.relation
    yield "attribute" if triplet.relation == "is" else "class", triplet.object


def split_of(seed: int, group: str) -> str:
    """The split of a group of near-duplicates, from its name and the seed alone, so new images never move old ones."""
    position = uniform(seed, group)
    for split, share in SHARES.items():
        position -= share
        if position < 0:
            return split
    return list(SHARES)[-1]  # rounding errors can leave position at 0 or slightly above


def uniform(seed: int, text: str) -> float:
    """A number in [0, 1) that depends only on ``seed`` and ``text``."""
    digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
