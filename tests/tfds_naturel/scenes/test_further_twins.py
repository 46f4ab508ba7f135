"""The twins for experiments: who sees the scene answers every item, and who reads only the captions does not."""

import collections
import re

import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax.benchmarks import blind, registry
from naturel_jax.benchmarks.benchmark import Benchmark, Item
from naturel_jax.configs import clip
from naturel_jax.data import datasets
from naturel_jax.evaluators import evaluator
from tests.helpers.scene_facts import holds
from tfds_naturel.scenes import formats, twins
from tfds_naturel.scenes.scene import CONFIGS, Scene
from tfds_naturel.scenes.sprite import COLOURS

SCENES = CONFIGS["scenes"]
ITEMS = 60
TEXTS = [name for name in twins.FURTHER if name != "zeroshot"]  # whose captions are sentences
NAMES = {label.lower(): label for label in SCENES.classes}
RELATIONS = {
    "on": "on|atop",
    "under": "under|beneath",
    "left_of": "to the left of|on the left of",
    "right_of": "to the right of|on the right of",
    "inside_of": "inside|within",
    "holds": "holding|gripping|held by",
    "wears": "wearing|sporting|worn by",
    "plays": "playing|played by",
    "hits": "hitting|striking|hit by",
    "at": "at|right by",
}
WORDS = {word: relation for relation, words in RELATIONS.items() for word in words.split("|")}
COLOUR = "|".join(c.lower() for c in COLOURS)
NOUN = rf"the (?:({COLOUR}) )?({'|'.join(NAMES)})(?: that is ({COLOUR}))?"
FACT = re.compile(rf"{NOUN}(?: is ({COLOUR})|(?: is)? ({'|'.join(WORDS)}) {NOUN})?")

Facts = frozenset[tuple[str, ...]]


def read(text: str) -> Facts:
    """What a caption says: ("here", class), ("gone", class), ("is", class, colour) and (relation, class, class)."""
    text = text.lower().rstrip(".")
    if match := re.fullmatch(rf"{NOUN} is not in the photo", text):
        return frozenset({("gone", NAMES[match[2]])})
    said, _, gone = text.removeprefix("the photo shows ").partition(" but not the ")
    facts = {("gone", NAMES[gone])} if gone else set()
    for part in said.split(" and "):
        match = FACT.fullmatch(part)
        assert match, text
        before, name, after, colour, word, *other = match.groups()
        facts.add(("here", NAMES[name]))
        facts |= {("is", NAMES[name], c.capitalize()) for c in (before, after, colour) if c}
        if word:
            second = NAMES[other[1]]
            facts |= {("is", second, c.capitalize()) for c in (other[0], other[2]) if c}
            pair = (second, NAMES[name]) if word.endswith(" by") and word != "right by" else (NAMES[name], second)
            facts.add((WORDS[word], *pair))
    return frozenset(facts)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder, and the item of each image in it."""
    folder = tmp_path_factory.mktemp("further")
    twins.write_further(folder, SCENES, seed=3, items=ITEMS)
    items = {}
    for number, files in enumerate(formats.FILES, 10):
        for n, item in enumerate(files.items(SCENES, 3, ITEMS), number * ITEMS):
            items[str(folder / files.images / f"{n:012d}.jpg")] = item
    return folder, items


def seen(item: Item, scenes: dict[str, Scene]) -> np.ndarray:
    """An oracle's cosines: of an image and a caption, whether all that it says is there; of two captions, whether they
    say the same."""
    said = [read(str(caption)) for caption in item.captions]
    rows = [[all(holds(fact, scenes[image.key]) for fact in facts) for facts in said] for image in item.images]
    rows += [[one == other for other in said] for one in said] if item.caption_rows else []
    return np.array(rows, float)


def ngrams(benchmark: Benchmark) -> dict[str, float]:
    values = blind.ngrams(benchmark.items, benchmark.true_captions)
    return blind.scores(benchmark, benchmark.items, blind.outcomes(benchmark, benchmark.items, values))


@pytest.mark.parametrize("name", TEXTS)
def test_an_oracle_answers_every_item(drawn, name):
    folder, items = drawn
    scenes = {path: item.scenes[0] for path, item in items.items()}
    (benchmark,) = registry.read([name], files=folder)
    assert benchmark.items and not benchmark.problems
    scores = benchmark.score(benchmark.items, [seen(item, scenes) for item in benchmark.items])
    assert scores.keys() == {metric.name for metric in benchmark.metrics}
    for metric, score in scores.items():
        assert score.value == (0 if "brittleness" in metric else 1), metric


@pytest.mark.parametrize("name", [name for name in TEXTS if "retrieval" not in name])
def test_ngrams_are_far_from_an_oracle(drawn, name):
    (benchmark,) = registry.read([name], files=drawn[0])
    most = {name: max(0.5, chance) + 0.15 for name, chance in benchmark.guess(benchmark.items).items()}
    assert {name: score for name, score in ngrams(benchmark).items() if score > most[name]} == {}


def test_no_viewer_could_call_a_false_statement_true(drawn):
    """What a scene leaves open, such as the colour of a thing in natural colours, is not asked."""
    for item in drawn[1].values():
        truth = [statement.is_true(item.scenes[0]) for statement in item.statements]
        assert truth[0] and truth == sorted(truth, reverse=True)


def test_negations_affirm_and_negate_equally_often(drawn):
    """The true statement, and the false ones, of each sort; and the true one is at each place equally often."""
    (benchmark,) = registry.read(["negbench_synthetic"], files=drawn[0])
    sorts = collections.Counter(item.tags["type"] for item in benchmark.items)
    assert set(sorts) == {"positive", "negative", "hybrid"} and set(sorts.values()) == {ITEMS / 3}
    assert set(collections.Counter(item.tags["answer"] for item in benchmark.items).values()) == {ITEMS / 4}


def test_zeroshot_has_every_class_alone_and_pairs_of_them(drawn):
    (benchmark,) = registry.read(["zeroshot"], files=drawn[0])
    chance = benchmark.guess(benchmark.items)
    assert chance["zeroshot/things/top1"] == 1 / len(SCENES.classes)
    assert chance["zeroshot/scenes/top1"] < 1 / 30
    assert len(benchmark.items) == 2 * ITEMS


def test_a_run_that_names_them_has_them_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_TWIN_ITEMS", 4)
    config = clip.get_config("scenes")
    config.data.dir, config.eval.during = str(tmp_path), {}
    for names in (("bla",), ("winoground", "zeroshot")):
        config.eval.benchmarks = names
        assert [one.name for one in evaluator.read_benchmarks(c.load(config))] == list(names)
    (folder,) = (tmp_path / "twins" / "scenes").iterdir()
    assert (folder / "README.md").exists() and (folder / "FURTHER.md").exists()
