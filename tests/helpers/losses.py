"""Helpers for testing losses: fast compilation, gradients with respect to all inputs, comparison with a reference."""

import functools

import jax
import numpy as np

from naturel_jax.losses.batch import CaptionLabels
from naturel_jax.losses.objectives import sigmoid_loss, softmax_loss
from naturel_jax.losses.tiles import Layout
from tests.helpers.expanded_batch import Graph

# Compiles four times as fast, with the same results. From 0.12 on, jaxlib has only the newer emitters.
OLD_EMITTERS = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 12) else {}
QUICK = {"xla_backend_optimization_level": 0, **OLD_EMITTERS}
TOLERANCE = {"float64": 1e-9, "float32": 1e-5}
SCALE, BIAS = 12.0, -4.0
RECIPES = {"two_pairs": {"copies": 1, "sampled": 2, "sentinel": False}, "all_pairs": {"copies": 4, "sampled": 4}}


@functools.cache
def compiled(objective: str, counting="published", hard=1.0, smoothing=0.0, layout=Layout(tile=7)):  # noqa: B008
    """Jitted loss and its gradients to embeddings, scale and (sigmoid) bias. 24 captions are four tiles of 6."""

    def loss(zimg_ID, zcap_UD, scale, bias, images, captions):
        options = {"counting": counting, "hard_negative_weight": hard, "layout": layout}
        if objective == "sigmoid":
            return sigmoid_loss(zimg_ID, zcap_UD, scale, bias, images, captions, **options)
        return softmax_loss(zimg_ID, zcap_UD, scale, images, captions, label_smoothing=smoothing, **options)

    argnums = (0, 1, 2, 3) if objective == "sigmoid" else (0, 1, 2)
    return jax.jit(jax.value_and_grad(loss, argnums=argnums), compiler_options=QUICK)


def run(step, graph: Graph):
    dtype = graph.images.mult_I.dtype
    scalars = dtype.type(SCALE), dtype.type(BIAS)
    return jax.device_get(step(graph.zimg_ID, graph.zcap_UD, *scalars, graph.images, graph.captions))


def assert_equal(ours, theirs, tolerance):
    """Compares loss and gradients, each relative to its norm; scalar gradients, which cancel, at least to the loss."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=tolerance)
    for actual, expected in zip(ours[1], theirs[1], strict=True):
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        size = np.linalg.norm(expected) if expected.ndim else max(abs(expected), abs(theirs[0]) / SCALE)
        assert np.linalg.norm(actual - expected) <= tolerance * size


def take(graph: Graph, image_rows, caption_rows) -> Graph:
    images = jax.tree.map(lambda x: x[image_rows], graph.images)
    captions = CaptionLabels(*(x[caption_rows] for x in graph.captions))
    return Graph(graph.zimg_ID[image_rows], graph.zcap_UD[caption_rows], images, captions)
