"""Noun and adjective swaps: the tag file that the command writes, and the recipes that read it."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.data import check, datasets
from naturel_jax.data.batches.pipeline import make_pipeline
from naturel_jax.data.batches.recipes import recipe
from naturel_jax.data.items import tags
from naturel_jax.data.items.items import Caption, Group, Items, Tags, collect
from naturel_jax.data.items.ragged import Ragged
from naturel_jax.devices.sharding import make_mesh
from naturel_jax.models.presets import preset
from tests.helpers import benchmark_files as files
from tests.helpers.caption_groups import is_uniform, jpeg, processor, sampled_texts
from tfds_naturel.common.errors import UserError

NOUNS, ADJECTIVES = ("dog", "table", "cup", "fire", "truck"), ("red", "small", "blue")


def places(text: str) -> list[tuple[int, int, int]]:
    """By whole words; adjacent nouns are one place."""
    found = ((m.start(), m.end(), NOUNS) for m in re.finditer(rf"\b(?:{'|'.join(NOUNS)})(?: truck)?\b", text))
    others = ((m.start(), m.end(), ADJECTIVES) for m in re.finditer(rf"\b(?:{'|'.join(ADJECTIVES)})\b", text))
    return sorted((start, stop, int(kind is ADJECTIVES)) for start, stop, kind in (*found, *others))


def tagged(*texts: str) -> Items:
    """A dataset with one caption for each image."""
    items = collect("mine", [(f"{n}.jpg", [Group([Caption(text)])]) for n, text in enumerate(texts)])
    rows = [places(text) for text in items.texts]
    swappable = np.array([bool(tags.pairs(text, row)) for text, row in zip(items.texts, rows, strict=True)])
    spread = Ragged.from_rows(list(itertools.chain.from_iterable(row)) for row in rows)
    return dataclasses.replace(items, tags=Tags(spread, swappable, "a test"))


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("a red dog on a small table", {"a red table on a small dog", "a small dog on a red table"}),
        ("The dog, a cup.", {"The cup, a dog."}),
        ("a fire truck by a dog", {"a dog by a fire truck"}),
        ("a dog by a dog and a cup", {"a cup by a dog and a dog", "a dog by a cup and a dog"}),
        ("a red dog", set()),
        ("a dog by a dog", set()),
        ("", set()),
    ],
)
def test_two_different_words_of_one_kind_are_swapped(text, swapped):
    rng = np.random.default_rng(0)
    found = {tags.swap(text, places(text), rng) for _ in range(100)}
    assert found == (swapped or {None})


def test_a_caption_of_ten_thousand_words_costs_little():
    """Its pairs would take gigabytes."""
    text = "dog or table or " * 4000
    found = [(m.start(), m.end(), 0) for m in re.finditer("dog|table", text)]
    assert len(tags.pairs(text, found)) == 100 * 100
    assert tags.swap(text, found, np.random.default_rng(0)) != text


def test_recipes_swap_or_say_which_caption_has_no_swap():
    items = tagged("a dog on a table", "the red dog", "the dog")
    either = recipe("swaps_or_shuffles")
    assert either.check(items) == (1, 1)
    swapped, ([positive], [negative]) = sampled_texts(either, items, [0, 1])
    assert swapped == (["a dog on a table"], ["a table on a dog"])
    assert negative != positive and sorted(negative.split()) == ["dog", "red", "the"]
    strict = recipe("swaps")
    message = (
        r"'swaps' .* which 2 of mine do not have; the first: 'the red dog' of image '1\.jpg'\. .*swaps_or_shuffles"
    )
    with pytest.raises(UserError, match=message):
        strict.check(items)
    assert strict.check(dataclasses.replace(items, left_out=np.array([1, 2]))) == (1, 1)
    assert sampled_texts(strict, items, [1]) == [(["the red dog"], [])]
    for which in (recipe("clic"), strict):
        with pytest.raises(UserError, match=r"needs tags of the captions, which mine does not have; .* --tags en_core"):
            which.check(dataclasses.replace(items, tags=None))


def test_every_swap_is_drawn_equally_often():
    made = sampled_texts(recipe("swaps"), tagged("a red dog on a small table"), [0] * 400)
    expected = ("a small dog on a red table", "a red table on a small dog")
    assert is_uniform((negative for _, [negative] in made), expected)


@pytest.fixture
def records(tmp_path) -> Path:
    """Four records, of which the last has nothing to swap."""
    captions = ("a red dog on a small table", "the dog, a cup", "a small fire truck by a dog", "nothing here")
    for n in range(4):
        files.write(tmp_path / f"{n}.jpg", jpeg(n))
    rows = [{"image": f"{n}.jpg", "caption": caption} for n, caption in enumerate(captions)]
    files.write(tmp_path / "my.jsonl", b"\n".join(json.dumps(row).encode() for row in rows))
    return tmp_path


def test_command_writes_tags_that_a_run_reads(records, capsys):
    """By a pipeline of the test's own: spaCy's models cannot be downloaded everywhere."""
    spacy = pytest.importorskip("spacy", reason="the extra naturel_jax[order] is not installed")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    for words, tag in ((NOUNS, "NN"), (ADJECTIVES, "JJ")):
        ruler.add([[{"LOWER": word}] for word in words], {"TAG": tag})
    pipeline.meta.update({"name": "ruled", "version": "1.2.3"})
    pipeline.to_disk(records / "model")
    source, data = f"jsonl:{records}/my.jsonl", str(records / "data")
    check.main([source, "--data_dir", data, "--tags", str(records / "model"), "--workers", "1"])
    made_by = f"spaCy {spacy.__version__}, en_ruled 1.2.3"
    assert f"captions tagged by {made_by}" in capsys.readouterr().out

    items = datasets.open_source(source, data, "train").items
    assert items.tags.made_by == made_by and items.tags.swappable_T.tolist() == [True, True, True, False]
    for n, text in enumerate(items.texts):
        assert items.tags.places[n].reshape(-1, 3).tolist() == [list(place) for place in places(text)]

    raw = c.base()
    raw.preset, raw.data.dir, raw.data.batch_size = "tiny-clip", data, 8
    raw.data.mixture.main = c.part(source, "swaps_or_shuffles")
    config = c.load(raw)
    sources = datasets.open_sources(config.data)
    assert datasets.contents(config.data, sources)["main"]["tags"] == made_by
    clip, mesh = processor("clip", list(items.texts)), make_mesh({"data": -1})
    made = [make_pipeline(config, sources, preset("tiny-clip"), clip, mesh) for _ in range(2)]
    texts = [[pipeline.planner.texts(step) for step in range(4)] for pipeline in made]
    assert texts[0] == texts[1], "a function of (seed, step)"
    swapped = {"a red table on a small dog", "a small dog on a red table", "the cup, a dog"}
    assert swapped <= set(itertools.chain(*texts[0]))

    (path,) = (records / "data/.cache").glob("*/tags/meta.json")
    path.write_text(storage.sealed({"version": 2, "made_by": "later"}))
    with pytest.raises(UserError, match=r"tags/meta\.json has version 2; this program reads 1: tag the source again"):
        datasets.open_source(source, data, "train")
    blank = spacy.blank("en")
    blank.to_disk(records / "blank")
    with pytest.raises(UserError, match="no noun or adjective in 4 captions; expected an English tagger"):
        check.main([source, "--data_dir", data, "--tags", str(records / "blank"), "--workers", "1"])
    with pytest.raises(UserError, match="spaCy has no model of this name: run `python -m spacy download none_such`"):
        check.main([source, "--data_dir", data, "--tags", "none_such", "--workers", "1"])
