"""The caption bank and its reader, the checks, and reviewers' decisions."""

import dataclasses

import numpy as np
import pytest

from tfds_naturel.audit import attack, attack_report
from tfds_naturel.captions import bank, checks, grammar
from tfds_naturel.common.files import md5_of
from tfds_naturel.common.schema import Triplet

CAT = Triplet("Cat", "on", "Desk")


@pytest.fixture(scope="module")
def published() -> bank.Bank:
    return bank.load()


def test_bank_has_the_published_triplets(published):
    counts = {}
    for triplet in published:
        counts[triplet.relation] = counts.get(triplet.relation, 0) + 1
    # Triplets per relation in Open Images V4 (Kuznetsova et al. 2020)
    assert counts == {
        **{"holds": 108, "on": 66, "is": 42, "interacts_with": 30, "plays": 20, "inside_of": 17, "at": 15, "wears": 15},
        **{"hits": 8, "under": 8},
    }
    slots = [(0, pair, polarity) for pair in range(4) for polarity in ("positive", "negative")]
    for captions in published.values():
        order = [(c.paraphrase, c.pair, c.polarity) for c in captions]
        assert order[:8] == slots and all(paraphrase for paraphrase, _, _ in order[8:])


def test_every_published_caption_passes_the_checks(published):
    assert checks.check(published) == []


def test_published_captions_have_the_style_of_the_third_edition(published):
    assert checks.style(published) == []


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Is the cat on the desk?", "question"),
        ("The cat could be on the desk.", "modal verb"),
        ("If it isn't the desk, the cat sits elsewhere.", "hypothesis"),
        ("You see a cat on a desk.", "second person"),
        ("The cat isn't under the desk.", "negation"),
        ("The cat is on the desk rather than under it.", "contrast"),
    ],
)
def test_style_finds_sentences_that_nobody_writes_under_a_photo(text, mark):
    plain = dataclasses.replace(grammar.write(CAT, np.random.default_rng(0))[2], text="A cat can be seen on a desk.")
    assert checks.style({CAT: (plain,) * 8}) == []
    (problem, *_) = checks.style({CAT: (*[plain] * 8, dataclasses.replace(plain, text=text))})
    assert f"1 of 9 complex captions, such as {text!r}, have a {mark}, expected at most " in problem


def test_edition_of_a_dataset_is_known_by_its_bank():
    second = "e75e7c649fe61a0e70484e511efeec89"
    ours = {release: "+".join(map(md5_of, bank.files(release))) for release in bank.FILES}
    assert [bank.edition({"release": name, "bank": md5}) for name, md5 in ours.items()] == ["third", "third"]
    assert bank.edition({"release": "v4", "bank": second}) == "second"
    assert bank.edition({"release": "v6", "bank": f"{second}+7f4af7387a6eebf9e1032dc29095cf9f"}) == "second"
    assert bank.edition({"release": "v4", "bank": "0" * 32}) == ""


def test_captions_fall_back_to_the_grammar(published):
    known, new = Triplet("Cat", "on", "Desk"), Triplet("Cat", "on", "Umbrella")
    assert bank.captions_for(known, published, np.random.default_rng(0)) == published[known]
    assert bank.captions_for(new, published, np.random.default_rng(0)) == grammar.write(new, np.random.default_rng(0))


def broken(edit):
    captions = {Triplet("Cat", "on", "Desk"): grammar.write(Triplet("Cat", "on", "Desk"), np.random.default_rng(0))}
    rows = [list(bank.COLUMNS)]
    rows += [[str(c.as_features()[column]) for column in bank.COLUMNS] for w in captions.values() for c in w]
    edit(rows)
    return "\n".join("\t".join(row) for row in rows).encode()


def set_field(row, column, value):
    return lambda rows: rows[row].__setitem__(bank.COLUMNS.index(column), value)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_field(1, "triplet", "Cat on Desk"), r"row 2: triplet 'Cat on Desk': expected 'subject\|relation\|object'"),
        (set_field(2, "kind", "easy"), "row 3: kind is 'easy', expected 'simple' or 'complex'"),
        (set_field(2, "polarity", "positive"), "row 3: operation is 'swap', expected ''"),
        (set_field(3, "asserts", "Desk|on|Cat"), "row 4: positive asserts another triplet"),
        (set_field(4, "text", " "), "row 5: text or shape is empty"),
        (lambda rows: rows.append(list(rows[1])), "row 10: pair 0 of .* already has a positive .row 2.; remove one"),
        (lambda rows: rows.pop(8), "has no negative of pair 3; add the missing rows"),
        (lambda rows: rows[5].append("more"), "row 6: has 10 tab-separated fields, expected 9"),
        (lambda rows: rows.pop(0), "row 1: found .* expected the tab-separated columns"),
    ],
)
def test_malformed_bank_errors_name_the_row_and_the_fix(tmp_path, edit, message):
    path = tmp_path / "bank.tsv"
    path.write_bytes(broken(edit))
    with pytest.raises(bank.BadBank, match=message):
        bank.load(path)


def test_bank_that_is_not_utf8_error_names_the_row(tmp_path):
    path = tmp_path / "bank.tsv"
    path.write_bytes(broken(lambda rows: None).replace(b"cat on desk", b"caf\xe9 on desk", 1))
    with pytest.raises(bank.BadBank, match=r"row 2: not UTF-8 .*save the file as UTF-8"):
        bank.load(path)


def test_checks_find_each_problem():
    captions = list(grammar.write(Triplet("Cat", "on", "Desk"), np.random.default_rng(0)))
    texts = ("The cat iz on the desk.", "The cat is on.", "<b>A cat</b> is on a desk.")
    for text, fault in zip(texts, ("'iz' is not in the dictionary", "does not mention Desk", "markup"), strict=True):
        changed = [dataclasses.replace(captions[2], text=text) if i == 2 else c for i, c in enumerate(captions)]
        assert any(fault in problem for problem in checks.check({captions[0].triplet: tuple(changed)}))


def test_negatives_that_say_the_same_as_their_positives_are_problems():
    captions = grammar.write(CAT, np.random.default_rng(0))
    positive = dataclasses.replace(captions[2], text="The cat is on a desk.")
    same = dataclasses.replace(captions[3], text="A cat is on the desk.", asserts=Triplet("Desk", "under", "Cat"))
    assert [problem for _, problem in checks.pairs((positive, same))] == [
        "has the words of its positive",
        "asserts Desk|under|Cat, which says the same as Cat|on|Desk",
    ]
    beside = dataclasses.replace(captions[3], text="A cat is by a desk.", asserts=Triplet("Cat", "beside", "Desk"))
    assert list(checks.pairs((positive, beside))) == []


def test_plural_of_a_noun_mentions_its_class():
    assert checks.mentions("Of all the wine glasses, the man has one.", "Wine glass")
    assert not checks.mentions("The man has one glass.", "Wine glass")


def test_text_alone_hardly_tells_a_pair_whose_claim_is_true_elsewhere(published):
    """Other pairs it does tell: what no photo shows is only ever said in false captions."""
    pairs, views = attack_report.bank_pairs(published), attack_report.bank_views(published)
    rows = [n for n, pair in enumerate(pairs) if pair.mirrored == "yes"]
    found = {name: attack.wins(pairs, view, attack.ngrams)[rows].mean() for name, view in views.items()}
    assert all(share <= 0.6 for share in found.values()), found


def test_complex_captions_are_written_as_sentences(published):
    texts = [c.text for captions in published.values() for c in captions if c.kind == "complex"]
    assert {text[-1] for text in texts} == {"."} and all(text[0].isupper() for text in texts)
