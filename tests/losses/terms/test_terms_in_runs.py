"""The terms of the objective in runs: in chunks and on two devices, with a base, and what is refused."""

import dataclasses
import functools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import mine
from naturel_jax.checkpoints.checkpoint import Checkpoints
from naturel_jax.config.settings import setting
from naturel_jax.config.versions import from_json, to_json
from naturel_jax.configs import clic
from naturel_jax.data import datasets
from naturel_jax.data.random import draws
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.losses.terms import TERMS
from naturel_jax.losses.terms.term import Embedded, Term
from naturel_jax.training import run
from naturel_jax.training.start import make_start
from tests.helpers import tiny_config
from tests.helpers.worlds import data_dir
from tfds_naturel.common.errors import UserError


@dataclasses.dataclass(frozen=True)
class Spread(Term):
    """A term from outside the package: the mean squared cosine of an image and the captions of the batch."""

    power: int = setting(2, "exponent")

    def __call__(self, z):
        return jnp.mean(jnp.square(z.zimg_ID @ z.zcap_UD.T) ** (self.power // 2))


def tiny(**terms) -> c.Config:
    raw = tiny_config.get_config("sigmoid")
    raw.data.dir, raw.data.batch_size = os.fspath(data_dir()), 8
    raw.optim.update({"lr": 1e-3, "warmup": "0 steps"})
    raw.objective.terms, raw.objective.chunks = terms, 2
    return c.load(raw)


TERMS_OF_RUN = {
    "own_foils": {"weight": 0.5, "form": "focal"},
    "text_contrast": {"weight": 0.25},
    "base_distance": {"weight": 2.0, "mse": 100.0, "similarity": 1.0},
    "spread": {"weight": 3.0},
}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_step_with_terms_in_chunks(tmp_path, monkeypatch):
    """Two steps on 2 devices, with a term from outside; the base stays, is not saved, and is there again on resume."""
    monkeypatch.setitem(TERMS, "spread", Spread)
    config = tiny(**TERMS_OF_RUN)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    mesh = make_mesh(dataclasses.asdict(config.mesh), jax.devices()[:2])
    sources = datasets.open_sources(config.data)

    def make_training() -> run.Training:
        return run.make_training(config, make_start(config, "", epath.Path(tmp_path), sources, mesh), sources, mesh)

    training = make_training()
    state, loss, base = training.state, training.loss, jax.device_get(training.state.params)
    assert "base" not in state.arrays()
    found, embed = [], jax.jit(loss.embed)
    for batch in training.pipeline.batches(0, 2):
        params = jax.device_get(state.params)
        z = [embed(p, batch) for p in (params, base)]
        labels, scalars = (
            (batch.image_labels, batch.caption_labels),
            (np.exp(params["logit_scale"]), params["logit_bias"]),
        )
        embedded = Embedded(*z[0], *scalars, *labels, base=z[1])
        expected = {name: term(embedded) for name, term in config.objective.terms.items()}
        total = loss.from_embeddings(params, *z[0], batch)
        total += sum(config.objective.terms[name].weight * value for name, value in expected.items())
        state, metrics = training.step(state, batch)
        found.append({name: float(metrics[f"term/{name}"]) for name in TERMS_OF_RUN})
        np.testing.assert_allclose(metrics["loss"], total, rtol=1e-4)
        for name, value in expected.items():
            np.testing.assert_allclose(found[-1][name], value, rtol=1e-4, atol=1e-5)
        own = config.objective.terms["own_foils"]
        parts = {
            "objective": functools.partial(loss.from_embeddings, params, batch=batch),
            "own_foils": lambda *pair, z=embedded, own=own: own(z._replace(zimg_ID=pair[0], zcap_UD=pair[1])),
        }
        for name, part in parts.items():
            norm = np.hypot(*map(jnp.linalg.norm, jax.grad(part, (0, 1))(*z[0])))
            np.testing.assert_allclose(metrics[f"term/{name}/grad_norm"], norm, rtol=1e-4)
        norms = [float(metrics[f"grad_norm/{tower}"]) for tower in ("image", "text")]
        assert min(norms) > 0 and np.hypot(*norms) <= float(metrics["grad_norm"]) * (1 + 1e-5)
    assert found[0]["base_distance"] < 1e-6 < found[1]["base_distance"]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.base), base)
    step = loss.step_flops(batch)
    assert step.model == 4 * step.forward - 2 * step.frozen

    saved, checkpoints = jax.device_get(state), Checkpoints(tmp_path, keep=1)
    meta = {"config": to_json(config), "streams": draws.VERSION, "init_digest": "", "processor": {}}
    checkpoints.save(2, state.arrays(), meta, wait=True)
    done, restored = run.restore_or_start(config, epath.Path(tmp_path), checkpoints, make_training())
    checkpoints.close()
    assert done == 2
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), saved)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
def test_a_teacher_that_moves(tmp_path):
    """The base is the average before the step: the start in the first, then what the first has made of it."""
    raw = c.to_config_dict(tiny())
    raw.objective.terms, raw.optim.ema = {"base_distance": {"of_average": True, "mse": 100.0}}, 0.5
    config = c.load(raw)
    mesh = make_mesh(dataclasses.asdict(config.mesh), jax.devices()[:1])
    sources = datasets.open_sources(config.data)
    start = make_start(config, "", epath.Path(tmp_path), sources, mesh)
    training = run.make_training(config, start, sources, mesh)
    state, embed, found = training.state, jax.jit(training.loss.embed), []
    assert state.base is None
    for batch in training.pipeline.batches(0, 2):
        z, base = (embed(params, batch) for params in (state.params, state.ema))
        labels = batch.image_labels, batch.caption_labels
        expected = TERMS["base_distance"](mse=100.0)(Embedded(*z, jnp.float32(1), jnp.float32(0), *labels, base=base))
        state, metrics = training.step(state, batch)
        found.append(float(metrics["term/base_distance"]))
        np.testing.assert_allclose(found[-1], expected, rtol=1e-4, atol=1e-6)
    assert found[0] < 1e-6 < 1e-4 < found[1]


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"own_foil": {}}, r"config\.objective\.terms has 'own_foil'; expected one of: 'own_foils', 'text_contrast'"),
        ({"own_foils": 0.5}, r"config\.objective\.terms\.own_foils is 0\.5; expected a section with fields"),
        ({"base_distance": {"mse": 0.0}}, r"base_distance has mse, cosine, similarity and distillation 0; expected"),
        ({"base_distance": {"of_average": True}}, r"there is no average: set config\.optim\.ema"),
        ({"own_foils": {"weight": -1.0}}, r"terms\.own_foils\.weight is -1\.0; expected a number above 0"),
        ({"own_foils": {"form": "hing"}}, r"terms\.own_foils\.form is 'hing'; expected one of 'softmax', 'focal'"),
        ({"own_foils": {"gama": 2.0}}, r"terms\.own_foils has no field 'gama'; did you mean 'gamma'"),
        ({"base_distance": {"needs_base": False}}, r"terms\.base_distance has no field 'needs_base'"),
    ],
)
def test_unknown_terms_and_options_are_refused_by_name(terms, expected):
    with pytest.raises(UserError, match=expected):
        tiny(**terms)


@pytest.mark.parametrize(
    ("recipe", "term", "expected"),
    [("single_pair", "text_distance", "2 positives .* at most 1 and 1"), ("positives", "own_foils", "at most 1 and 0")],
)
def test_a_term_needs_captions_that_a_recipe_samples(recipe, term, expected):
    raw = tiny_config.get_config()
    raw.data.mixture.main.recipe, raw.objective.terms = recipe, {term: {}}
    with pytest.raises(UserError, match=rf"terms\.{term} needs .*{expected}: use another recipe"):
        c.load(raw)
    raw.data.mixture.other = c.part("naturel/tiny", "clic")
    assert term in c.load(raw).objective.terms


def steps_of(config: c.Config, devices: int, chunks: int, workdir) -> list[dict[str, float]]:
    """The metrics of the first four steps."""
    config = dataclasses.replace(config, objective=dataclasses.replace(config.objective, chunks=chunks))
    mesh, sources = (
        make_mesh(dataclasses.asdict(config.mesh), jax.devices()[:devices]),
        datasets.open_sources(config.data),
    )
    training = run.make_training(config, make_start(config, "", epath.Path(workdir), sources, mesh), sources, mesh)
    state, found = training.state, []
    for batch in training.pipeline.batches(0, 4):
        state, metrics = training.step(state, batch)
        found.append({name: float(value) for name, value in metrics.items()})
    return found


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("method", ["CLIC", pytest.param("TripletCLIP", marks=pytest.mark.proof)])
def test_steps_of_a_method_in_chunks_on_2_devices_are_those_on_one(method, tmp_path):
    raw = clic.get_config("tiny") if method == "CLIC" else tiny_config.get_config()
    raw.init, raw.bases, raw.preset, raw.data.dir, raw.data.batch_size = "", {}, "tiny-clip", os.fspath(data_dir()), 16
    if method != "CLIC":
        mined = tmp_path / "mined.parquet"
        mine.main(["--dataset", os.fspath(datasets.directory(raw.data.dir, "naturel/tiny")), f"--out={mined}"])
        raw.data.mixture.main.update({"hard_images": str(mined), "hard_captions": "exchanged"})
        raw.objective.terms = {"exchanged_images": {}}
    whole, parts = (steps_of(c.load(raw), *sizes, tmp_path) for sizes in ((1, 1), (2, 2)))
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys() and one["finite"]
        for name in one:
            np.testing.assert_allclose(other[name], one[name], rtol=2e-4, atol=1e-5, err_msg=name)
    term = "term/own_foils" if method == "CLIC" else "term/exchanged_images"
    assert [one[term] > 0 for one in whole] == [True, method != "CLIC"] * 2
