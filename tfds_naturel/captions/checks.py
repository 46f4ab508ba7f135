"""The checks that every caption of a bank must pass, whether authored or generated, and the style of our own.

What a false caption claims is what its author says (``asserts``), and whether it is false, and natural, is for readers
to judge (``tfds_naturel.audit.readers``): a program that reads English would be wrong more often than they are.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping

from tfds_naturel.captions import lexicon
from tfds_naturel.captions.relations import converse
from tfds_naturel.common import extras
from tfds_naturel.common.schema import Caption, Triplet

MAX_TOKENS = 30  # CLIP tokens, including start and end
WORDS = range(4, 21)  # allowed number of words of a complex caption
_MARKUP = re.compile(r"[<>{}\[\]|\\*_`\t\n#&]|https?:")
_LETTERS = re.compile(r"[a-z]+(?:'[a-z]+)?")
_ARTICLES = {"a", "an", "the", "some"}

# Marks of sentences that nobody writes under a photo, and the largest share of the complex captions that may have each.
STYLE: dict[str, tuple[float, re.Pattern[str]]] = {
    name: (share, re.compile(pattern, re.IGNORECASE))
    for name, share, pattern in (
        ("question", 0, r"\?"),
        ("modal verb", 0, r"\b(?:would|could|should|might|may|must|shall|ought|cannot|can't|can(?! be seen))\b|\w'd\b"),
        ("hypothesis", 0, r"\b(?:if|unless|whether|suppos\w+|imagine)\b|^were\b"),
        ("second person", 0, r"\byou(?:r|rs|rself|'\w+)?\b"),
        ("negation", 0.1, r"\b(?:not|no|none|nobody|nothing|never|neither|nor|nowhere|without|cannot)\b|n't\b"),
        ("contrast", 0.05, r"\b(?:but|rather than|instead of|though|although|unlike|whereas)\b|, not\b"),
    )
}


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
    """(negative, what is wrong), for negatives of a triplet that are as true as their positives."""
    for positive, negative in zip(captions[::2], captions[1::2], strict=True):
        if _content(positive.text) == _content(negative.text):
            yield negative, "has the words of its positive"
        if negative.asserts and converse(negative.asserts) == negative.triplet:
            yield negative, f"asserts {negative.asserts}, which says the same as {negative.triplet}"


def mentions(text: str, label: str) -> bool:
    """Whether ``text`` mentions a class by any of its listed words, in the singular or plural."""
    return bool(_nouns(label).search(text))


def style(bank: Mapping[Triplet, tuple[Caption, ...]]) -> list[str]:
    """One line for each of ``STYLE`` that too many of the bank's complex captions have."""
    texts = [caption.text for captions in bank.values() for caption in captions if caption.kind == "complex"]
    problems = []
    for name, (share, pattern) in STYLE.items():
        found = [text for text in texts if pattern.search(text)]
        if len(found) > share * len(texts):
            problems.append(
                f"{len(found)} of {len(texts)} complex captions, such as {found[0]!r}, have a {name}, "
                f"expected at most {share:.0%}"
            )
    return problems


@functools.cache
def _nouns(label: str) -> re.Pattern[str]:
    listed = "|".join(re.escape(noun.text) for noun in lexicon.nouns(label))
    return re.compile(rf"\b(?:{listed})(?:e?s)?\b", re.IGNORECASE)


def _content(text: str) -> list[str]:
    return [word for word in _LETTERS.findall(text.lower()) if word not in _ARTICLES]


def _caption(caption: Caption) -> Iterator[str]:
    triplet, text = caption.triplet, caption.text
    classes = {triplet.subject} if triplet.relation == "is" else {triplet.subject, triplet.object}
    if missing := sorted(label for label in classes if not mentions(text, label)):
        yield f"does not mention {', '.join(missing)} by any word in the lexicon"
    if _MARKUP.search(text):
        yield "contains markup or a control character"
    if caption.kind == "complex" and len(text.split()) not in WORDS:
        yield f"has {len(text.split())} words, expected {WORDS.start} to {WORDS.stop - 1}"
    if (count := token_bound(text)) > MAX_TOKENS:
        yield f"has {count} tokens, expected at most {MAX_TOKENS}"


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
