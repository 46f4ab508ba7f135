"""Accuracy of classifiers that tell positive from negative captions without the image: 0.5 if the text has no bias."""

from collections.abc import Mapping, Sequence

import numpy as np

from tfds_naturel.common import extras

SPLITS = 20

Pairs = Mapping[str, Sequence[tuple[str, str]]]  # group (a triplet) -> its (positive, negative) captions


def accuracy(pairs: Pairs, splits: int = SPLITS) -> dict[str, tuple[float, float]]:
    """Classifier -> (accuracy on single captions, accuracy on pairs).

    Trained on a random half of the groups and tested on the other half; means over ``splits`` splits. A pair is correct
    if its positive scores higher; a tie counts as half. Raises UserError if scikit-learn is missing.
    """
    extras.library("sklearn", "audit")
    from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    features = {
        "bag of words": lambda: (CountVectorizer(binary=True),),
        "1-3-grams": lambda: (TfidfVectorizer(ngram_range=(1, 3), sublinear_tf=True),),
        "length": lambda: (FunctionTransformer(_lengths), StandardScaler()),
    }
    groups = sorted(pairs)
    accuracies = {}
    for name, steps in features.items():
        scores = []
        for split in range(splits):
            order = np.random.default_rng([0, split]).permutation(len(groups))
            train, test = ([pair for i in half for pair in pairs[groups[i]]] for half in np.array_split(order, 2))
            model = make_pipeline(*steps(), LogisticRegression(solver="liblinear"))
            model.fit([text for pair in train for text in pair], [1, 0] * len(train))
            scores.append(_score(model.decision_function([text for pair in test for text in pair]).reshape(-1, 2)))
        single, paired = np.mean(scores, axis=0).tolist()
        accuracies[name] = single, paired
    return accuracies


def _score(scores_P2: np.ndarray) -> tuple[float, float]:
    positive, negative = scores_P2.T
    single = (np.mean(positive > 0) + np.mean(negative <= 0)) / 2
    return float(single), float(np.mean(positive > negative) + np.mean(positive == negative) / 2)


def _lengths(texts: Sequence[str]) -> np.ndarray:
    """Number of characters and words of every text, float [N, 2]."""
    return np.array([(len(text), len(text.split())) for text in texts], float)
