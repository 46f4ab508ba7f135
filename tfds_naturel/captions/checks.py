"""The checks that every caption of a bank must pass, whoever or whatever wrote it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from tfds_naturel import extras
from tfds_naturel.captions import lexicon, parse
from tfds_naturel.captions.relations import converse, excluded
from tfds_naturel.schema import Caption, Triplet

MAX_TOKENS = 30  # of CLIP's tokenizer, with its start and end tokens
WORDS = range(4, 21)  # of a complex caption
_MARKUP = re.compile(r"[<>{}\[\]|\\*_`\t\n#&]|https?:")
_LETTERS = re.compile(r"[a-z]+(?:'[a-z]+)?")

Tokens = Callable[[str], int]


def token_bound(text: str) -> int:
    """At least as many tokens as CLIP makes of common English words: 1.6 a word, and start and end."""
    return int(1.6 * len(text.split())) + 2


def check(bank: Mapping[Triplet, tuple[Caption, ...]], tokens: Tokens = token_bound) -> list[str]:
    """One line per fault, naming the triplet, the caption and what is wrong; empty when all captions pass.

    Raises UserError without the spelling dictionary.
    """
    problems = [problem for captions in bank.values() for problem in _triplet(captions, tokens)]
    return problems + list(_spelling(caption for captions in bank.values() for caption in captions))


def _triplet(captions: tuple[Caption, ...], tokens: Tokens) -> Iterator[str]:
    texts: dict[str, Caption] = {}
    for caption in captions:
        same = texts.setdefault(caption.text.lower().rstrip("."), caption)
        if same is not caption:
            yield f"{caption.triplet} {caption.text!r}: repeats the {same.polarity} of pair {same.pair}"
        yield from (f"{caption.triplet} {caption.text!r}: {fault}" for fault in _caption(caption, tokens))
    for positive, negative in zip(captions[::2], captions[1::2], strict=True):
        yield from (f"{positive.triplet} {negative.text!r}: {fault}" for fault in _pair(positive, negative))


def _caption(caption: Caption, tokens: Tokens) -> Iterator[str]:
    triplet, text = caption.triplet, caption.text
    classes = {triplet.subject} if triplet.relation == "is" else {triplet.subject, triplet.object}
    if missing := classes - parse.mentions(text, triplet):
        yield f"does not name {', '.join(sorted(missing))} by any word of the lexicon"
    if _MARKUP.search(text):
        yield "has markup or a control character"
    if caption.kind == "complex" and len(text.split()) not in WORDS:
        yield f"has {len(text.split())} words, expected {WORDS.start} to {WORDS.stop - 1}"
    if (count := tokens(text)) > MAX_TOKENS:
        yield f"has {count} tokens, at most {MAX_TOKENS} are allowed"


def _pair(positive: Caption, negative: Caption) -> Iterator[str]:
    try:
        operation, claim = parse.operation(positive.text, negative.text, positive.triplet)
    except ValueError as error:
        yield str(error)
        return
    if operation != negative.operation:
        yield f"operation is {negative.operation!r}, but the words make it {operation!r}"
    elif claim and operation in ("swap", "attribute") and negative.asserts not in (claim, converse(claim)):
        yield f"asserts {negative.asserts}, but the words say {claim}"
    elif negative.asserts and not excluded(positive.triplet, negative.asserts):
        yield f"asserts {negative.asserts}, which may be true of the same image"


def _spelling(captions: Iterable[Caption]) -> Iterator[str]:
    dictionary = extras.library("spellchecker", "audit").SpellChecker(language="en")
    where: dict[str, str] = {}
    for caption in captions:
        classes = (caption.triplet.subject, caption.triplet.object)
        names = {word for label in classes for noun in lexicon.nouns(label) for word in _LETTERS.findall(noun.text)}
        for word in _LETTERS.findall(caption.text.lower()):
            stem = word.removesuffix("'s")
            if stem not in names and stem.removesuffix("s") not in names:
                where.setdefault(stem, caption.text)
    for word in sorted(dictionary.unknown(where)):
        yield f"{where[word]!r}: the dictionary does not know {word!r}"
