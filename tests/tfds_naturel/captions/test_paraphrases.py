"""Several wordings of one caption: in the bank, in a build and its release, and as training samples them."""

import dataclasses
import itertools
import random

import numpy as np
import pytest

from naturel_jax.data.batches.recipes import RECIPES, Recipe, recipe
from naturel_jax.data.items import items as tables
from naturel_jax.data.items import prepared
from naturel_jax.data.items.items import Group, collect
from tests.helpers.caption_groups import is_uniform, items, reworded, sampled_texts
from tfds_naturel.audit import __main__ as audit
from tfds_naturel.audit import attack_report, review
from tfds_naturel.captions import bank, grammar
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.schema import KINDS, POLARITIES, Triplet, numbered
from tfds_naturel.open_images.examples import Writer

CAT, DOG = Triplet("Cat", "on", "Desk"), Triplet("Dog", "on", "Chair")
PAIRS = [(pair, paraphrase) for paraphrase in range(3) for pair in ((0, 1, 2, 3), (1, 2, 3), (2,))[paraphrase]]


def worded(triplet: Triplet):
    """Captions of ``triplet``: pair 0 in one wording, pairs 1 and 3 in two, pair 2 in three."""
    fixed = grammar.write(triplet, np.random.default_rng(0))
    return tuple(
        dataclasses.replace(caption, text=reworded(caption.text, paraphrase), paraphrase=paraphrase)
        for pair, paraphrase in PAIRS
        for caption in fixed[2 * pair : 2 * pair + 2]
    )


def slots(captions):
    return [(c.pair, c.paraphrase) for c in captions[::2]]


# ---- The bank --------------------------------------------------------------------------------------------------------


def test_bank_is_read_in_any_order_of_its_rows(tmp_path):
    path = tmp_path / "bank.tsv"
    bank.save(path, {CAT: worded(CAT)})
    header, *rows = path.read_text().splitlines(keepends=True)
    assert [tuple(row.split("\t")[2:4]) for row in rows[::2]] == [(str(p), str(n)) for p, n in sorted(PAIRS)]
    random.Random(0).shuffle(rows)
    path.write_text("".join([header, *rows]))
    assert bank.load(path) == {CAT: worded(CAT)}


def test_bank_without_the_column_has_one_wording(tmp_path):
    path, place = tmp_path / "bank.tsv", bank.COLUMNS.index("paraphrase")
    captions = grammar.write(CAT, np.random.default_rng(0))
    bank.save(path, {CAT: captions})
    rows = [line.split("\t") for line in path.read_text().splitlines(keepends=True)]
    path.write_text("".join("\t".join(row[:place] + row[place + 1 :]) for row in rows))
    assert bank.load(path) == {CAT: captions}


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (1, {"paraphrase": "-1"}, r"row 3: paraphrase is '-1', expected a number from 0 to 99"),
        (5, {"paraphrase": "0"}, r"row 7: pair 1 of Cat\|on\|Desk already has a negative .row 5.; remove one or"),
        (10, {"paraphrase": "3"}, r"has no positive of paraphrase 2 of pair 2, negative of paraphrase 3 .*; add"),
        (5, {"asserts": "", "operation": "denial"}, r"row 7: paraphrase 1 of pair 1 .* '' by 'denial', but .*row 5"),
        (5, {"operation": "attribute"}, r"row 7: .* by 'attribute', but .* all of a complex pair make one"),
    ],
)
def test_bad_paraphrases_are_named(tmp_path, number, change, message):
    captions = sorted(worded(CAT), key=lambda c: (c.pair, c.paraphrase))
    rows = [c.as_features() for c in captions]
    rows[number] |= change
    lines = ["\t".join(str(row[column]) for column in bank.COLUMNS) for row in rows]
    (tmp_path / "bank.tsv").write_text("\n".join(["\t".join(bank.COLUMNS), *lines]))
    with pytest.raises(bank.BadBank, match=message):
        bank.load(tmp_path / "bank.tsv")


def test_wordings_of_a_simple_pair_may_make_different_claims(tmp_path):
    fixed, under = worded(CAT), Triplet("Cat", "under", "Desk")
    more = (
        dataclasses.replace(fixed[0], text="the cat on the desk", paraphrase=1),
        dataclasses.replace(fixed[1], text="the cat under the desk", paraphrase=1, asserts=under, operation="relation"),
    )
    bank.save(tmp_path / "bank.tsv", {CAT: (*fixed, *more)})
    assert set(bank.load(tmp_path / "bank.tsv")[CAT]) == {*fixed, *more}


def test_paraphrase_in_the_words_of_another_is_refused(tmp_path):
    captions = list(worded(CAT))
    captions[8] = dataclasses.replace(captions[8], text=captions[4].text)
    bank.save(tmp_path / "bank.tsv", {CAT: tuple(captions)})
    with pytest.raises(bank.BadBank, match=r"row 6: paraphrase 1 of pair 1 of .* repeats the text of row 8; write it"):
        bank.load(tmp_path / "bank.tsv")


def test_audit_reports_the_fixed_wording_and_all_wordings(tmp_path):
    captions = {triplet: worded(triplet) for triplet in (CAT, DOG)}
    fixed = {triplet: of_triplet[:8] for triplet, of_triplet in captions.items()}
    assert attack_report.bank_pairs(captions) == attack_report.bank_pairs(fixed)
    every = attack_report.all_pairs(captions)
    assert len(every) == 2 * (2 + 3 + 2) and {pair.group for pair in every} == {str(CAT), str(DOG)}
    bank.save(tmp_path / "bank.tsv", captions)
    with pytest.raises(UserError, match="problems"):  # brackets are markup
        audit.main(["--bank", str(tmp_path / "bank.tsv"), "--out", str(tmp_path)])
    report = (tmp_path / "report.md").read_text()
    assert "32 captions of 2 triplets, 16 of them paraphrase 0; " in report
    rows = [line.strip("| ").split(" | ")[:2] for line in report[report.index("### All paraphrases") :].splitlines()]
    views = ("masked", "raw", "style")
    assert [row for row in rows if row[0] in views] == [[view, "14"] for view in views]


def test_review_page_has_each_wording_beside_the_others():
    rows = [question.row for screen in review.screens({CAT: worded(CAT)}) for question in screen.questions]
    found = [(int(row["pair"]), int(row["paraphrase"])) for row in rows]
    assert found[::2] == found[1::2] == sorted(PAIRS)


# ---- The builder and the release -------------------------------------------------------------------------------------


def written(*rejected: str, shown=(CAT,)):
    captions = {CAT: worded(CAT)}
    return Writer(captions, frozenset((CAT, text) for text in rejected), seed=0).captions(CAT, shown)


def test_rejected_paraphrases_are_left_out_and_the_others_numbered_again():
    captions = worded(CAT)
    text = {(c.pair, c.paraphrase): c.text for c in captions[::2]}
    assert written() == captions
    kept = written(text[2, 1], text[3, 0])
    assert slots(kept) == [(0, 0), (1, 0), (2, 0), (3, 0), (1, 1), (2, 1)]
    assert [c.text for c in kept[::2] if c.pair > 1] == [text[2, 0], text[3, 1], text[2, 2]]
    assert [c.polarity for c in kept] == ["positive", "negative"] * 6


def test_grammar_writes_one_wording_of_a_pair_that_has_no_other():
    captions = worded(CAT)
    negatives = [c.text for c in captions[1::2] if c.pair == 1]
    kept = written(*negatives)
    assert slots(kept) == [slot for slot in PAIRS if slot != (1, 1)]
    assert not {c.text for c in captions if c.pair == 1} & {c.text for c in kept}
    assert [c for c in kept if c.pair != 1] == [c for c in captions if c.pair != 1]


def test_all_wordings_of_a_negative_that_an_image_shows_are_replaced():
    claims = {c.pair: c.asserts for c in worded(CAT)[1:8:2]}
    false = next(claim for pair, claim in claims.items() if pair and claim)
    replaced = {pair for pair, claim in claims.items() if claim == false}
    kept = written(shown=(CAT, false))
    assert all(c.asserts != false for c in kept)
    assert slots(kept) == [(pair, paraphrase) for pair, paraphrase in PAIRS if not paraphrase or pair not in replaced]


def rows(captions) -> dict:
    """The ``captions`` of a decoded example with these captions in one group."""
    found = numbered([captions])
    columns = {name: [row[name] for row in found] for name in found[0]}
    columns |= {"kind": list(map(KINDS.index, columns["kind"]))}
    return columns | {"polarity": list(map(POLARITIES.index, columns["polarity"]))}


def test_wordings_are_read_in_their_order():
    example = {"image_id": b"a", "captions": rows(worded(CAT))}
    (read,) = prepared.caption_groups(example)
    assert read == Group.from_triplet(worded(CAT))
    assert [len(c.paraphrases) for c in read.positives] == [len(c.paraphrases) for c in read.negatives] == [0, 1, 2, 1]
    assert read.positives[2].paraphrases == tuple(reworded(read.positives[2].text, n) for n in (1, 2))
    example["captions"]["paraphrase"][8] = 2
    with pytest.raises(UserError, match=r"image 'a': paraphrase 2 .* does not follow paraphrase 1 of its pair"):
        prepared.caption_groups(example)


# ---- Training --------------------------------------------------------------------------------------------------------


def split(text: str) -> tuple[str, int]:
    """The fixed wording of a text of ``reworded``, and its paraphrase."""
    fixed, _, number = text.partition(" [")
    return fixed, int(number[:-1]) if number else 0


FROM_CAPTIONS = [name for name, of in RECIPES.items() if not (of.rewrite or of.rewrite_to_negative or of.swaps)]


@pytest.mark.parametrize("name", FROM_CAPTIONS)
def test_paraphrases_are_drawn_after_the_captions_and_uniformly(name):
    """With one wording of each, the same captions are sampled from the same draws."""
    images = [0] * 3000
    many, one = (sampled_texts(recipe(name), items(wordings=n), images) for n in (3, 1))
    assert [tuple([split(text)[0] for text in side] for side in both) for both in many] == one
    drawn = [tuple(split(text)[1] for side in both for text in side) for both in many]
    columns = len(drawn[0]) // 2 if recipe(name).paired else len(drawn[0])
    if recipe(name).paired:
        assert all(both[:columns] == both[columns:] for both in drawn)
    assert is_uniform([both[:columns] for both in drawn], itertools.product(range(3), repeat=columns))


def test_wordings_of_captions_that_have_different_numbers_of_them():
    """Positives and negatives that are not paired."""
    wordings = (1, 4, 3, 1)
    others = {(s, p): [f"{s} {p} [{n}]" for n in range(1, wordings[p])] for s in "+-" for p in range(4)}
    sides = [[tables.Caption(f"{s} {p}", pair=p, paraphrases=others[s, p]) for p in range(4)] for s in "+-"]
    table, which = collect("mine", [("a", [Group(*sides)])]), Recipe(positives=1, negatives=1)
    sampled = sampled_texts(which, table, [0] * 2000)
    for side in (0, 1):
        drawn = [split(both[side][0]) for both in sampled]
        for p in (1, 2):
            assert is_uniform([n for text, n in drawn if text == f"{'+-'[side]} {p}"], range(wordings[p]))


def test_pair_has_the_paraphrases_that_both_captions_have():
    negatives = [tables.Caption("-"), tables.Caption("- 2", pair=1)]
    table = collect("mine", [("a", [Group([tables.Caption("+", paraphrases=["+ [1]"])], negatives)])])
    for positives, negatives in sampled_texts(recipe("one_pair"), table, [0] * 50):
        assert positives == ["+"] and negatives[0] in ("-", "- 2")


def test_counts_are_those_of_captions_not_of_wordings():
    for name in FROM_CAPTIONS:
        assert recipe(name).check(items(wordings=3)) == recipe(name).check(items())
    assert items(wordings=3).positives.starts_G1.tolist() == items().positives.starts_G1.tolist()
    assert items().positives.paraphrases is None


def test_every_wording_asserts_what_the_caption_does():
    one, many = items(), items(wordings=3)
    assert many.facts == one.facts and [row.tolist() for row in map(many.shows.__getitem__, range(12))] == [
        row.tolist() for row in map(one.shows.__getitem__, range(12))
    ]
    asserted = {text: set(one.asserts[n].tolist()) for n, text in enumerate(one.texts)}
    assert len(many.texts) == 3 * len(one.texts)
    assert all(set(many.asserts[n].tolist()) == asserted[split(text)[0]] for n, text in enumerate(many.texts))
