"""ARO's four order shuffles of a caption (Yuksekgonul et al., arXiv 2210.01936), for its benchmarks and for training.

Part-of-speech tags come from spaCy's ``en_core_web_sm``, as in ARO's code.
"""

import functools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfds_naturel.common import extras
from tfds_naturel.common.errors import UserError

if TYPE_CHECKING:
    import spacy.language

MAX_WORDS = 30
SHUFFLES = ("nouns_adjectives", "all_but_nouns_adjectives", "within_trigrams", "trigrams")

NOUNS = {"NN", "NNS", "NNP", "NNPS"}
ADJECTIVES = {"JJ", "JJR", "JJS"}

Tagged = list[tuple[str, str]]  # (token, Penn Treebank tag)


def shuffles(caption: str, tagged: Tagged, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """Shuffles of ``caption`` in the order of ``SHUFFLES``: nouns among themselves and adjectives among themselves; all
    other words; words within trigrams; trigrams.
    """
    tokens = np.array([token for token, _ in tagged], object)
    noun = np.array([tag in NOUNS for _, tag in tagged], bool)
    adjective = np.array([tag in ADJECTIVES for _, tag in tagged], bool)
    content, others = tokens.copy(), tokens.copy()
    for mask in (noun, adjective):
        content[mask] = rng.permutation(tokens[mask])
    others[~(noun | adjective)] = rng.permutation(tokens[~(noun | adjective)])
    words = word_tokens(caption)
    trigrams = [words[i : i + 3] for i in range(0, len(words), 3)]
    within = [word for trigram in trigrams for word in rng.permutation(np.array(trigram, object))]
    moved = [word for i in rng.permutation(len(trigrams)) for word in trigrams[i]]
    return " ".join(content), " ".join(others), " ".join(within), " ".join(moved)


def clean(caption: str) -> str:
    """BLIP's ``pre_caption``, which ARO applies after the shuffle: lowercase, no ``.!"()*#:;~``, at most 30 words."""
    caption = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    return " ".join(re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ").split(" ")[:MAX_WORDS])


def word_tokens(caption: str) -> list[str]:
    """NLTK's word tokens without its sentence splitter (which needs a download), so only full stops inside a caption
    are treated differently. Raises UserError if NLTK is missing.
    """
    return extras.library("nltk", "order").word_tokenize(caption, preserve_line=True)


def spacy_tags(captions: Sequence[str]) -> list[Tagged]:
    """Tokens and tags of every caption. Raises UserError if spaCy or its model is missing."""
    pipeline = _tagger()
    return [[(token.text, token.tag_) for token in doc] for doc in pipeline.pipe(captions, batch_size=1000)]


@functools.cache
def _tagger() -> "spacy.language.Language":
    try:
        return extras.library("spacy", "order").load("en_core_web_sm", disable=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise UserError(
            "spaCy's model en_core_web_sm is not installed: run `python -m spacy download en_core_web_sm`"
        ) from error
