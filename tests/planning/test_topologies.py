"""GPUs that are not there: how they are named, how fast they send to each other, and a step compiled for them."""

import json
import os
import subprocess
import sys

import pytest

from naturel_jax import plan
from naturel_jax.devices import hardware
from naturel_jax.planning import compiled, topologies
from naturel_jax.training import exchange, memory
from naturel_jax.training.exchange import Sizes
from tests.helpers.worlds import ROOT
from tfds_naturel.common.errors import UserError

H100 = "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize(
    ("topology", "kind", "hosts", "cards"),
    [
        *(("h100x8", H100, 1, 8), ("h100x4x8", H100, 4, 8), ("a100x1", "NVIDIA A100-SXM4-80GB", 1, 1)),
        *(("a100-40gbx2x16", "NVIDIA A100-SXM4-40GB", 2, 16), ("h200x8", "NVIDIA H200", 1, 8)),
    ],
)
def test_names_of_gpus(topology, kind, hosts, cards):
    found = topologies.gpus(topology)
    assert (found.card.kinds[0], found.hosts, found.cards) == (kind, hosts, cards)


@pytest.mark.parametrize("topology", ["v5e:2x4", "tpu7x:2x2x1"])
def test_names_with_a_colon_are_of_tpus(topology):
    assert topologies.gpus(topology) is None


@pytest.mark.parametrize(
    "topology", ["h100", "h100x", "h100x0", "h100:8", "h100x2x0", "h100x2x2x2", "b100x8", "v5e", "x8", ""]
)
def test_other_names_are_errors(topology):
    expected = r"expected a TPU slice by its shape, .*h100x8 \(a host with 8 cards\).*of a100-40gb, a100, h100, h200"
    with pytest.raises(UserError, match=rf"--topology {topology}: {expected}"):
        topologies.gpus(topology)
    with pytest.raises(UserError, match="expected a TPU slice"):
        topologies.prepare(topology)


@pytest.mark.parametrize(("topology", "extra"), [("v5e:2x4", "libtpu.*plan-tpu"), ("h100x8", "jax_cuda12.*plan-gpu")])
def test_without_the_compiler_the_extra_is_named(topology, extra, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=extra.replace(".*", r".* is not installed: run `pip install 'naturel_jax\[")):
        topologies.devices(topology)


def test_the_environment_keeps_the_flags_of_the_user(monkeypatch):
    monkeypatch.setattr(os, "environ", {"XLA_FLAGS": "--xla_dump_to=x"})
    topologies.prepare("v5e:2x4")
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x", "libtpu knows no flags of GPUs"
    topologies.prepare("h100x8")
    assert os.environ["XLA_FLAGS"].startswith("--xla_dump_to=x --xla_gpu_")
    assert os.environ["JAX_PLATFORMS"] == "cpu"


def test_a_card_is_described_as_its_data_sheet_does():
    """NVIDIA H100 SXM: compute capability 9.0, 132 multiprocessors, 50 MiB of L2 cache, 80 GB at 3.35 TB/s."""
    fields = dict(line.strip().split(": ", 1) for line in topologies.gpus("h100x8").target.splitlines() if ": " in line)
    assert (fields["core_count"], fields["l2_cache_size"]) == ("132", str(50 * 2**20))
    assert int(fields["memory_bandwidth"]) == pytest.approx(3.35e12, rel=0.01)
    assert int(fields["device_memory_size"]) == pytest.approx(80 * 2**30, rel=0.02)
    assert "cuda_compute_capability { major: 9 minor: 0 }" in topologies.gpus("h100x8").target


def test_usable_memory_is_the_share_that_jax_takes(monkeypatch):
    """JAX's default is three quarters (docs.jax.dev/en/latest/gpu_memory_allocation.html)."""
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    memory_of_card = topologies.CARDS["h100"].memory
    assert memory.usable(H100) == memory_of_card * 3 // 4
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
    assert memory.usable(H100) == pytest.approx(0.9 * memory_of_card, abs=1)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(UserError, match="XLA_CLIENT_MEM_FRACTION is 'most'; expected the share"):
        memory.usable(H100)


# ---- Transfers -------------------------------------------------------------------------------------------------------

# As XLA writes collectives of GPUs, shortened.
LINES = """
  %all-reduce-start.1 = f32[1000]{0} all-reduce-start(%x), replica_groups=[1,8]<=[8], \
backend_config={"collective_backend_config":{"is_sync":true}}
  %all-gather-start.1 = (f32[10], f32[40]) all-gather-start(%x), replica_groups=[2,4]<=[4,2]T(1,0), \
backend_config={"collective_backend_config":{"is_sync":false}}
  %all-reduce-start.2 = f32[20] all-reduce-start(%x), replica_groups={{0,1,2,3},{4,5,6,7}}
  %all-reduce.3 = f32[30] all-reduce(%x), replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}
  %all-reduce.4 = f32[30] all-reduce(%x), replica_groups=mesh['a'=4,'b'=2] {'a'}
  %collective-permute-start.1 = (f32[5], f32[5]) collective-permute-start(%x), source_target_pairs={{0,1},{3,4},{4,0}}
  %collective-permute-start.2 = (f32[6], f32[6]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0},{4,5}}
"""


def test_collectives_of_gpus_say_whether_they_leave_the_host():
    found = compiled.collectives(f"ENTRY %main (x: f32[10]) -> f32[10] {{\n{LINES}\n}}", cards=4)
    rows = [(one.bytes, one.devices, one.hosts, one.asynchronous) for one in found]
    assert rows == [
        (4000, 8, 2, False),
        (160, 4, 2, True),  # 0, 2, 4, 6
        (80, 4, 1, True),
        (120, 4, 1, False),  # 0, 1, 2, 3
        (120, 4, 2, False),  # 0, 2, 4, 6
        (20, 0, 2, True),
        (24, 0, 1, True),
    ]
    assert {one.hosts for one in compiled.collectives(f"ENTRY %main (x: f32[10]) -> f32[10] {{\n{LINES}\n}}")} == {1}


def test_time_of_collectives_of_gpus():
    """H100: 450 GB/s to every card of the host, 50 GB/s from each card to other hosts."""
    speed = hardware.find(H100)
    size = 4.5e9
    assert speed.seconds("all-gather", size, 8) == pytest.approx(7 / 8 * 0.01)
    assert speed.seconds("collective-permute", size, 1) == pytest.approx(0.01)
    assert speed.seconds("collective-permute", size, 1, hosts=2) == pytest.approx(0.09)
    # Between two hosts with 8 cards each: half of the array enters each host, through 8 network cards.
    assert speed.seconds("all-gather", size, 16, hosts=2) == pytest.approx(max(15 / 16 * 0.01, 0.09 / 2 / 8))
    assert speed.seconds("all-reduce", size, 16, hosts=2) == pytest.approx(2 * max(15 / 16 * 0.01, 0.09 / 2 / 8))
    assert speed.seconds("all-gather", size, 4, hosts=4) == pytest.approx(3 / 4 * 0.09), "a card of each host"
    assert speed.seconds("reduce-scatter", size / 4, 4, hosts=4) == pytest.approx(3 / 4 * 0.09)


def test_gpus_send_both_ways_around_a_ring_through_the_same_link():
    ways = [compiled.Collective("collective-permute", 0, 450_000_000, 2, True, way) for way in ("0 to 1", "1 to 0")]
    bound = compiled.roofline(H100, "bfloat16", 0, 0, ways)
    assert bound.links == pytest.approx(2 * 2e-3)


def test_exchange_among_gpus():
    """Captions of 4.5 MB on each card: 10 us to another card, 90 us to another host. Products are in float32: of one
    image they take 2 * 1,125,000 / 67e12 seconds."""
    product = 2 * 1_125_000 / 67e12
    one_host = exchange.costs(H100, Sizes(devices=5, images=1, captions=1125, width=1000, tile=4096))
    expected = (4 * 10 + 4 * 20 + 10) * 1e-6 - 4 * (1 + 3) * product
    assert one_host["ring"].waiting == pytest.approx(expected) == one_host["two_way_ring"].waiting
    assert one_host["gather"].waiting == pytest.approx(4 * 4 * 10e-6)
    hosts = exchange.costs(H100, Sizes(devices=6, images=1, captions=1125, width=1000, tile=4096, hosts=2))
    assert hosts["ring"].waiting == pytest.approx((5 * 90 + 5 * 180 + 90) * 1e-6 - 5 * (1 + 3) * product)
    assert hosts["two_way_ring"].waiting == pytest.approx((5 * 45 + 5 * 90 + 45) * 1e-6 - 5 * (1 + 3) * product)
    assert hosts["gather"].waiting == pytest.approx(4 * 90e-6), "three blocks enter a host, through three network cards"


# ---- The compiler ----------------------------------------------------------------------------------------------------


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "naturel_jax.plan", "--config=tests/helpers/tiny_config.py", *flags, "--json"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)


@pytest.mark.proof
def test_step_compiles_for_gpus(tmp_path):
    pytest.importorskip("jax_cuda12_plugin")
    flags = ["--topology=h100x2x4", f"--config.data.dir={tmp_path}"]
    done = command(*flags, "--price=1", "--config.data.batch_size=4096")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert planned["fits"] and planned["device"] == H100 and planned["dtype"] == "bfloat16"
    assert planned["memory"]["temporaries"] > 0 and planned["images_per_second"] > 0 and planned["cost"] > 0
    # The compiler splits some: among a card of each host (2 devices), then among the cards of a host (4).
    assert {(one["devices"], one["hosts"]) for one in planned["collectives"]} <= {(8, 2), (2, 2), (4, 1)}
    assert any(one["hosts"] == 2 for one in planned["collectives"])
    done = command(*flags, "--config.data.batch_size=524288", "--config.compute.remat=none")
    assert done.returncode == plan.DOES_NOT_FIT and json.loads(done.stdout)["at_least"]["step"] > 0


@pytest.mark.proof
def test_search_for_gpus(tmp_path):
    pytest.importorskip("jax_cuda12_plugin")
    done = command("--topology=h100x2", f"--config.data.dir={tmp_path}", "--search", "--config.data.batch_size=4096")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 1 <= len(found["tried"]) <= 6 and found["tried"][found["fastest"]]["fits"]
    done = command("--topology=h100x2", f"--config.data.dir={tmp_path}", *found["tried"][found["fastest"]]["flags"])
    assert done.returncode == 0, done.stderr
