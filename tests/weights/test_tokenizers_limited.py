"""Tokenizers that grow without end are refused before this process opens them; sound ones are not."""

import dataclasses
import json
import random

import pytest

from naturel_jax.data.text import limited
from naturel_jax.data.text.tokenizer import train_tokenizer
from naturel_jax.weights import hub, processor_files
from tests.helpers.bombs import hostile_tokenizer
from tests.helpers.model_files import tiny
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
        (r"(?:x*y)*", True),
        (r"(a)\1", True),
        (r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", False),
        (r"(\p{L}|[a*])+", False),
    ],
)
def test_patterns_that_repeat_what_is_repeated_are_refused(pattern, refused):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    text = json.dumps(json.loads(SOUND) | {"pre_tokenizer": split})
    if not refused:
        return limited.check("a", text)
    with pytest.raises(UserError, match="repeats what is repeated"):
        limited.check("a", text)


def test_own_processor_is_checked(tmp_path):
    loaded = tiny("tiny-clip")
    state = json.loads(loaded.processor.tokenizer)
    hostile = dataclasses.replace(loaded.processor, tokenizer=json.dumps(hostile_padding(state)))
    (tmp_path / processor_files.OWN).write_text(json.dumps(hostile.to_dict()))
    with pytest.raises(UserError, match=r"processor\.json: needs more than \d+ MB or \d s"):
        processor_files.read_own(tmp_path, loaded.config)


def hostile_padding(state):
    return state | {"padding": state["padding"] | {"strategy": {"Fixed": 300_000_000}}}
