"""What the planner needs to know about a text: its tokens, and whether it names a side. Cached across batches.

Shape letters: U texts, L tokens.
"""

import math
import re
import threading
from collections.abc import Sequence

import numpy as np

from naturel_jax.data.text.processor import Processor

_SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)  # "left of", and the fact Cup|left_of|Cat
_TOKEN_BUCKET = 8  # trimmed lengths are multiples of this
_LOCK = threading.Lock()  # for all caches: an object that holds a lock cannot be pickled


def names_side(text: str) -> bool:
    """Whether ``text``, a caption or a fact's name, mentions left or right: mirroring the image may make it false."""
    if text.isascii() and "left" not in (lower := text.lower()) and "right" not in lower:
        return False  # true of most texts, and ten times as fast
    return bool(_SIDE.search(text))


def trimmed(tokens_UL: np.ndarray, eos: int | None) -> np.ndarray:
    """``tokens_UL`` up to the longest text, whose end token is ``eos``; at full length if that is None."""
    if eos is None:
        return tokens_UL
    longest = int((tokens_UL == eos).argmax(axis=1).max()) + 1
    return tokens_UL[:, : math.ceil(longest / _TOKEN_BUCKET) * _TOKEN_BUCKET]


class TextCache:
    """Looks up texts; new ones are tokenized together. Starts over after ``most`` texts: rewritten captions rarely
    repeat."""

    def __init__(self, processor: Processor, most: int = 500_000):
        self._processor, self._most = processor, most
        self._rows: dict[str, int] = {}
        self._tokens = np.empty((0, processor.context), np.int32)  # with room for more rows, like the next
        self._names_side = np.empty(0, bool)

    def look_up(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens, int32 [U, L], and ``names_side`` of each text, bool [U]."""
        with _LOCK:
            if new := [text for text in texts if text not in self._rows]:
                if len(self._rows) + len(new) > self._most:
                    self._rows.clear()
                    new = list(dict.fromkeys(texts))
                self._add(new)
            rows = np.array([self._rows[text] for text in texts])
            return self._tokens[rows], self._names_side[rows]

    def _add(self, texts: Sequence[str]) -> None:
        first, stop = len(self._rows), len(self._rows) + len(texts)
        if stop > len(self._tokens):
            rows = max(stop, min(2 * stop, self._most))
            self._tokens = np.resize(self._tokens, (rows, self._tokens.shape[1]))
            self._names_side = np.resize(self._names_side, rows)
        self._tokens[first:stop] = self._processor.tokenize(texts)
        self._names_side[first:stop] = [*map(names_side, texts)]
        self._rows.update(zip(texts, range(first, stop), strict=True))
