"""The checks that every caption of a bank must pass, whether authored or generated."""

import re
from collections.abc import Iterable, Iterator, Mapping

from tfds_naturel.captions import lexicon, parse, places
from tfds_naturel.captions.relations import converse, excluded
from tfds_naturel.common import extras
from tfds_naturel.common.schema import Caption, Triplet

MAX_TOKENS = 30  # CLIP tokens, including start and end
WORDS = range(4, 21)  # allowed number of words of a complex caption
_MARKUP = re.compile(r"[<>{}\[\]|\\*_`\t\n#&]|https?:")
_LETTERS = re.compile(r"[a-z]+(?:'[a-z]+)?")


def token_bound(text: str) -> int:
    """An upper bound on the number of CLIP tokens of common English text: 1.6 per word, plus start and end."""
    return int(1.6 * len(text.split())) + 2


def check(bank: Mapping[Triplet, tuple[Caption, ...]]) -> list[str]:
    """One line per problem, with the triplet, the caption and what is wrong; empty if all captions pass.

    Raises UserError if the spelling dictionary is missing.
    """
    found = (problem for captions in bank.values() for problem in (*texts(captions), *pairs(captions)))
    problems = [f"{caption.triplet} {caption.text!r}: {problem}" for caption, problem in found]
    return problems + list(_spelling(caption for captions in bank.values() for caption in captions))


def texts(captions: tuple[Caption, ...]) -> Iterator[tuple[Caption, str]]:
    """(caption, what is wrong), checking each caption of a triplet on its own."""
    written: dict[str, Caption] = {}
    for caption in captions:
        same = written.setdefault(caption.text.lower().rstrip("."), caption)
        if same is not caption:
            yield caption, f"repeats the {same.polarity} of pair {same.pair}"
        yield from ((caption, problem) for problem in _caption(caption))


def pairs(captions: tuple[Caption, ...]) -> Iterator[tuple[Caption, str]]:
    """(negative, what is wrong), checking that each negative of a triplet is false by the meaning of its words.

    The claim of a complex pair is read from its fixed wording. Its further paraphrases make the same claim by
    definition, in sentences too varied for ``parse``; their negatives only have to say something else.
    """
    for positive, negative in zip(captions[::2], captions[1::2], strict=True):
        if positive.kind == "simple" or not positive.paraphrase:
            yield from ((negative, problem) for problem in _pair(positive, negative))
        elif parse.same_words(positive.text, negative.text, positive.triplet):
            yield negative, "has the words of its positive"


def _caption(caption: Caption) -> Iterator[str]:
    triplet, text = caption.triplet, caption.text
    classes = {triplet.subject} if triplet.relation == "is" else {triplet.subject, triplet.object}
    if missing := classes - parse.mentions(text, triplet):
        yield f"does not mention {', '.join(sorted(missing))} by any word in the lexicon"
    if _MARKUP.search(text):
        yield "contains markup or a control character"
    if caption.kind == "complex" and len(text.split()) not in WORDS:
        yield f"has {len(text.split())} words, expected {WORDS.start} to {WORDS.stop - 1}"
    if (count := token_bound(text)) > MAX_TOKENS:
        yield f"has {count} tokens, expected at most {MAX_TOKENS}"


def _pair(positive: Caption, negative: Caption) -> Iterator[str]:
    try:
        operation, claim = parse.operation(positive.text, negative.text, positive.triplet)
    except ValueError as error:
        yield str(error)
        return
    if operation != negative.operation:
        yield f"operation is {negative.operation!r}, but the text shows {operation!r}"
    elif claim and _named(operation, positive.triplet) and negative.asserts not in (claim, converse(claim)):
        yield f"asserts {negative.asserts}, but the text says {claim}"
    elif negative.asserts and not (excluded(positive.triplet, negative.asserts) or _only_held(positive, negative)):
        yield f"asserts {negative.asserts}, which may be true of the same image"


def _named(operation: str, triplet: Triplet) -> bool:
    """Whether the text names what it claims. The opposite of an act ("drop", "ignore") has many words."""
    return operation in ("swap", "attribute") or triplet.relation in places.SPATIAL


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
        yield f"{where[word]!r}: {word!r} is not in the dictionary"


def _only_held(positive: Caption, negative: Caption) -> bool:
    return negative.asserts == parse.only_held(positive.text, negative.text, positive.triplet)
