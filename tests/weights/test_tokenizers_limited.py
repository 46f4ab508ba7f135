"""Tokenizers that grow without end are refused before this process opens them; sound ones are not."""

import base64
import dataclasses
import json
import random
import struct

import pytest
from sentencepiece import sentencepiece_model_pb2

from naturel_jax.data.text import limited
from naturel_jax.data.text.tokenizer import train_tokenizer
from naturel_jax.weights import hub, processor_files
from tests.helpers.bombs import hostile_tokenizer
from tests.helpers.model_files import sentencepiece_model, tiny
from tfds_naturel.common.errors import UserError

SOUND = train_tokenizer("clip", ["a cat under a table"] * 20, 300, 12)


@pytest.mark.parametrize("seed", range(12))
def test_tokenizers_that_grow_are_refused_in_one_line(seed):
    hostile = json.dumps(hostile_tokenizer(random.Random(seed), json.loads(SOUND)))
    try:
        limited.check("model/tokenizer.json", hostile)
    except UserError as error:
        assert str(error).startswith("model/tokenizer.json: ") and "\n" not in str(error)
    else:  # a class repeated 90,000 times is only slow to write
        assert "[ab]{90000}" in hostile


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_sound_tokenizers_pass(family):
    limited.check("a", train_tokenizer(family, ["a cat under a table"] * 20, 300, 12))
    limited.check("a", tiny(f"tiny-{family}").processor.tokenizer)


def test_published_tokenizer_passes():
    limited.check("a", processor_files.openai_tokenizer(hub.clip_vocabulary(), 77)["tokenizer"])


@pytest.mark.parametrize(
    ("pattern", "refused"),
    [
        (r"(a+)+$", True),
        (r"((a+))+$", True),
        (r"(?:[b-z ,]|[b-z ,]){18}#", True),
        (r"(?:a?){30}#", True),
        (r"a*b*c*#", True),
        (r"(?#[)(?:a|a){30}", True),
        (r"\c[(?:a|a){30}", True),
        (r"(?:x*y)*", True),
        (r"(a)\1", True),
        *[("x" + hidden * 20 + "#", True) for hidden in (r"(?:a|a)[[a-z]|]", r"(?:a|a)[]|]", r"(?:a|a)[\c]|]")],
        (r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", False),
        (r"[\p{L}(a*)]+(?:\p{L}|[a*])?", False),
    ],
)
def test_patterns_that_match_in_too_many_ways_are_refused(pattern, refused):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    text = json.dumps(json.loads(SOUND) | {"pre_tokenizer": split})
    if not refused:
        return limited.check("a", text)
    with pytest.raises(UserError, match=r"can take forever: |whose cost is not known here"):
        limited.check("a", text)


def test_random_ids_are_refused():
    state = json.loads(SOUND)
    state["model"]["dropout"] = 0.1
    with pytest.raises(UserError, match=r"^a: model\.dropout is 0\.1, so its ids are random; expected null"):
        limited.check("a", json.dumps(state))


REPLACE = {"pattern": {"String": "a"}, "content": "aa"}  # without its type, which the library does not need
WORDS = {"type": "WordPiece", "unk_token": "a", "max_input_chars_per_word": 10**9, "vocab": {"a": 0}}
GROWS = "its normalizers make more than 128 characters of one"
CHARSMAP = struct.pack("<I", 4) + bytes(4) + b"z" * 20 + b"\0"  # what it makes of some character has 20

PRECOMPILED = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(CHARSMAP).decode()}
METASPACE = {"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": True}
TEMPLATE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2, "special_tokens": {}}


def sequence(*steps: dict | str) -> dict:
    return {
        "normalizer": {"type": "Sequence", "normalizers": [s if isinstance(s, dict) else {"type": s} for s in steps]}
    }


def becomes(letter: str, other: str) -> dict:
    return {"type": "Replace", "pattern": {"String": letter}, "content": other}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 8}}, GROWS),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 1000}}, GROWS),
        (
            sequence(*["NFKD", becomes("\u0644", "\ufdfa")] * 2),
            GROWS,
        ),  # one letter of the 18 that it is made of, 5 times
        (sequence(*["NFD", becomes("\u0345", "\u1f82")] * 4), GROWS),
        (sequence(*["Lowercase", becomes("i", "\u0130")] * 8), GROWS),
        (sequence(*[becomes("a", "aa") | {"handle_chinese_chars": True}] * 40), GROWS),
        (sequence(*[PRECOMPILED] * 2), GROWS),
        (sequence(*[becomes("a", "b") | PRECOMPILED] * 2), GROWS),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 10}}, GROWS),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [METASPACE] * 10}}, GROWS),
        ({"post_processor": TEMPLATE}, "its post_processor repeats each text; expected one Sequence in a template"),
        ({"model": WORDS}, r"model\.max_input_chars_per_word has 1,000,000,000 characters; the limit is 100"),
        ({"model": {"type": "Unigram", "vocab": [["a" * 101, 0.0]]}}, r"model\.vocab: a piece has 101 characters"),
        ({"truncation": {"max_length": 12, "stride": 9}}, r"truncation\.stride is 9; expected 0"),
    ],
)
def test_what_costs_more_in_longer_texts_than_those_of_the_trial_is_refused(change, reason):
    with pytest.raises(UserError, match=f"^a: {reason}"):
        limited.check("a", json.dumps(json.loads(SOUND) | change))


def test_unicode_mappings_one_after_another_are_no_growth():
    steps = sequence("NFKD", "StripAccents", "Lowercase", "NFKC", {"pattern": {"Regex": " {2,}"}, "content": " "})
    limited.check("a", json.dumps(json.loads(SOUND) | steps))


def test_sentencepiece_models_that_grow_are_refused():
    """Its normalizer makes 600,000 letters of one that is in no text of the trial: 3 GB for a caption."""
    model = sentencepiece_model_pb2.ModelProto.FromString(sentencepiece_model(["a cat under a table"] * 20, 30))
    limited.check("a", base64.b64encode(model.SerializeToString()).decode())
    model.normalizer_spec.precompiled_charsmap = CHARSMAP + b"z" * 600_000
    with pytest.raises(UserError, match=f"^a: {GROWS}; refused"):
        limited.check("a", base64.b64encode(model.SerializeToString()).decode())


@pytest.mark.parametrize("place", ["vocabulary", "template", "padding"])
def test_ids_that_the_model_has_no_embedding_for_are_refused(tmp_path, place):
    loaded = tiny("tiny-clip")
    state, vocab = json.loads(loaded.processor.tokenizer), loaded.config.text.vocab
    if place == "vocabulary":
        state["model"]["vocab"]["of no text"] = vocab
    elif place == "template":
        next(iter(state["post_processor"]["special_tokens"].values()))["ids"] = [vocab]
    else:
        state["padding"]["pad_id"] = vocab
    hostile = dataclasses.replace(loaded.processor, tokenizer=json.dumps(state))
    (tmp_path / processor_files.OWN).write_text(json.dumps(hostile.to_dict()))
    with pytest.raises(UserError, match=rf"processor\.json: the tokenizer has the token id {vocab}; expected 0 to"):
        processor_files.read_own(tmp_path, loaded.config)


def test_own_processor_is_checked(tmp_path):
    loaded = tiny("tiny-clip")
    state = json.loads(loaded.processor.tokenizer)
    hostile = dataclasses.replace(loaded.processor, tokenizer=json.dumps(hostile_padding(state)))
    (tmp_path / processor_files.OWN).write_text(json.dumps(hostile.to_dict()))
    with pytest.raises(UserError, match=r"processor\.json: needs more than \d+ MB or \d s"):
        processor_files.read_own(tmp_path, loaded.config)


def hostile_padding(state):
    return state | {"padding": state["padding"] | {"strategy": {"Fixed": 300_000_000}}}
