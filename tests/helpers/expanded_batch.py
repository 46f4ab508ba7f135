"""Random batches as weighted graphs, and the losses of their expanded form in PyTorch, with one row per copy of an
image or caption and every cell computed."""

from typing import NamedTuple

import jax
import numpy as np
import torch
import torch.nn.functional as F

from naturel_jax.losses.batch import CaptionLabels, ImageLabels

torch.set_num_threads(1)


class Graph(NamedTuple):
    """Embeddings and labels of a batch, as float64 NumPy arrays."""

    zimg_ID: np.ndarray
    zcap_UD: np.ndarray
    images: ImageLabels
    captions: CaptionLabels

    def astype(self, dtype: str) -> "Graph":
        """The graph with its floats cast to ``dtype``."""

        def cast(x):
            return x.astype(dtype) if x.dtype.kind == "f" else x

        images, captions = jax.tree.map(cast, (self.images, self.captions))
        return Graph(cast(self.zimg_ID), cast(self.zcap_UD), images, captions)


def units(rng: np.random.Generator, rows: int, width: int = 8) -> np.ndarray:
    z = rng.standard_normal((rows, width))
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def random_graph(
    seed: int, *, images: int = 16, captions: int = 24, copies: int = 1, sampled: int = 2, sentinel: bool = True
) -> Graph:
    """A random batch with ``sampled`` (at most 4) positives and negatives per image and ``copies`` of each image.

    The last image is a sentinel; one image row and two caption rows are padding. There are few captions, so images
    share them, and a caption can be a positive of one image and a negative of another.
    """
    rng = np.random.default_rng(seed)
    used, real = captions - 2, images - 2 if sentinel else images - 1
    positives, negatives = np.full((images, 4), -1, np.int32), np.full((images, 4), -1, np.int32)
    shows = np.full((images, 3), -1, np.int32)
    asserts = np.full((captions, 2), -2, np.int32)
    asserts[:used, 0] = rng.integers(-1, 6, used) - (rng.random(used) < 0.2) * 10  # some captions assert nothing
    asserts[: used // 3, 1] = rng.integers(0, 6, used // 3)
    for i in range(real):
        ids = rng.choice(used, 2 * sampled, replace=False)
        positives[i, :sampled], negatives[i, :sampled] = ids[:sampled], ids[sampled:]
        if i % 3 == 0:
            positives[i, sampled - 1] = positives[i, 0]  # two pairs of one triplet may have the same words
        shows[i, : 1 + i % 3] = rng.choice(6, 1 + i % 3, replace=False)
    asserts[asserts < 0] = -2
    mult_I = np.zeros(images)
    mult_I[:real] = copies
    if sentinel:
        mult_I[real] = real * copies
    sampled_ids = np.concatenate([positives[:real].ravel(), negatives[:real].ravel()])
    mult_U = np.bincount(sampled_ids[sampled_ids >= 0], minlength=captions).astype(float)
    id_U = np.where(np.arange(captions) < used, np.arange(captions), -2).astype(np.int32)
    order = rng.permutation(captions)  # rows in any order, padding among them
    return Graph(
        units(rng, images),
        units(rng, captions),
        ImageLabels(mult_I, positives, negatives, shows),
        CaptionLabels(mult_U[order], id_U[order], asserts[order]),
    )


class Expanded(NamedTuple):
    """Rows of the expanded batch.

    ``image_N``, ``caption_M``: rows in the graph; ``positive_NM``: positive cells; ``others_NM``: weights of the cells
    that are not positive; ``kept_M``: whether the caption copy has a row in the text-to-image loss.
    """

    image_N: np.ndarray
    caption_M: np.ndarray
    positive_NM: np.ndarray
    others_NM: np.ndarray
    kept_M: np.ndarray


def matches(graph: Graph, i: int, u: int) -> bool:
    shown = set(graph.images.shows_IT[i].tolist()) - {-1}
    return (
        bool(shown & set(graph.captions.asserts_UA[u].tolist()))
        or graph.captions.id_U[u] in graph.images.positives_IK[i]
    )


def expand(graph: Graph, counting: str, hard_negative_weight: float) -> Expanded:
    row = {int(id_): u for u, id_ in enumerate(graph.captions.id_U) if id_ >= 0}
    image_N = [(i, copy) for i, mult in enumerate(graph.images.mult_I) for copy in range(int(mult))]
    caption_M = [  # one copy for each time a caption was sampled
        (row[int(id_)], i, slot, polarity)
        for polarity, ids_IK in enumerate((graph.images.negatives_IK, graph.images.positives_IK))
        for i, ids in enumerate(ids_IK)
        for slot, id_ in enumerate(ids)
        if id_ >= 0
    ]
    positive, others = np.zeros((len(image_N), len(caption_M))), np.ones((len(image_N), len(caption_M)))
    for n, (i, copy) in enumerate(image_N):
        for m, (u, anchor, slot, polarity) in enumerate(caption_M):
            own = polarity == 1 and anchor == i and (graph.images.mult_I[i] == 1 or slot == copy)
            match = matches(graph, i, u)
            positive[n, m] = match if counting == "match_positive" else own
            if counting == "match_ignore" and match:
                others[n, m] = 0
            elif graph.captions.id_U[u] in graph.images.negatives_IK[i]:
                others[n, m] = hard_negative_weight
    kept = np.array([polarity == 1 for *_, polarity in caption_M])
    if counting == "match_positive":
        kept = positive.any(axis=0)
    return Expanded(np.array([i for i, _ in image_N]), np.array([u for u, *_ in caption_M]), positive, others, kept)


def _cross_entropy(logits, positive, others, smoothing, separate):
    """Mean over rows; the target is spread evenly over the positives of a row."""
    if separate:  # each positive against the negatives only
        negatives = torch.logsumexp(logits + others.log(), 1, keepdim=True)
        cost = torch.logaddexp(negatives, logits) - logits
        return ((positive * cost).sum(1) / positive.sum(1)).mean()
    target = positive / positive.sum(1, keepdim=True)
    if smoothing:
        return F.cross_entropy(logits, target, label_smoothing=smoothing)
    return (target * (torch.logsumexp(logits + others.log(), 1, keepdim=True) - logits)).sum(1).mean()


def reference(
    graph: Graph,
    objective: str,
    scale: float,
    bias: float,
    *,
    counting: str = "published",
    hard_negative_weight: float = 1.0,
    label_smoothing: float = 0.0,
) -> tuple[float, list[np.ndarray]]:
    """The loss of the expanded batch in float64, and its gradients with respect to image and caption embeddings, scale
    and (sigmoid) bias."""
    rows = expand(graph, counting, hard_negative_weight)
    zimg, zcap, scale, bias = values = [
        torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in (graph.zimg_ID, graph.zcap_UD, scale, bias)
    ]
    logits = scale * zimg[rows.image_N] @ zcap[rows.caption_M].T
    positive, others = torch.from_numpy(rows.positive_NM), torch.from_numpy(rows.others_NM)
    if objective == "sigmoid":
        logits = logits + bias
        negative = (1 - positive) * others
        loss = -(positive * F.logsigmoid(logits) + negative * F.logsigmoid(-logits)).sum() / len(logits)
    else:
        separate = counting == "match_ignore"
        has_row = positive.any(1)
        by_image = logits[has_row], positive[has_row], others[has_row]
        by_text = logits.T[rows.kept_M], positive.T[rows.kept_M], others.T[rows.kept_M]
        loss = sum(_cross_entropy(*side, label_smoothing, separate) for side in (by_image, by_text)) / 2
        values = values[:3]
    return float(loss.detach()), [g.numpy() for g in torch.autograd.grad(loss, values)]
