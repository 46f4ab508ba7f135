"""The search for the fastest step that fits: what is estimated, what is compiled, and what is printed."""

import dataclasses
import json
import math
import subprocess
import sys

import jax
import pytest

from naturel_jax import config as c
from naturel_jax import plan
from naturel_jax.devices import hardware
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models import flops
from naturel_jax.planning import estimate, search
from naturel_jax.planning.compiled import Collective
from naturel_jax.planning.search import COMPILATIONS, Candidate
from naturel_jax.training import memory
from tests.helpers import tiny_config
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError

LIMIT = 100


@pytest.fixture(scope="module")
def config() -> c.Config:
    return c.load(tiny_config.get_config())


@pytest.fixture
def candidate(config):
    """A candidate with arguments of 10 bytes; ``fsdp`` is its number."""

    def make(fsdp: int, remat: str, temporaries: int, seconds: float) -> Candidate:
        changes = {"mesh": c.Mesh(fsdp=fsdp), "compute": c.Compute(remat=remat)}
        return Candidate(dataclasses.replace(config, **changes), 10, temporaries, seconds)

    return make


class Compiler:
    """Compiles a candidate of a list: its temporaries are ``ratio[remat]`` times the estimated ones, and its time is
    ``slower`` times the estimated one."""

    def __init__(self, found: list[Candidate], slower: float = 2, **ratio: float):
        self.found, self.slower, self.ratio, self.order = found, slower, ratio, []

    def __call__(self, config: c.Config) -> dict:
        one = next(one for one in self.found if one.config == config)
        self.order.append(config.mesh.fsdp)
        temporaries = self.ratio.get(config.compute.remat, 1) * one.temporaries
        sizes = {"memory": {"temporaries": temporaries}, "fits": 10 + temporaries <= LIMIT}
        return sizes | {"at_least": {"step": self.slower * one.seconds}}

    def search(self) -> list[int]:
        """The numbers of the compiled candidates."""
        tried = search.search(self.found, LIMIT, self)
        assert [one.candidate.config.mesh.fsdp for one in tried] == self.order
        return self.order


def test_compiles_in_order_of_estimated_time_and_at_most_six(candidate):
    found = [candidate(n, "none", 50, 1 + 0.01 * n) for n in range(1, 11)]
    assert Compiler(found[::-1]).search() == [1, 2, 3, 4, 5, 6] and COMPILATIONS == 6


def test_stops_where_no_other_is_estimated_to_be_faster(candidate):
    found = [candidate(1, "none", 50, 1.0), candidate(2, "none", 50, 1.9), candidate(3, "none", 50, 2.1)]
    assert Compiler(found, slower=2).search() == [1, 2]


def test_what_cannot_fit_is_not_compiled(candidate):
    """Compiled temporaries are taken to be at least 0.4 of the estimated ones: 10 + 0.4 * 225 is 100."""
    found = [candidate(1, "none", 226, 1), candidate(2, "dots", 225, 2), candidate(3, "full", 40, 3)]
    assert Compiler(found, dots=0.4).search() == [2, 3]


def test_a_compiled_step_corrects_the_estimates_with_its_recomputation(candidate):
    """1.5 times as many temporaries as estimated: with "none", at most 60 fit, and nothing is learned about "dots"."""
    found = [candidate(n + 1, "none", temporaries, 1 + 0.1 * n) for n, temporaries in enumerate((100, 61, 60))]
    found.append(candidate(4, "dots", 90, 1.3))
    assert Compiler(found, none=1.5).search() == [1, 3, 4]


def test_the_last_compilation_is_for_what_needs_least(candidate):
    """Estimates are right, but a program needs more than temporaries, and only number 9 fits."""
    found = [candidate(n, "none", 90 - n, n) for n in range(1, 9)] + [candidate(9, "full", 20, 99)]
    compiler = Compiler(found)
    tried = search.search(found, LIMIT, lambda one: compiler(one) | {"fits": one.mesh.fsdp == 9})
    assert compiler.order == [1, 2, 3, 4, 5, 9] and [one.plan["fits"] for one in tried] == [False] * 5 + [True]


# ---- Estimates -------------------------------------------------------------------------------------------------------


def test_transfers_of_parameters():
    """100 parameters in bfloat16. Data parallel: a sum of all gradients. Split over all devices: gathered forward and
    backward, and in chunks forward once more each; and a sum of which each device keeps its part."""
    params = {"image": jax.ShapeDtypeStruct((10, 10), "float32")}

    def sent(fsdp, chunks):
        return search.transfers(params, make_mesh({"data": -1, "fsdp": fsdp}), "bfloat16", chunks)

    assert sent(1, 1) == [Collective("all-reduce", 8, 200, 1, True)]
    assert sent(8, 1) == [Collective("all-gather", 8, 200, 2, True), Collective("reduce-scatter", 8, 25, 1, True)]
    assert sent(2, 4) == [
        Collective("all-reduce", 4, 100, 4, True),
        Collective("all-gather", 2, 200, 12, True),
        Collective("reduce-scatter", 2, 100, 4, True),
    ]


@pytest.fixture
def known(monkeypatch):
    """The simulated devices have speed, peak and memory."""
    kind = jax.devices()[0].device_kind
    peak = {"float32": 1e12, "bfloat16": 1e12}
    row = hardware.Accelerator((kind,), peak, bandwidth=1e12, link=1e11, links=4)
    monkeypatch.setitem(hardware.ACCELERATORS, "simulated", row)
    monkeypatch.setattr(memory, "usable", lambda kind: 10**9)


def make(config: c.Config):
    return estimate.make_training(config, jax.devices(), 1, 24, 1000)


@pytest.fixture
def found(config, known):
    return search.candidates(config, jax.devices(), make)


def test_candidates_are_all_that_keep_the_batch(found):
    """16 images on 8 devices: 1 or 2 chunks; 1, 2, 4 or 8 devices with parts of the parameters."""
    ways = {(one.config.objective.chunks, one.config.mesh.fsdp, one.config.compute.remat) for one in found}
    assert ways == {(chunks, fsdp, remat) for chunks in (1, 2) for fsdp in (1, 2, 4, 8) for remat in memory.AUTO}
    assert len(ways) == len(found)


def test_estimates_follow_from_the_choice(found):
    of = {(one.config.objective.chunks, one.config.mesh.fsdp, one.config.compute.remat): one for one in found}
    assert of[1, 1, "none"].temporaries > of[1, 1, "dots"].temporaries > of[1, 1, "full"].temporaries
    assert of[1, 1, "none"].arguments > 4 * of[1, 8, "none"].arguments, "parameters and moments are most of it"
    assert of[1, 1, "full"].needed(0) == of[1, 1, "full"].arguments


def test_embedded_captions_are_not_counted_as_tokens(config, known):
    frozen = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_captions=True))
    with_text, without = (
        max(one.seconds for one in search.candidates(each, jax.devices(), make)) for each in (config, frozen)
    )
    assert without < with_text


def test_a_step_takes_a_third_longer_with_full_recomputation_and_another_in_chunks():
    """A step is three passes over the towers, of which the backward pass is two, and leaves out what is frozen."""
    step = flops.Step(forward=10, frozen=0)
    assert step.computed("none", 1) == step.computed("dots", 1) == step.model == 30
    assert step.computed("full", 1) == step.computed("dots", 2) == 40
    assert step.computed("full", 4) == 50
    half = flops.Step(forward=10, frozen=5)
    assert [half.model, half.computed("full", 1), half.computed("full", 4)] == [20, 25, 35]


def test_devices_of_unknown_speed_cannot_be_searched(config):
    with pytest.raises(UserError, match=r"--search: speed or memory of cpu in float32 is not known.*TPU v5 lite"):
        search.candidates(config, jax.devices(), make)


# ---- Report ----------------------------------------------------------------------------------------------------------

PARSE = """
import sys
from naturel_jax import config
from naturel_jax.cli import config_flags
c = config.load(config_flags.parse(sys.argv))
print(c.compute.remat, c.objective.chunks, c.objective.exchange, c.mesh)
"""


def test_flags_are_read_back(config):
    changed = dataclasses.replace(
        config,
        compute=c.Compute(remat="dots"),
        objective=dataclasses.replace(config.objective, chunks=2, exchange="gather"),
        mesh=c.Mesh(data=-1, fsdp=2, tensor=4),
    )
    flags = search.flags(changed, config)
    command = [sys.executable, "-c", PARSE, "--config=tests/helpers/tiny_config.py", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout.split("\n")[0] == "dots 2 gather Mesh(data=-1, fsdp=2, tensor=4)", done.stderr
    assert not any("tensor" in flag for flag in search.flags(config, config))


@pytest.fixture
def report(config, known, monkeypatch):
    """The report of a search in which the compiler says that temporaries are as estimated."""

    def searched(limit: float) -> dict:
        monkeypatch.setattr(memory, "usable", lambda kind: limit)

        def plan(config, training, price):
            model, batch = training.loss.model, training.pipeline.shapes(0)
            parts = memory.estimate(model, training.state.params, batch, training.pipeline.sharding.mesh, 1)
            needed, estimated = memory.per_device((training.state, batch)) + sum(parts), sum(parts)
            chosen = {"remat": model.compute.remat, "exchange": config.objective.exchange}
            times = {"at_least": {"step": 0.5, "matrix": 0.5, "memory": 0, "links": 0, "waiting": 0}, "steps": 20}
            sizes = {"memory": {"temporaries": estimated}, "needed": needed, "fits": needed <= limit}
            sizes |= {"estimate": parts._asdict()}
            return chosen | times | sizes | {"images_per_second": 32.0, "hours": 20 * 0.5 / 3600}

        monkeypatch.setattr(estimate, "plan", plan)
        found = search.report(config, jax.devices(), make, None)
        return {"name": "tiny", "topology": "cpu"} | json.loads(json.dumps(found))

    return searched


def test_text_names_the_fastest_and_its_flags(report):
    found = report(10**9)
    text = search.to_text(found).splitlines()
    assert text[:2] == ["tiny on cpu: 8 x cpu", "memory of each: 0.93 GiB"]
    assert text[2].startswith("24 candidates, 24 may fit, ")
    row = next(line for line in text if line.endswith("fastest"))
    assert row.split()[:5] == ["16", "none", "1", "1", found["tried"][0]["exchange"]]
    assert found["tried"][0]["estimate"].keys() == {"gradients", "activations", "needed", "step"}
    assert text[-1].startswith("--config.compute.remat=none --config.objective.chunks=1 --config.objective.exchange=")
    assert text[-1].split() == found["tried"][found["fastest"]]["flags"]
    assert "a step takes at least 500.0 ms" in text[-3]


def test_text_says_what_is_needed_if_nothing_fits(report):
    found = report(10**6)
    assert found["fastest"] is None and found["tried"] == [] and found["may_fit"] == 0
    text = search.to_text(found)
    least = found["least_needed"] / 2**30
    assert text.endswith(f"is {least:.2f} GiB of 0.00. Take more devices, or a smaller config.data.batch_size")
    assert math.isclose(found["usable"], 10**6)


def test_numbers_below_one_are_refused():
    with pytest.raises(UserError, match="--examples is 0, expected 1 to"):
        plan.main(["--config=tests/helpers/tiny_config.py", "--topology=h100x8", "--examples=0"])
