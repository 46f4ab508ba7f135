"""What each exchange of the losses costs, from sizes and speeds that make round numbers, and what ``auto`` becomes."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from naturel_jax.devices.sharding import AXES, make_mesh
from naturel_jax.losses.batch import Batch, CaptionLabels, ImageLabels
from naturel_jax.training import exchange, memory
from naturel_jax.training.exchange import Cost, Sizes
from tests.helpers.documents import ROOT

V5E = "TPU v5 lite"  # 197 TFLOP/s; 4 links of 45 GB/s each way
BLOCK = 4_500_000  # bytes of 1,125 captions of width 1,000: 100 us over a link
MICRO = 1e-6


def test_nothing_hides_behind_the_tiles_of_a_few_images():
    costs = exchange.costs(V5E, Sizes(devices=5, images=1, captions=1125, width=1000, tile=4096))
    product = 6 * 2 * 1125 * 1000 / 197e12  # in float32, 6 products in bfloat16
    hidden = 4 * (1 + 3) * product
    assert costs["ring"].waiting == pytest.approx((4 * 100 + 4 * 200 + 100) * MICRO - hidden)
    assert costs["two_way_ring"].waiting == pytest.approx((4 * 50 + 4 * 100 + 50) * MICRO - hidden)
    gathered = 4 * BLOCK / (4 * 45e9)
    assert costs["gather"].waiting == pytest.approx(4 * gathered), "twice, and a sum over devices, which sends two"


def test_only_the_way_home_is_waited_for_behind_the_tiles_of_many_images():
    """Break-even of one direction is 4 bytes of a caption over 12 FLOPs for each image: a third of 197e12 / 45e9; and
    2/9 for the gradient."""
    most = 197e12 / 45e9 / 3

    def waiting(images):
        costs = exchange.costs(V5E, Sizes(5, round(images), 1125, 1000, 4096))
        return {name: cost.waiting for name, cost in costs.items()}

    hidden = waiting(1.01 * most)
    assert (hidden["ring"], hidden["two_way_ring"]) == pytest.approx((100 * MICRO, 50 * MICRO))
    assert waiting(0.9 * most)["ring"] > 100 * MICRO
    assert waiting(0.51 * most)["two_way_ring"] == pytest.approx(50 * MICRO), "half as much to hide"


def test_a_hop_takes_a_microsecond_however_little_is_sent():
    costs = exchange.costs(V5E, Sizes(devices=101, images=1, captions=1, width=1, tile=4096))
    assert costs["ring"].waiting == pytest.approx(201 * MICRO, rel=1e-4)
    assert costs["ring"].waiting == costs["two_way_ring"].waiting


def test_one_device_waits_for_nobody():
    costs = exchange.costs(V5E, Sizes(1, 128, 256, 512, 4096))
    assert {cost.waiting for cost in costs.values()} == {0}


def test_memory_is_that_of_a_compiled_loss():
    """The compiler's figures, of the sigmoid loss: MB with 1.57 of arguments and results, on 16 to 256 devices."""
    table = (ROOT / "proofs" / "ring_memory.md").read_text().splitlines()
    rows = {int(row.split()[0]): row.split()[1::2] for row in table if re.match(r" +\d+ ", row)}
    for devices in (16, 64, 256):
        ring, _, gathered = map(float, rows[devices][:3])
        costs = exchange.costs(V5E, Sizes(devices, 128, 256, 512, tile=10**6))
        assert costs["ring"].memory / 1e6 + 1.57 == pytest.approx(ring, rel=0.01)
        assert costs["gather"].memory / 1e6 + 1.57 == pytest.approx(gathered, rel=0.05)


def test_speed_of_a_cpu_is_not_known():
    assert exchange.costs("cpu", Sizes(8, 128, 256, 512, 4096)) is None


@pytest.fixture
def choose(monkeypatch, caplog):
    """What ``auto`` becomes with these costs (waiting, memory) on devices with 20 GB."""
    mesh = make_mesh({"data": -1})
    rows = jax.ShapeDtypeStruct((8 * mesh.size, 4), jnp.float32)
    batch = Batch(rows, rows, ImageLabels(*[rows] * 4), CaptionLabels(*[rows] * 3))
    monkeypatch.setattr(memory, "usable", lambda kind: 20e9)

    def choose(**costs):
        monkeypatch.setattr(exchange, "costs", lambda kind, sizes: {k: Cost(*v) for k, v in costs.items()} or None)
        with caplog.at_level("INFO"):
            return exchange.choose(mesh, batch, 512, 4096)

    return choose


def test_auto_is_what_waits_least_and_fits(choose, caplog):
    ring, both = (3 * MICRO, 1e6), (2 * MICRO, 1e6)
    assert choose(ring=ring, two_way_ring=both, gather=(MICRO, 1e9)) == "gather"
    assert "config.objective.exchange is 'gather' (auto)" in caplog.text
    assert choose(ring=ring, two_way_ring=both, gather=(MICRO, 1.01e9)) == "two_way_ring", "above a twentieth"
    assert choose(ring=both, two_way_ring=both, gather=(3 * MICRO, 1e6)) == "ring"


def test_auto_is_the_ring_where_nothing_is_known(choose, caplog):
    assert choose() == "ring"
    assert "config.objective.exchange is 'ring' (auto): speed or memory of cpu is not known" in caplog.text


@dataclasses.dataclass(frozen=True)
class Device:
    """One of eight devices, in two TPU slices or GPU hosts, or in one."""

    id: int
    groups: int
    platform: str
    device_kind: str

    @property
    def slice_index(self) -> int:
        return self.id * self.groups // 8

    @property
    def coords(self) -> tuple[int, int, int]:
        return self.slice_index, 0, self.id


@pytest.mark.parametrize(
    ("groups", "platform", "kind", "expected", "reason"),
    [
        (1, "tpu", V5E, "gather", "microseconds of waiting"),
        (2, "tpu", V5E, "ring", "the speed of the network between 2 slices is not known"),
        (2, "gpu", "NVIDIA H100 80GB HBM3", "gather", "microseconds of waiting"),
    ],
    ids=["slice", "two slices", "two hosts"],
)
def test_auto_is_the_ring_between_slices(groups, platform, kind, expected, reason, caplog):
    """With so few rows, gathering costs least, as far as the costs are known."""
    devices = [Device(number, groups, platform, kind) for number in range(8)]
    rows = jax.ShapeDtypeStruct((8 * 64, 4), jnp.float32)
    batch = Batch(rows, rows, ImageLabels(*[rows] * 4), CaptionLabels(*[rows] * 3))
    with caplog.at_level("INFO"):
        assert exchange.choose(Mesh(np.reshape(devices, (8, 1, 1)), AXES), batch, 768, 4096) == expected
    assert f"config.objective.exchange is '{expected}' (auto): {reason}" in caplog.text
