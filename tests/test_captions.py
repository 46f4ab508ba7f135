"""The grammar, the bank and its reader, reviewers' decisions and the generator."""

import csv
import dataclasses
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from tfds_naturel import decisions
from tfds_naturel.captions import bank, checks, generate, grammar, parse
from tfds_naturel.captions.relations import RELATIONS, converse, excluded
from tfds_naturel.schema import Triplet

V6 = (
    "at contain holds ride on hang plays interacts_with wears inside_of skateboard surf hits kick throw catch "
    "drink eat ski talk_on_phone dance handshake hug high_five read cut kiss holding_hands under snowboard "
    "left_of right_of is"
)
CLASSES = ("Man", "Woman", "Cat", "Chopsticks", "Mobile phone", "Coffee table", "Table", "Umbrella", "Elephant", "Ski")
ATTRIBUTES = ("Wooden", "Transparent", "Plastic", "(made of)Leather", "(made of)Textile")


@pytest.fixture(scope="module")
def published() -> bank.Bank:
    return bank.load()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def some_triplets(count: int) -> list[Triplet]:
    draw, labels = rng(7), V6.split()
    found = []
    for _ in range(count):
        relation, subject = draw.choice(labels), draw.choice(CLASSES)
        object_ = draw.choice(ATTRIBUTES) if relation == "is" else draw.choice(CLASSES)
        found.append(Triplet(str(subject), str(relation), str(object_)))
    return found


def test_grammar_writes_passing_captions_for_every_relation():
    written = {triplet: grammar.write(triplet, rng(n)) for n, triplet in enumerate(some_triplets(400))}
    assert {t.relation for t in written} == set(V6.split())
    assert checks.check(written) == []


def test_grammar_is_a_pure_function_of_the_state():
    triplet = Triplet("Cat", "on", "Desk")
    assert grammar.write(triplet, rng(3)) == grammar.write(triplet, rng(3)) != grammar.write(triplet, rng(4))


def test_captions_are_pairs_in_order():
    captions = grammar.write(Triplet("Dog", "paints", "Umbrella"), rng())
    assert [(c.pair, c.polarity) for c in captions] == [(p, s) for p in range(4) for s in ("positive", "negative")]
    assert [c.text for c in captions[:2]] == ["dog paints umbrella", "umbrella paints dog"]


def test_negatives_are_false_in_a_closed_world():
    world = {Triplet("Cat", "on", "Desk"), Triplet("Desk", "holds", "Cat"), Triplet("Desk", "on", "Cat")}
    for seed in range(200):
        for caption in grammar.write(Triplet("Cat", "on", "Desk"), rng(seed), world.__contains__)[1::2]:
            said = caption.asserts
            assert said is None or (said not in world and converse(said) not in world)


def test_symmetric_relations_are_never_swapped():
    for relation in ("interacts_with", "hug", "at"):
        for seed in range(50):
            negatives = grammar.write(Triplet("Man", relation, "Dog"), rng(seed))[1::2]
            assert all(c.operation != "swap" for c in negatives)


def test_relation_table_is_consistent():
    for label, relation in RELATIONS.items():
        assert all(other in RELATIONS for other in (*relation.excludes, *relation.implies))
        assert not set(relation.excludes) & set(relation.implies), label
        if relation.converse:
            assert RELATIONS[relation.converse].converse == label


@pytest.mark.parametrize(
    ("triplet", "claim", "false"),
    [
        ("Cat|on|Desk", "Desk|on|Cat", True),
        ("Cat|on|Desk", "Cat|under|Desk", True),
        ("Cat|on|Desk", "Desk|under|Cat", False),  # the converse: true
        ("Cat|on|Desk", "Cat|at|Desk", False),  # may be true as well
        ("Chair|at|Table", "Table|at|Chair", False),  # loosely symmetric
        ("Man|interacts_with|Dog", "Dog|interacts_with|Man", False),
        ("Table|is|Wooden", "Table|is|Plastic", True),
        ("Bottle|is|Plastic", "Bottle|is|Transparent", False),  # most are both
    ],
)
def test_what_cannot_be_true_beside_a_triplet(triplet, claim, false):
    assert excluded(Triplet.parse(triplet), Triplet.parse(claim)) is false


@pytest.mark.parametrize(
    ("positive", "negative", "operation", "claim"),
    [
        ("The cat is on the desk.", "The desk is on the cat.", "swap", "Desk|on|Cat"),
        ("The cat is on the desk.", "The cat is under the desk.", "relation", "Cat|under|Desk"),
        ("The desk is under the cat.", "The cat is under the desk.", "swap", "Cat|under|Desk"),
        ("The desk is under the cat.", "The desk is above the cat.", "relation", "Cat|under|Desk"),
        ("There's a desk with a cat on it.", "There's a desk with a cat under it.", "relation", "Cat|under|Desk"),
        ("The cat is on the desk.", "The cat is not on the desk.", "denial", None),
        ("The cat is on the desk.", "The cat is under the desk, not on it.", "relation", "Cat|under|Desk"),
        (
            "The cat is on the desk and not under it.",
            "The cat is under the desk and not on it.",
            "relation",
            "Cat|under|Desk",
        ),
        (
            "It's on the desk, not under it, that you see a cat.",
            "It's under the desk, not on it, that you see a cat.",
            "relation",
            "Cat|under|Desk",
        ),
    ],
)
def test_pairs_read_back_as_what_was_done(positive, negative, operation, claim):
    read = parse.operation(positive, negative, Triplet("Cat", "on", "Desk"))
    assert read == (operation, Triplet.parse(claim) if claim else None)


def test_a_negative_that_says_the_same_is_refused():
    with pytest.raises(ValueError, match="says the same"):
        parse.operation("The cat is on the desk.", "A cat is on a desk.", Triplet("Cat", "on", "Desk"))


def test_a_positive_with_its_roles_reversed_is_refused():
    with pytest.raises(ValueError, match="the positive has the Beer act on the Girl"):
        parse.operation(
            "The girl is held by the beer.", "The beer is held by the girl.", Triplet("Girl", "holds", "Beer")
        )


def test_the_bank_holds_the_published_triplets(published):
    counts = {}
    for triplet in published:
        counts[triplet.relation] = counts.get(triplet.relation, 0) + 1
    # Kuznetsova et al. 2020, and openimages.md: triplets per relation of V4
    assert counts == {
        **{"holds": 108, "on": 66, "is": 42, "interacts_with": 30, "plays": 20, "inside_of": 17, "at": 15, "wears": 15},
        **{"hits": 8, "under": 8},
    }
    assert all(len(captions) == 8 for captions in published.values())


def test_every_published_caption_passes(published):
    assert checks.check(published) == []


def test_a_bank_survives_saving(published, tmp_path):
    bank.save(tmp_path / "bank.tsv", published)
    assert bank.load(tmp_path / "bank.tsv") == published


def test_captions_come_from_the_bank_or_else_the_grammar(published):
    known, new = Triplet("Cat", "on", "Desk"), Triplet("Cat", "on", "Umbrella")
    assert bank.captions_for(known, published, rng()) == published[known]
    assert bank.captions_for(new, published, rng()) == grammar.write(new, rng())


def broken(edit):
    captions = {Triplet("Cat", "on", "Desk"): grammar.write(Triplet("Cat", "on", "Desk"), rng())}
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
        (set_field(3, "asserts", "Desk|on|Cat"), "row 4: a positive asserts another triplet"),
        (set_field(4, "text", " "), "row 5: text or shape is empty"),
        (lambda rows: rows.append(list(rows[1])), "row 10: pair 0 of .* already has a positive .row 2.; remove one"),
        (lambda rows: rows.pop(8), "has no negative of pair 3; add the missing rows"),
        (lambda rows: rows[5].append("more"), "row 6: has 9 fields, expected 8"),
        (lambda rows: rows.pop(0), "row 1: found .* expected the tab-separated columns"),
    ],
)
def test_broken_banks_name_the_row_and_the_fix(tmp_path, edit, message):
    path = tmp_path / "bank.tsv"
    path.write_bytes(broken(edit))
    with pytest.raises(bank.BadBank, match=message):
        bank.load(path)


def test_a_bank_in_another_encoding_names_the_row(tmp_path):
    path = tmp_path / "bank.tsv"
    path.write_bytes(broken(lambda rows: None).replace(b"cat on desk", b"caf\xe9 on desk", 1))
    with pytest.raises(bank.BadBank, match=r"row 2: is not UTF-8 .*save the file as UTF-8"):
        bank.load(path)


def test_checks_find_each_fault():
    captions = list(grammar.write(Triplet("Cat", "on", "Desk"), rng()))
    texts = ("The cat iz on the desk.", "The cat is on.", "<b>A cat</b> is on a desk.")
    for text, fault in zip(texts, ("does not know 'iz'", "does not name Desk", "markup"), strict=True):
        changed = [dataclasses.replace(captions[2], text=text) if i == 2 else c for i, c in enumerate(captions)]
        assert any(fault in problem for problem in checks.check({captions[0].triplet: tuple(changed)}))


def test_kappa_of_a_worked_example(tmp_path):
    # By hand: of 50, both accept 20 and reject 15, they differ on 5 and 10: (0.7 - 0.5) / (1 - 0.5) = 0.4
    verdicts = [("accept", "accept")] * 20 + [("accept", "reject")] * 5
    verdicts += [("reject", "accept")] * 10 + [("reject", "reject")] * 15
    files = []
    for who in (0, 1):
        path = tmp_path / f"{who}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = [["A|on|B", f"text, {n}", pair[who]] for n, pair in enumerate(verdicts)]
            csv.writer(file).writerows([decisions.COLUMNS, *rows, ["A|on|B", "not judged", ""]])
        files.append(decisions.verdicts(path))
    assert decisions.kappa(*files) == (pytest.approx(0.4), 50)
    assert math.isnan(decisions.kappa(files[0], {})[0])


class Chat(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert "Cat on Desk" in asked["messages"][0]["content"]
        pairs = [
            ["A cat sits on the desk.", "A cat sits under the desk."],
            ["A cat is on a desk.", "The cat is asleep."],
        ]
        body = json.dumps({"choices": [{"message": {"content": "Here: " + json.dumps(pairs)}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


def test_generated_captions_go_through_the_checks():
    server = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ask = generate.endpoint(f"http://127.0.0.1:{server.server_port}/v1", "any")
        sound, faults = generate.pairs(Triplet("Cat", "on", "Desk"), ask)
    finally:
        server.shutdown()
        server.server_close()
    assert [(n.text, str(n.asserts)) for _, n in sound] == [("A cat sits under the desk.", "Cat|under|Desk")]
    assert len(faults) == 1 and "The cat is asleep." in faults[0]


def test_an_answer_that_is_no_list_is_shown():
    with pytest.raises(ValueError, match="answered 'I cannot'"):
        generate.pairs(Triplet("Cat", "on", "Desk"), lambda prompt: "I cannot")
