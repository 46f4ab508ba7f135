"""The performance scripts, on tiny models and a few images; compared variants compute the same thing."""

import functools
import re
import sys

import numpy as np
import pytest
from filelock import FileLock

from naturel_jax.data.batches.recipes import recipe
from naturel_jax.losses.objectives import OBJECTIVES
from naturel_jax.losses.terms import TERMS
from perf import adapters, gallery, hosts, methods, objectives, pipeline, planner, towers
from tests.helpers import stuck_loader
from tests.helpers.documents import ROOT
from tests.helpers.processes import run

pytestmark = pytest.mark.slow


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("hard", [pytest.param("sentinel", marks=pytest.mark.proof), "mined"])
def test_all_training_step_variants_have_the_same_loss(hard):
    results = objectives.measure_steps("tiny-clip", batch_size=8, hard=hard, repeats=1)
    assert [r.name for r in results] == ["naturel_jax", "naturel_jax, expanded", "transformers", "OpenCLIP"]
    np.testing.assert_allclose([r.loss for r in results], results[-1].loss, rtol=1e-4)


@pytest.mark.proof
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", ["tiny-clip", "tiny-siglip"])
def test_steps_with_embeddings_of_a_frozen_tower_have_the_same_loss(name, capsys):
    objectives.main(["frozen", f"--preset={name}", "--batch=8", "--repeats=1"])
    found = re.findall(
        r"(image|text) tower frozen: loss ([\d.]+), with its embeddings ([\d.]+)", capsys.readouterr().out
    )
    assert [tower for tower, *_ in found] == ["image", "text"]
    np.testing.assert_allclose(*np.array(found)[:, 1:].astype(float).T, rtol=1e-5)


def test_steps_of_all_methods_are_measured():
    assert {*TERMS} <= {term for method in methods.METHODS.values() for term in method.terms}
    assert {*OBJECTIVES} == {method.objective for method in methods.METHODS.values()}


@pytest.mark.proof
@pytest.mark.usefixtures("quick_compilation")
def test_steps_of_methods_are_measured_beside_negclips(capsys, monkeypatch):
    tried = ("NegCLIP", "base_distance", "base_distance, of_average")  # the states of these differ
    monkeypatch.setattr(methods, "METHODS", {name: methods.METHODS[name] for name in tried})
    methods.main(["--batches=tiny-clip=8", "--rounds=1"])
    rows = re.findall(r"^\| (.+?) \| ([\d.]+) \| ([\d.]+) \(", capsys.readouterr().out, re.MULTILINE)
    flops, times = np.array([row[1:] for row in rows], float).T
    assert [row[0] for row in rows] == list(tried) and times[0] == 1 and all(times > 0)
    assert flops.tolist() == [1, 1.33, 1.33], "a second forward pass"


@pytest.mark.proof
def test_lora_is_measured_beside_full_tuning(capsys):
    adapters.main(["--preset=tiny-clip", "--batch=8", "--repeats=1", "--rank=4"])
    rows = re.findall(r"^(full tuning|LoRA of [a-z ]+?)  +(.*)$", capsys.readouterr().out, re.MULTILINE)
    full, attention, everywhere = (np.array(numbers.split(), float) for _, numbers in rows)
    assert full[1] == full[3] == 1 and attention[3] < everywhere[3] == 1, "ratios of times and FLOPs"
    assert attention[4] < everywhere[4] < full[4] / 2 and attention[5] < everywhere[5] < full[5] / 10, "state, saved"


@pytest.mark.parametrize("objective", ["sigmoid", "softmax"])
def test_ring_memory_is_constant_and_dense_memory_grows_with_devices(objective):
    """From three devices on: of two, the ring has one hop, and less to keep meanwhile."""
    ring, dense = ([objectives.loss_bytes(objective, n, ring) for n in (3, 8)] for ring in ("ring", "gather"))
    assert ring[1] == pytest.approx(ring[0], rel=0.02)
    assert dense[1] > 1.5 * dense[0]


@pytest.mark.parametrize(
    ("name", "peers"),
    [
        ("tiny-clip", ["transformers", "OpenCLIP"]),
        ("tiny-siglip", ["transformers", "OpenCLIP"]),
        ("tiny-naflex", ["transformers"]),
    ],
)
def test_towers_are_compared_with_other_libraries(name, peers, capsys):
    towers.main([f"--preset={name}", "--images=2", "--captions=2", "--repeats=1", "--train"])
    lines = capsys.readouterr().out.splitlines()
    rates = {line.split()[0]: re.findall(r"([\d.]+) (?:images|captions)/s", line) for line in lines}
    assert [name for name, numbers in rates.items() if len(numbers) == 2] == ["naturel_jax", *peers]
    assert all(float(number) > 0 for numbers in rates.values() for number in numbers)
    ours, theirs = (np.array(rates[name], float) for name in ("naturel_jax", peers[-1]))
    ratios = [float(number) for number in re.search(r"; naturel_jax: ([\d.]+), ([\d.]+) times$", lines[-1]).groups()]
    np.testing.assert_allclose(ratios, ours / theirs, rtol=0.02, atol=0.01)


def test_checksums_of_copies_are_measured():
    """In a process of its own: a store's client is kept, with its address."""
    printed = run([sys.executable, "-m", "perf.copies", "--megabytes=64", "--files=20"], ROOT)
    said = r"28 files, 64 MiB: found current in [\d.]+ s; their checksums take another -?[\d.]+ s"
    assert re.match(said, printed)


@pytest.mark.proof
def test_pipeline_is_compared_with_other_loaders(tmp_path, capsys):
    """Also with loaders that fork, after JAX has started threads in this process."""
    loaders = pipeline.contenders(pipeline.write_images(tmp_path, pipeline.BATCH), 1, threads=[1], workers=[1])
    own = [f"{name}, 1 threads" for name in ("naturel_jax", "bilinear", "decoded", "tars")]
    torch = ["torch, 0 processes", "torch, 1 processes"]
    assert {"bare loop", "naturel_jax, 1 processes", "decoded, bilinear, 1 threads", *own, *torch} <= loaders.keys()
    (rates,) = pipeline.measure(loaders, rounds=1, timeout_s=120)
    assert rates.keys() == loaders.keys() and all(min(rate) > 0 for rate in rates.values())
    assert not capsys.readouterr().out


def test_loader_that_hangs_is_left_out_and_its_children_end(tmp_path, capsys):
    """Its round has no rate, nor does it have more rounds; the others have all of theirs."""
    loaders = {
        "quick": functools.partial(functools.partial, sum, range(10**6)),
        "stuck": functools.partial(functools.partial, stuck_loader.read, tmp_path / "lock"),
        "last": functools.partial(functools.partial, sum, range(10**6)),
    }
    rounds = pipeline.measure(loaders, rounds=2, timeout_s=10)
    assert [list(rates) for rates in rounds] == [["quick", "last"]] * 2
    assert capsys.readouterr().out == "stuck: left out, since a round did not end in 10 s (--timeout_s)\n"
    with FileLock(tmp_path / "lock", timeout=10):  # its child, which holds it, may take a moment to end
        pass


def test_loader_that_fails_is_named():
    with pytest.raises(RuntimeError, match="broken: its process ended with exit code 1; its error is above"):
        pipeline.measure({"broken": functools.partial(functools.partial, int, "no number")}, rounds=1, timeout_s=120)


def test_page_of_the_gallery_is_written(tmp_path):
    gallery.write(tmp_path / "page.html", 20)
    assert "of the horse number 17" in (tmp_path / "page.html").read_text()


def test_planner_is_measured_on_generated_rows():
    items = planner.bank_items(5000)
    assert len(items) == 5000 and recipe("single_pair").check(items) == (1, 1)
    whole, own = planner.measure(items, "single_pair", images=64, repeats=2)
    assert whole > 0 and own > 0


def test_one_host_of_many_is_measured(tmp_path, capfd):
    """It reads four images of a batch of 16 on four hosts, and no captions of the index until it plans."""
    hosts.main(["one", "--hosts=4", "--devices=1", "--rows=500", "--batches=16", f"--folder={tmp_path}"])
    first, opened, planned, loaded, checked, again = capfd.readouterr().out.splitlines()
    assert first.startswith("500 records, host 2 of 4, 1 devices each")
    counts = [int(re.search(r"(\d+) files opened", line)[1]) for line in (opened, planned, loaded, checked, again)]
    assert counts[0] > 10 and counts[1:] == [0, 4, 1, 0]
