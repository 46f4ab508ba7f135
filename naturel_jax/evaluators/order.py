"""COCO-Order and Flickr30k-Order of ARO: a caption against four shuffles of its words (Yuksekgonul et al., arXiv
2210.01936).
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from naturel_jax.evaluators import rules
from naturel_jax.evaluators.benchmark import Benchmark, Image, Item, Metric, Outcomes
from naturel_jax.evaluators.files import BenchmarkError, Folder, load_json, records

MAX_WORDS = 30
# ARO's shuffles depend on a global generator; ours on (seed, image, caption), so they do not depend on what else is
# evaluated
SEED = 1

NOUNS = {"NN", "NNS", "NNP", "NNPS"}
ADJECTIVES = {"JJ", "JJR", "JJS"}

Tagged = list[tuple[str, str]]  # (token, Penn Treebank tag)


def read_coco(folder: Path) -> Benchmark:
    """From ``coco/coco_karpathy_test.json`` (25,010 captions of 5,000 images) and ``coco/val2014/``."""
    return _read(folder / "coco", "coco_karpathy_test.json", "coco_order", 25_010, spacy_tags)


def read_flickr30k(folder: Path) -> Benchmark:
    """From ``flickr30k/flickr30k_test.json`` (5,000 captions of 1,000 images) and ``flickr30k/flickr30k-images/``."""
    return _read(folder / "flickr30k", "flickr30k_test.json", "flickr30k_order", 5_000, spacy_tags)


def captioned_images(root: Path, file: str, problems: list[str]) -> Iterator[tuple[Image, list[str], str]]:
    """(image, captions, row number) of each valid record of a Karpathy split as ARO and BLIP distribute it."""
    images = Folder(root)
    rows = load_json(root / file, list)
    for key, row in records(
        file, ((str(n), row) for n, row in enumerate(rows)), {"image": str, "caption": list}, problems
    ):
        if not row["caption"] or not all(isinstance(caption, str) for caption in row["caption"]):
            problems.append(f"{file} record {key}: field 'caption' is {row['caption']!r:.80}, expected strings")
            continue
        try:
            yield images.image(row["image"]), row["caption"], key
        except BenchmarkError as error:
            problems.append(f"{file} record {key}: {error}")


def _read(root: Path, file: str, name: str, published: int, tags: Callable[[Sequence[str]], list[Tagged]]) -> Benchmark:
    problems, items = [], []
    found = list(captioned_images(root, file, problems))
    tagged = iter(tags([caption for _, captions, _ in found for caption in captions]))
    for image, captions, key in found:
        for n, caption in enumerate(captions):
            rng = np.random.default_rng((SEED, int(key), n))
            options = tuple(clean(option) for option in (caption, *shuffles(caption, next(tagged), rng)))
            items.append(Item(f"{key}/{n}", (image,), options))
    metrics = (Metric(f"{name}/precision@1", "right"), Metric(f"{name}/ties", "tie"), Metric(f"{name}/no_op", "no_op"))
    return Benchmark(name, tuple(items), _outcomes, metrics, published=published, problems=tuple(problems))


def _outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """``no_op``: some shuffle left the caption as it was, so the item cannot be wrong on it."""
    no_op = [item.captions[0] in item.captions[1:] for item in items]
    return rules.first_of_many(items, cosines) | {"no_op": np.array(no_op, float)}


def shuffles(caption: str, tagged: Tagged, rng: np.random.Generator) -> tuple[str, str, str, str]:
    """ARO's four: nouns among themselves and adjectives among themselves; all other words; words within trigrams;
    trigrams.
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
    return tuple(" ".join(words) for words in (content, others, within, moved))


def clean(caption: str) -> str:
    """BLIP's ``pre_caption``, which ARO applies after the shuffle: lowercase, no ``.!"()*#:;~``, at most 30 words."""
    caption = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    return " ".join(re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ").split(" ")[:MAX_WORDS])


def word_tokens(caption: str) -> list[str]:
    """NLTK's word tokens, without its sentence splitter (which needs a download): only full stops inside a caption
    differ.
    """
    return _library("nltk").word_tokenize(caption, preserve_line=True)


def spacy_tags(captions: Sequence[str]) -> list[Tagged]:
    """Tokens and tags of ARO's tagger, ``en_core_web_sm``."""
    pipeline = _tagger()
    return [[(token.text, token.tag_) for token in doc] for doc in pipeline.pipe(captions, batch_size=1000)]


@functools.cache
def _tagger():
    try:
        return _library("spacy").load("en_core_web_sm", disable=["parser", "ner", "lemmatizer"])
    except OSError as error:
        raise BenchmarkError(
            "the order benchmarks need spaCy's tagger: run `python -m spacy download en_core_web_sm`"
        ) from error


def _library(name: str):
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise BenchmarkError(f"the order benchmarks need {name}: run `pip install 'naturel_jax[order]'`") from error
