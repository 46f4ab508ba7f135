"""Tokenizers from elsewhere: opened and tried in a process with little memory and time before this one opens them.

Their libraries cannot be limited: a few bytes of JSON double every letter forty times, or pad to a billion tokens. What
depends on the text is bounded by rules, since no trial has every text; the trial bounds everything else.

    python -m naturel_jax.data.text.limited BYTES SECONDS

tries a tokenizer, as ``Processor.tokenizer`` has it, from standard input.
"""

import base64
import contextlib
import dataclasses
import functools
import math
import os
import re
import resource
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import parse_json, unique_keys

_BASE, _PER_BYTE = 64 << 20, 40  # bytes of memory, and for each byte of the tokenizer
_SECONDS, _BYTES_PER_SECOND = 2, 1 << 20
_TOO_LARGE = 3  # exit code
_MAX_GROWTH = 128  # characters that the normalizers may make of one
# Most characters that Unicode's mappings make of one. One after another, they make no more than the largest of them.
_UNICODE = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 2, "BertNormalizer": 4}
_MAX_WORD = 100  # characters of a word that is looked up, as in BERT, or of a piece
_TEXTS = [string.printable, "", "Two cats, 3 mugs\n & l'été: 你好 \U0001f600!", "a" * 300, " ab" * 100]
_MOST_WAYS = 200_000  # most ways in which a pattern may match from one position; GPT-4o's has 143,000
_REPEATS = 64  # that one without an end counts for: for two in a row, what they average to in a caption of 150 letters
_MAX_NESTED = 100  # groups of a pattern
_PART = re.compile(
    r"""(?P<open>\((?:(?!\?)|\?(?:[ims-]*:|<?[=!]|>|<\w+>))) | (?P<close>\)) | (?P<bar>\|)
    |   (?P<count>[*+?][?+]?|\{(?:\d{1,6}(?:,\d{0,6})?|,\d{1,6})\})
    |   \[\^?\]?(?:\\[^cCM]|\[:\^?\w+:\]|&(?!&)|[^\]\[\\&])*\] | (?P<unknown>\(\?.?|\\[1-9kgcCM]|\[)
    |   \\[pP]\{[^}]*\} | \\. | .""",
    re.VERBOSE | re.DOTALL,
)


def check(name: object, tokenizer: str) -> None:
    """Raises UserError, which names ``name``, for a tokenizer that takes too much memory or time. One that cannot be
    opened at all passes: opening it says why."""
    if reason := _refusal(tokenizer):
        raise UserError(f"{name}: {reason}; refused")


@functools.lru_cache(maxsize=8)
def _refusal(tokenizer: str) -> str:
    """Why the tokenizer must not be opened; empty if it may."""
    try:
        if tokenizer.startswith("{"):
            _check_rules(parse_json(tokenizer, object_pairs_hook=unique_keys))
        else:
            _check_pieces(base64.b64decode(tokenizer))
    except ValueError as error:
        return str(error)
    text = tokenizer.encode(errors="replace")
    memory, seconds = _BASE + _PER_BYTE * len(text), _SECONDS + len(text) // _BYTES_PER_SECOND
    command = [sys.executable, "-P", "-m", __name__, str(memory), str(seconds)]
    path = os.pathsep.join(filter(None, sys.path))
    environment = {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "MALLOC_ARENA_MAX": "1"}
    trial = subprocess.run(command, input=text, capture_output=True, env={**os.environ, **environment})
    if not trial.returncode:
        return ""
    if trial.returncode == _TOO_LARGE or trial.returncode < 0:  # ended by a signal, as the limits end it
        return f"needs more than {memory >> 20:,} MB or {seconds} s for {len(_TEXTS)} short texts"
    last = trial.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"cannot be tried in a process of its own ({last:.200})"


def _check_rules(state: Any) -> None:
    """Raises ValueError if a text could grow without end, or a pattern take forever on one."""
    growth = mapped = 1  # ``mapped``: by Unicode's mappings since the last step of another kind
    state = state if isinstance(state, dict) else {}
    model, truncation = (
        value if isinstance(value := state.get(name), dict) else {} for name in ("model", "truncation")
    )
    if dropout := model.get("dropout"):
        raise ValueError(f"model.dropout is {dropout!r:.20}, so its ids are random; expected null")
    if stride := truncation.get("stride"):  # the library also makes the windows that nothing here asks for
        raise ValueError(f"truncation.stride is {stride!r:.20}; expected 0")
    for name, size in _lengths(model):
        if size > _MAX_WORD:
            raise ValueError(f"model.{name} has {size:,} characters; the limit is {_MAX_WORD}")
    for node in _objects(state.get("post_processor")):
        pieces = node.get("single")
        if isinstance(pieces, list) and sum(isinstance(piece, dict) and "Sequence" in piece for piece in pieces) > 1:
            raise ValueError("its post_processor repeats each text; expected one Sequence in a template")
    for node in _objects([state.get("normalizer"), state.get("pre_tokenizer")]):
        unicode, step = _unicode_growth(node), _growth(node)
        if step:
            growth, mapped = growth * max(step, unicode), 1
        elif unicode:
            growth, mapped = growth // mapped * max(mapped, unicode), max(mapped, unicode)
        _check_growth(growth)
    ways = 0.0  # of all patterns, which follow each other
    for node in _objects(state):
        if isinstance(regex := node.get("Regex"), str) and (ways := ways + _ways(regex)) > _MOST_WAYS:
            raise ValueError(f"the pattern {regex!r:.80} can take forever: {ways:,.0f} ways to match a short text")


def _check_growth(growth: int) -> None:
    if growth > _MAX_GROWTH:
        raise ValueError(f"its normalizers make more than {_MAX_GROWTH} characters of one")


def _check_pieces(model: bytes) -> None:
    """Raises ValueError if a text could grow without end before sentencepiece cuts it. A file that is no model passes:
    opening it says why."""
    from google.protobuf.message import DecodeError  # slow to import, and most tokenizers do not need it
    from sentencepiece import sentencepiece_model_pb2

    with contextlib.suppress(DecodeError):
        found = sentencepiece_model_pb2.ModelProto.FromString(model)
        _check_growth(_longest(found.normalizer_spec.precompiled_charsmap))


def _lengths(model: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Field -> characters, of those by which the work for a text grows faster than its length."""
    if isinstance(most := model.get("max_input_chars_per_word"), int):
        yield "max_input_chars_per_word", most
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        yield name, len(str(model.get(name)))
    vocab = model.get("vocab")
    for entry in vocab if isinstance(vocab, list) else ():  # of a unigram model
        yield "vocab: a piece", len(str(entry[0])) if isinstance(entry, list) and entry else 0


def _unicode_growth(node: Mapping[str, Any]) -> int:
    """Characters that a step before the model may make of one by Unicode's mappings; 0 if it uses none. The library
    knows a step by ``type`` or, without it, by its fields, and ignores those of others: each counts here."""
    kinds = [str(node.get("type")), *["BertNormalizer"] * ("handle_chinese_chars" in node)]
    return max(_UNICODE.get(kind, 0) for kind in kinds)


def _growth(node: Mapping[str, Any]) -> int:
    """Characters that a step before the model may make of one by other means; 0 for what is no such step."""
    pattern, content = node.get("pattern"), node.get("content")
    steps = [2 if node.get("type") == "ByteLevel" else 0]
    if isinstance(content, str) and isinstance(pattern, dict):
        replaced = pattern.get("String")
        shortest = len(replaced) if isinstance(replaced, str) else 0
        steps.append(max(1, math.ceil(len(content) / shortest) if shortest else 1 + len(content)))
    for field in ("prepend", "replacement"):  # the second of Metaspace: also before each part of a text
        if isinstance(before := node.get(field), str):
            steps.append(1 + len(before))
    if isinstance(charsmap := node.get("precompiled_charsmap"), str):
        steps.append(_longest(base64.b64decode(charsmap)))
    return max(steps)


@dataclasses.dataclass
class _Group:
    """Ways to match a group of a pattern: its earlier alternatives, its last one before its last part, and that."""

    others: float = 0.0
    before: float = 1.0
    last: float = 1.0

    def ways(self) -> float:
        return self.others + self.before * self.last

    def add(self, ways: float) -> None:
        self.before, self.last = self.before * self.last, ways


def _ways(pattern: str) -> float:
    """About how many ways there are to match from one place of a text on; if it fails there, all are tried. Raises
    ValueError for a part of which that is not known."""
    groups = [_Group()]
    for part in _PART.finditer(pattern):
        match part.lastgroup:
            case "open" if len(groups) <= _MAX_NESTED:
                groups.append(_Group())
            case "close" if len(groups) > 1:
                inner = groups.pop()
                groups[-1].add(inner.ways())
            case "bar":
                groups[-1] = _Group(groups[-1].ways())
            case "count":
                groups[-1].last = _repeated(groups[-1].last, part[0])
            case "open" | "unknown":
                raise ValueError(f"the pattern {pattern!r:.80} has {part[0]!r}, whose cost is not known here")
            case _:
                groups[-1].add(1)
    return groups[0].ways()


def _repeated(ways: float, count: str) -> float:
    """Ways to match what has ``ways`` as often as ``count`` says: "*", "{2,3}"."""
    low, comma, high = count.strip("{}").partition(",")
    if count[0] in "*+" or (comma and not high):
        return _REPEATS if ways == 1 else math.inf
    fewest, most = (0, 1) if count[0] == "?" else sorted((int(low or 0), int(high if comma else low)))
    if ways == 1:
        return most - fewest + 1
    return (ways + (fewest < most)) ** min(most, 20) if ways < _MOST_WAYS else math.inf


def _longest(charsmap: bytes) -> int:
    """Characters of the longest string that a precompiled sentencepiece normalizer makes of a character; its own, 18.
    The strings come after a trie, whose size comes first."""
    size = int.from_bytes(charsmap[:4], "little")
    return max(len(string.decode(errors="replace")) for string in charsmap[4 + size :].split(b"\0"))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All objects in a parsed JSON."""
    remaining = [value]
    while remaining:
        value = remaining.pop()
        if isinstance(value, dict):
            yield value
        if isinstance(value, dict | list):
            remaining += [inner for inner in (value.values() if isinstance(value, dict) else value) if inner]


def _try(memory: int, seconds: int) -> None:
    """Opens the tokenizer from standard input, encodes a few texts, and writes it."""
    text = sys.stdin.buffer.read().decode()
    import sentencepiece
    import tokenizers

    if sys.platform == "linux":  # elsewhere, kernels do not keep to a limit of memory; the limit of time is left
        status = Path("/proc/self/status").read_text()
        used = int(re.search(r"VmData:\s+(\d+)", status)[1]) << 10  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_DATA, (used + memory,) * 2)
    resource.setrlimit(
        resource.RLIMIT_CPU, (math.ceil(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + seconds,) * 2
    )
    try:
        if text.startswith("{"):
            tokenizer = tokenizers.Tokenizer.from_str(text)
            tokenizer.encode_batch(_TEXTS)
            tokenizer.to_str()  # as readers do; it counts up to the largest id
        else:
            sentencepiece.SentencePieceProcessor(model_proto=base64.b64decode(text, validate=True)).encode(_TEXTS)
    except MemoryError:
        sys.exit(_TOO_LARGE)
    except BaseException:  # a panic is no Exception
        return


if __name__ == "__main__":
    _try(int(sys.argv[1]), int(sys.argv[2]))
