"""The terms of the objective against the expanded batch in PyTorch, published code, and 8 devices."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from naturel_jax import config as c
from naturel_jax.configs import clic
from naturel_jax.devices.sharding import BATCH_AXES, batch_sharding, make_mesh
from naturel_jax.losses.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.losses.terms import TERMS
from naturel_jax.losses.terms.term import Embedded, Term
from naturel_jax.losses.tiles import Layout
from naturel_jax.models.presets import preset
from naturel_jax.models.two_tower import Model
from naturel_jax.training.loss import Loss
from tests.helpers.expanded_batch import Graph, matches, random_graph, units
from tests.helpers.losses import BIAS, QUICK, RECIPES, SCALE, assert_equal
from tfds_naturel.common.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "terms.json").read_text())


def sparse_graph() -> Graph:
    """A small random batch; image 1 lacks foils and image 2 has one positive, where the recipe samples more."""
    graph = random_graph(0, images=8, captions=20, **RECIPES["all_pairs"])
    graph.images.negatives_IK[1] = -1
    graph.images.negatives_IK[2, 1:] = -1
    graph.images.positives_IK[2, 1:] = -1
    return with_exchanged(graph)


def with_exchanged(graph: Graph) -> Graph:
    """The graph with some hard images that have exchanged captions."""
    return graph._replace(images=graph.images._replace(exchanged_I=np.isin(np.arange(len(graph.zimg_ID)), (0, 2, 5))))


def base_of(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return units(rng, len(graph.zimg_ID)), units(rng, len(graph.zcap_UD))


def evaluate(term: Term, graph: Graph, base=None, layout=None):
    """The value of the term, and its gradients to embeddings, scale and bias."""

    def value(zimg_ID, zcap_UD, scale, bias, images, captions, base):
        return term(Embedded(zimg_ID, zcap_UD, scale, bias, images, captions, layout or Layout(tile=7), base))

    step = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2, 3)), compiler_options=QUICK)
    scalars = (graph.images.mult_I.dtype.type(x) for x in (SCALE, BIAS))
    return jax.device_get(step(graph.zimg_ID, graph.zcap_UD, *scalars, graph.images, graph.captions, base))


# ---- The expanded batch, with a loop over the copies of each image ---------------------------------------------------


class Copy:
    """A copy of an image: its number, and the rows of the captions sampled for the image."""

    def __init__(self, graph: Graph, i: int):
        row = {int(id_): u for u, id_ in enumerate(graph.captions.id_U) if id_ >= 0}
        self.i = i
        self.positives = [row[int(x)] for x in graph.images.positives_IK[i] if x >= 0]
        self.negatives = [row[int(x)] for x in graph.images.negatives_IK[i] if x >= 0]


def copies(graph: Graph) -> list[Copy]:
    return [Copy(graph, i) for i, mult in enumerate(graph.images.mult_I) for _ in range(int(mult))]


def own_foils(graph, zimg, zcap, scale, bias, base, *, form="softmax", gamma=2.0, smoothing=0.02, missing="", **rest):
    rows = [copy for copy in copies(graph) if copy.positives and copy.negatives]
    logits = [
        (scale * zimg[row.i] @ zcap[row.positives].T, scale * zimg[row.i] @ zcap[row.negatives].T) for row in rows
    ]
    gap = torch.stack([positive.mean() - foils.mean() for positive, foils in logits]).mean().detach()
    margin = {"hinge": rest.get("margin", 2.0), "adaptive_hinge": gap.clamp(0, rest.get("margin_limit", 10.0))}
    costs = []
    for positives, foils in logits:
        for positive in positives:
            classes = torch.cat([positive[None], foils])
            if form == "focal":
                empty = graph.images.negatives_IK.shape[1] - len(foils) if missing == "zero_logit" else 0
                log_p = F.log_softmax(torch.cat([classes, torch.zeros(empty)]), 0)[: len(classes)]
                target = torch.full_like(log_p, smoothing / len(classes))
                target[0] += 1 - smoothing
                cost = (target * (1 - log_p.exp()) ** gamma * -log_p).sum()
            elif form == "sigmoid":
                cost = F.softplus(-positive - bias) + F.softplus(foils + bias).sum()
            elif form == "softmax":
                cost = F.cross_entropy(classes[None], torch.tensor([0]))
            else:
                cost = F.relu(margin[form] + foils - positive).mean()
            costs.append(cost / len(positives))
    return sum(costs) / len(rows)


def text_contrast(graph, zimg, zcap, scale, bias, base, *, counting="published"):
    columns = [copy for copy in copies(graph) if copy.positives]
    costs = []
    for row in columns:
        for further in row.positives[1:]:
            logits = scale * zcap[further] @ zcap[[column.positives[0] for column in columns]].T
            own = logits[next(n for n, column in enumerate(columns) if column.i == row.i)]
            false = [not matches(graph, row.i, column.positives[0]) for column in columns]
            kept = torch.cat([own[None], logits[false]]) if counting == "match_ignore" else logits
            costs.append((torch.logsumexp(kept, 0) - own) / (len(row.positives) - 1))
    return sum(costs) / sum(len(row.positives) > 1 for row in columns)


def text_distance(graph, zimg, zcap, scale, bias, base, *, further=None):
    rows = [copy.positives[: 1 + (further or 9)] for copy in copies(graph) if len(copy.positives) > 1]
    return sum(((zcap[row[:1]] - zcap[row[1:]]) ** 2).sum(1).mean() for row in rows) / len(rows)


def base_distance(graph, zimg, zcap, scale, bias, base, *, mse=1.0, cosine=0.0, similarity=0.0, distillation=0.0):
    image_N = np.repeat(np.arange(len(zimg)), graph.images.mult_I.astype(int))
    caption_M = np.repeat(np.arange(len(zcap)), graph.captions.mult_U.astype(int))
    base_zimg, base_zcap = (torch.tensor(np.asarray(z, float)) for z in base)  # torch 2.7 mixes no dtypes in a gradient
    pairs = [(zimg[image_N], base_zimg[image_N]), (zcap[caption_M], base_zcap[caption_M])]
    value = sum(mse * F.mse_loss(*pair) + cosine * (1 - (pair[0] * pair[1]).sum(1)).mean() for pair in pairs)
    (image, base_image), (caption, base_caption) = pairs
    cosines, of_base = image @ caption.T, base_image @ base_caption.T

    def divergence(base, now):
        logs = (F.log_softmax(scale.item() * x / 2, 1) for x in (now, base))
        return 4 * F.kl_div(*logs, log_target=True, reduction="batchmean")

    both = divergence(of_base, cosines) + divergence(of_base.T, cosines.T)
    return value + similarity * F.mse_loss(cosines, of_base) + distillation * both


def further_positives(graph, zimg, zcap, scale, bias, base, *, form="softmax", counting="published"):
    images = [copy for copy in copies(graph) if copy.positives]
    costs = []
    for k in range(1, graph.images.positives_IK.shape[1]):
        units = [copy for copy in images if len(copy.positives) > k]
        for own in units:
            unit, foil = own.positives[k], own.negatives[k : k + 1]

            def kept(i, copy, own=own, k=k):  # whether the unit of ``copy`` is a class for the image ``i``
                is_own = copy.i == i
                return is_own or counting == "published" or not matches(graph, i, copy.positives[k])

            logit = scale * zimg[own.i] @ zcap[unit]
            if form == "softmax":
                texts = [other.positives[k] for other in units if kept(own.i, other)] + foil
                pictures = [other.i for other in images if kept(other.i, own)]
                to_texts = torch.logsumexp(scale * zimg[own.i] @ zcap[texts].T, 0)
                costs.append((to_texts + torch.logsumexp(scale * zimg[pictures] @ zcap[unit], 0)) / 2 - logit)
            else:
                signs = torch.tensor([1.0 if other.i == own.i else -1.0 for other in images if kept(other.i, own)])
                pictures = [other.i for other in images if kept(other.i, own)]
                costs.append(F.softplus(-signs * (scale * zimg[pictures] @ zcap[unit] + bias)).sum())
    return sum(costs) / len(costs)


def exchanged_images(graph, zimg, zcap, scale, bias, base, *, form="both", counting="published"):
    hard = [copy for copy in copies(graph) if graph.images.exchanged_I[copy.i]]
    captions = [u for u, mult in enumerate(graph.captions.mult_U) for _ in range(int(mult))]
    to_texts, to_images = [], []
    for copy in hard:
        for own in copy.positives:
            logit = scale * zimg[copy.i] @ zcap[own]
            texts = [u for u in captions if counting == "published" or not matches(graph, copy.i, u)]
            pictures = [o.i for o in hard if counting == "published" or not matches(graph, o.i, own)]
            sums = [scale * zimg[copy.i] @ zcap[texts].T, scale * zimg[pictures] @ zcap[own]]
            if counting == "match_ignore":
                sums = [torch.cat([logit[None], logits]) for logits in sums]
            to_texts.append((torch.logsumexp(sums[0], 0) - logit) / len(copy.positives))
            to_images.append(torch.logsumexp(sums[1], 0) - logit)
    to_texts, to_images = sum(to_texts) / len(hard), sum(to_images) / len(to_images)
    return (to_texts + to_images) / 2 if form == "both" else to_texts


def softmax_each(graph, zimg, zcap, scale, bias, base):
    images, losses = copies(graph), []
    for k in range(graph.images.positives_IK.shape[1]):
        rows = [copy for copy in images if len(copy.positives) > k]
        logits = scale * zimg[[copy.i for copy in images]] @ zcap[[copy.positives[k] for copy in rows]].T
        own = torch.tensor([n for n, copy in enumerate(images) if len(copy.positives) > k])
        target = torch.arange(len(rows))
        losses.append((F.cross_entropy(logits[own], target) + F.cross_entropy(logits.T, own)) / 2 if rows else None)
    losses = [loss for loss in losses if loss is not None]
    return sum(losses) / len(losses)


def made(name: str, options) -> Term:
    """The term, or the objective in the form of one."""
    if name in TERMS:
        return TERMS[name](**options)
    return lambda z: OBJECTIVES[name].loss(*z[:3], z.images, z.captions, layout=z.layout, **options)


_DENSE = (own_foils, text_contrast, text_distance, base_distance, further_positives, exchanged_images, softmax_each)
DENSE = {f.__name__: f for f in _DENSE}
CASES = [
    ("own_foils", {}),
    ("own_foils", {"form": "focal", "smoothing": 0.2}),
    ("own_foils", {"form": "focal", "gamma": 1.0, "missing": "zero_logit"}),
    ("own_foils", {"form": "sigmoid"}),
    ("own_foils", {"form": "hinge", "margin": 3.0}),
    ("own_foils", {"form": "adaptive_hinge"}),
    ("text_contrast", {}),
    ("text_contrast", {"counting": "match_ignore"}),
    ("text_distance", {}),
    ("text_distance", {"further": 1}),
    ("base_distance", {"mse": 0.5, "cosine": 0.7, "similarity": 2.0}),
    ("further_positives", {}),
    ("further_positives", {"counting": "match_ignore"}),
    ("further_positives", {"form": "sigmoid", "counting": "match_ignore"}),
    ("exchanged_images", {}),
    ("exchanged_images", {"form": "image_to_text", "counting": "match_ignore"}),
    ("softmax_each", {}),
    ("base_distance", {"mse": 0.0, "distillation": 1.5}),
]


def dense(name, options, graph, base):
    values = [torch.tensor(np.asarray(x, float), requires_grad=True) for x in (*graph[:2], SCALE, BIAS)]
    value = DENSE[name](graph, *values, base, **options)
    gradients = torch.autograd.grad(value, values, allow_unused=True)
    return value.item(), [np.zeros(x.shape) if g is None else g.numpy() for x, g in zip(values, gradients, strict=True)]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_a_term_is_that_of_the_expanded_batch(name, options):
    """On a batch with four copies of an image and a sentinel."""
    graph = sparse_graph()
    base = base_of(graph)
    expected = dense(name, options, graph, base)
    assert expected[0] > 1e-3
    with jax.enable_x64(True):
        assert_equal(evaluate(made(name, options), graph, base), expected, 1e-9)


ON_DEVICES = [CASES[n] for n in (1, 7, 8, 10, 12, 14, 16, 17)]


def test_every_term_is_tried():
    for cases in (CASES, ON_DEVICES):
        assert {name for name, _ in cases} == {*TERMS, "softmax_each"}


@pytest.mark.parametrize(("name", "options"), ON_DEVICES)
def test_a_term_on_8_devices_is_that_on_one(name, options):
    mesh = make_mesh({"data": 4, "fsdp": 2}, jax.devices()[:8])
    graph = with_exchanged(random_graph(2, images=8, captions=24, **RECIPES["two_pairs"])).astype("float32")
    rng = np.random.default_rng(2)
    base = units(rng, 8).astype("float32"), units(rng, 24).astype("float32")
    few = graph.images._replace(positives_IK=graph.images.positives_IK[:, :2])  # compiles faster
    expected = dense(name, options, graph := graph._replace(images=few), base)
    placed, base = jax.device_put((tuple(graph), base), batch_sharding(mesh))
    found = evaluate(made(name, options), Graph(*placed), base, Layout(mesh, BATCH_AXES))
    assert_equal(found, expected, 1e-5)


def test_a_term_without_captions_to_compare_is_refused():
    """A recipe that samples all pairs, of data that has one for each image."""
    raw, graph = c.base(), random_graph(0, images=4, captions=20, sampled=1).astype("float32")
    raw.preset, raw.objective.terms = "tiny-clip", {"text_distance": {}}
    raw.data.mixture.main = c.part("naturel/full", "all_pairs")
    images = graph.images._replace(positives_IK=graph.images.positives_IK[:, :1])
    model = Model(preset("tiny-clip"))
    loss = Loss(c.load(raw), model, (0.5, 0.5), model.shapes(), make_mesh({"data": 1}, jax.devices()[:1]))
    batch = Batch(None, None, images, graph.captions)
    with pytest.raises(UserError, match=r"terms\.text_distance needs 2 positives .* sample at most 1 and 4"):
        jax.eval_shape(lambda *z: loss.with_terms({"logit_scale": np.float32(1)}, *z, batch, None), *graph[:2])


# ---- Published code --------------------------------------------------------------------------------------------------


def golden_graph(all_foils: bool) -> Graph:
    """The arrays of golden/terms.json as a batch: each image with a caption, its paraphrase and its foils."""
    arrays = {name: np.array(x) for name, x in GOLDEN["arrays"].items()}
    images, foils = arrays["foils"].shape[:2]
    positives = np.arange(2 * images, dtype=np.int32).reshape(2, images).T
    negatives = 2 * images + np.arange(images * foils, dtype=np.int32).reshape(images, foils)
    if not all_foils:
        negatives = np.where(np.array(GOLDEN["has_foil"]) > 0, negatives, -1).astype(np.int32)
    zcap_UD = np.concatenate([arrays["text"], arrays["paraphrase"], *arrays["foils"]])
    none, ids = np.full((images, 1), -1, np.int32), np.arange(len(zcap_UD), dtype=np.int32)
    captions = CaptionLabels(np.ones(len(ids)), ids, np.full((len(ids), 1), -2, np.int32))
    return Graph(arrays["image"], zcap_UD, ImageLabels(np.ones(images), positives, negatives, none), captions)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['term']}-{case['source'].split('/')[0]}")
def test_a_term_is_that_of_published_code(case):
    graph, arrays = golden_graph(case["all_foils"]), {k: np.array(x) for k, x in GOLDEN["arrays"].items()}
    images, width = arrays["image"].shape
    if case["term"] in ("own_foils", "base_distance"):  # code that knows no paraphrases
        graph.images.positives_IK[:, 1] = -1
        graph.captions.mult_U[images : 2 * images] = 0
    base = arrays["base_image"], np.concatenate([arrays["base_text"], arrays["paraphrase"], *arrays["base_foils"]])
    gradients = {name: np.array(x) for name, x in case["gradients"].items()}
    texts = [
        gradients.get(name, np.zeros_like(arrays[name])).reshape(-1, width) for name in ("text", "paraphrase", "foils")
    ]
    expected = case["value"], [gradients.get("image", np.zeros_like(arrays["image"])), np.concatenate(texts)]
    with jax.enable_x64(True):
        value, (*found,) = evaluate(TERMS[case["term"]](**case["options"]), graph, base)
    if case["term"] == "text_contrast":  # READ-CLIP normalizes in the same function, which leaves the tangential part
        found[1] = found[1] - np.sum(found[1] * graph.zcap_UD, axis=1, keepdims=True) * graph.zcap_UD
    assert_equal((value, found[:2]), expected, 1e-6)


METHODS = json.loads((Path(__file__).parent / "golden" / "methods.json").read_text())
EXCHANGED = {"hard_images": "mined.parquet", "hard_captions": "exchanged"}
OF_METHOD = {  # terms, and the factor by which our loss is larger than the published one
    "CLIC": (None, 2),
    "CLIC, plain": (None, 1),
    "TripletCLIP": ({"exchanged_images": {}}, 1),
    "ConCLIP": ({"exchanged_images": {"weight": 0.5, "form": "image_to_text"}}, 1.5),
}


def golden_batch(method: str) -> Graph:
    """The arrays of golden/methods.json as a batch."""
    arrays, none = {name: np.array(x) for name, x in METHODS["arrays"].items()}, np.full((6, 1), -1, np.int32)
    if method.startswith("CLIC"):
        zimg_ID, zcap_UD = arrays["image"], np.concatenate([*arrays["positives"], arrays["foil"]])
        ids_3K = np.arange(3, dtype=np.int32)[:, None] + np.arange(0, 15, 3, dtype=np.int32)
        if method == "CLIC, plain":
            ids_3K[:, 1:] = -1
        images = ImageLabels(np.ones(3), ids_3K[:, :4], ids_3K[:, 4:], none[:3])
    else:
        zimg_ID = np.concatenate([arrays["image"], arrays["hard_image"]])
        zcap_UD = np.concatenate([arrays["positives"][0], arrays["foil"]])
        ids_61 = np.arange(6, dtype=np.int32)[:, None]
        images = ImageLabels(np.ones(6), ids_61, (ids_61 + 3) % 6, none, ids_61[:, 0] > 2)
    ids = np.arange(len(zcap_UD), dtype=np.int32)
    used = np.isin(ids, np.concatenate([images.positives_IK, images.negatives_IK], axis=1)).astype(float)
    return Graph(zimg_ID, zcap_UD, images, CaptionLabels(used, ids, np.full((len(ids), 1), -2, np.int32)))


@pytest.mark.parametrize("case", METHODS["cases"], ids=lambda case: case["method"])
def test_a_method_is_that_of_published_code(case):
    """Objective and terms together; for CLIC, those of its config."""
    raw, (terms, factor) = clic.get_config(), OF_METHOD[case["method"]]
    if terms:
        raw.objective.name, raw.objective.terms = "softmax", terms
        raw.data.mixture = {"main": c.part("naturel/full", "single_pair", **EXCHANGED)}
    model, graph = Model(preset("tiny-clip")), golden_batch(case["method"])
    loss = Loss(c.load(raw), model, (0.5, 0.5), model.shapes(), make_mesh({"data": 1}, jax.devices()[:1]))

    def value(zimg_ID, zcap_UD):
        batch = Batch(None, None, graph.images, graph.captions)
        return loss.with_terms({"logit_scale": np.log(METHODS["scale"])}, zimg_ID, zcap_UD, batch, None)[0]

    with jax.enable_x64(True):
        found = jax.jit(jax.value_and_grad(value, (0, 1)), compiler_options=QUICK)(graph.zimg_ID, graph.zcap_UD)
    of = {name: np.array(case["gradients"].get(name, np.zeros_like(x))) for name, x in METHODS["arrays"].items()}
    if case["method"].startswith("CLIC"):
        expected = of["image"], np.concatenate([*of["positives"], of["foil"]])
    else:
        expected = np.concatenate([of["image"], of["hard_image"]]), np.concatenate([of["positives"][0], of["foil"]])
    assert_equal(found, (factor * case["value"], [factor * x for x in expected]), 1e-6)
