"""The chance of every benchmark is what its own rule gives random cosines."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.benchmarks import naturel_exchanged, order, registry, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item
from naturel_jax.benchmarks.registry import BENCHMARKS
from tests.helpers import benchmark_files as files
from tests.helpers.worlds import data_dir

CASES = 3000  # random items of each benchmark
# Drawn worlds have no captions for these; test_benchmarks_tfds.py and test_exchanges.py have.
REFUSED = ("naturel_reworded", "naturel_bindings", "naturel_positions")
WITHOUT = {"ties", "no_op"}  # how often something happens, which no guess has a part in


def own(root: Path) -> dict[str, str]:
    """Name -> a user-defined benchmark of each kind."""
    for n in range(3):
        files.write(root / f"photos/{'ab'[n % 2]}/{n}.png", files.png(n))
    image = "photos/a/0.png"
    pairs = [{"image": image, "caption": "a", "negatives": ["b", "c"][:n]} for n in (1, 2)]
    pairs.append({"image": image, "caption": ["a", "d"], "negatives": ["b", "c"]})
    group = {"image_0": image, "image_1": "photos/b/1.png", "caption_0": "a", "caption_1": "b"}
    retrieval = [{"image": f"photos/{'ab'[n % 2]}/{n}.png", "captions": [f"{n} {k}" for k in range(2)]} for n in (0, 1)]
    for name, rows in {"pairs": pairs, "groups": [group], "retrieval": retrieval}.items():
        files.write(root / f"{name}.jsonl", files.lines(rows))
    kinds = {name: f"{name}:{root}/{name}.jsonl" for name in ("pairs", "groups", "retrieval")}
    return kinds | {"photos": f"classes:{root}/photos"}


def random_cosines(item: Item, rng: np.random.Generator) -> np.ndarray:
    """[images, captions]; with rows for captions too, if the item has them, symmetric as cosines are."""
    captions = len(item.captions)
    s = rng.random((len(item.images), captions))
    if not item.caption_rows:
        return s
    among = np.triu(rng.random((captions, captions)), 1)
    return np.concatenate([s, among + among.T])


def check(benchmark: Benchmark, grouped: int) -> None:
    """``grouped``: most items that an outcome judges together."""
    rng, items = np.random.default_rng(0), benchmark.items
    repeats = math.ceil(CASES / len(items))
    cosines = [[random_cosines(item, rng) for item in items] for _ in range(repeats)]
    drawn = [benchmark.outcomes(items, matrices) for matrices in cosines]
    chances = benchmark.chance(items) if callable(benchmark.chance) else benchmark.chance
    for outcome, expected in chances.items():
        expected_N = np.array([expected(item) if callable(expected) else expected for item in items])
        judged_N = ~np.isnan(drawn[0][outcome])
        mean, chance = np.nanmean([outcomes[outcome] for outcomes in drawn]), expected_N[judged_N].mean()
        error = math.sqrt(chance * (1 - chance) * grouped / (repeats * judged_N.sum()))
        assert mean == pytest.approx(chance, abs=4 * error), (benchmark.name, outcome)
    scores = {name for name in benchmark.score(items, cosines[0]) if name.rpartition("/")[2] not in WITHOUT}
    assert scores == benchmark.guess(items).keys(), f"{benchmark.name}: a score has no chance"


@pytest.fixture
def read(tmp_path, monkeypatch) -> Callable[[str], Benchmark]:
    """Reads a benchmark of any kind."""
    monkeypatch.setattr(order, "spacy_tags", lambda texts: [[(word, "NN") for word in t.split()] for t in texts])
    mine = own(tmp_path)
    for make in dict.fromkeys(files.MAKERS.values()):
        make(tmp_path)
    (naturel,) = (data_dir() / "naturel/tiny").iterdir()

    def benchmark(name: str) -> Benchmark:
        return registry.read([mine.get(name, name)], files=tmp_path, naturel=naturel)[0]

    return benchmark


def test_every_benchmark_has_the_chance_of_its_rule(read):
    skipped = {*REFUSED, *files.SAME_READER} - {"mmvp_vlm"}  # whose rules others have
    for name in [*(name for name in BENCHMARKS if name not in skipped), "pairs", "groups", "retrieval", "photos"]:
        check(read(name), 4 if name == "whatsup" else 2)


def test_bindings_and_positions_have_the_chance_of_their_rule():
    s = np.random.default_rng(0).random((20_000, 2, 2))
    for outcome, values in naturel_exchanged.outcomes([], list(s)).items():
        if outcome != "tie":
            assert np.mean(values) == pytest.approx(naturel_exchanged.CHANCE[outcome], abs=0.015), outcome


def test_guesses_by_hand(read):
    expected = {
        "winoground": {"winoground/text": 1 / 4, "winoground/group/Object": 1 / 6},
        # Of two and of three captions one is true; two of four are: one of six ways to choose two.
        "pairs": {"pairs/accuracy": (1 / 2 + 1 / 3 + 1 / 6) / 3, "pairs/pairs": 1 / 2},
        # Two of four captions are the image's own: the first is with 1/2.
        "retrieval": {"retrieval/image_to_text@1": 1 / 2, "retrieval/text_to_image@1": 1 / 2},
        "coco_retrieval": {"coco_retrieval/image_to_text@5": 1.0, "coco_retrieval/text_to_image@1": 1 / 3},
        "photos": {"photos/top1": 1 / 2, "photos/mean_per_class": 1 / 2},
        "whatsup": {"whatsup/A": 1 / 4, "whatsup/A/set": 1 / 256, "whatsup/vg_qa_one_obj": 1 / 2},
    }
    for name, scores in expected.items():
        benchmark = read(name)
        guess = benchmark.guess(benchmark.items)
        assert {metric: guess[metric] for metric in scores} == pytest.approx(scores), name


def test_three_wordings_are_nearest_to_one_another_once_in_fifteen():
    """Share of the orders of six cosines: those of three captions to one another and of each to the false one."""
    orders = [
        ab > max(a, b) and ac > max(a, c) and bc > max(b, c) for ab, ac, bc, a, b, c in itertools.permutations(range(6))
    ]
    item = Item("0", (), ("a", "b", "c", "false"), caption_rows=True)
    assert rules.WORDINGS["text_only"](item) == pytest.approx(np.mean(orders)) == pytest.approx(1 / 15)
