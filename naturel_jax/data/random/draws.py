"""Random draws for a whole batch at once: those that NumPy's generator of each position would make one after another.

A batch of 16,384 images needs as many generators, and NumPy takes 6 us to make one and 3 us for a draw. Here, the words
of all of them are computed together (Philox 4x64 with 10 rounds, Salmon et al. 2011), and turned into numbers as
``numpy.random.Generator`` does. Tests compare them.

Shape letter: B positions.
"""

import copy

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B))
_ROUNDS = 10
_BLOCK = 4  # words that are computed together
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
_BEYOND_DOUBLE = np.uint64(11)  # bits of a word that do not fit into a float64's 53
_LARGEST = 10_000  # from more, NumPy may choose several by another algorithm


def key(seed: int, stream: int) -> int:
    """The first word of a generator's key; the second is its position. ``stream``: one for each purpose."""
    return (seed << 8) + stream


def generator(seed: int, stream: int, position: int) -> np.random.Generator:
    """Random generator for one position (or sample) of the training order, independent of every other position, stream
    and seed."""
    return np.random.Generator(np.random.Philox(key=[key(seed, stream), position]))


class Draws:
    """The generators of B positions. Each method draws once for each (``random``: of some rows), or not at all where
    nothing is to be chosen, and leaves them in the state in which NumPy's would be."""

    def __init__(self, seed: int, stream: int, position_B: np.ndarray):
        self._key, self._position_B = key(seed, stream), position_B
        self._words_BW = np.empty((len(position_B), 0), np.uint64)  # W: words computed so far
        self._used_B = np.zeros(len(position_B), np.int64)  # words used up
        self._half_B = np.zeros(len(position_B), np.uint64)  # the upper half of the last word,
        self._has_half_B = np.zeros(len(position_B), bool)  # if only its lower half was used
        self._numpy: np.random.Generator | None = None
        self._running: int | None = None  # the row whose state it has

    def __len__(self) -> int:
        return len(self._position_B)

    def at(self, rows: np.ndarray) -> "Draws":
        """The generators of some rows, from their present states on."""
        self._settle()
        part = copy.copy(self)
        part._numpy = None
        for name in ("_position_B", "_words_BW", "_used_B", "_half_B", "_has_half_B"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def integers(self, stop_B: np.ndarray) -> np.ndarray:
        """A number from 0 to ``stop - 1`` for each position, as ``Generator.integers(stop)``; int64 [B].

        ``stop_B`` is at most 2^32; where it is 0 or 1, nothing is drawn and the number is 0.
        """
        self._settle()
        out_B = np.zeros(len(self), np.int64)
        rows = np.flatnonzero(stop_B > 1)
        while len(rows):  # Lemire's method (arXiv 1805.10941); hardly ever repeated
            stop = stop_B[rows].astype(np.uint64)
            product = self._next_32(rows) * stop
            out_B[rows] = product >> _HALF
            rows = rows[(product & _LOW) < (np.uint64(1 << 32) - stop) % stop]
        return out_B

    def choose(self, available_B: np.ndarray, count: int) -> np.ndarray:
        """``count`` different numbers from 0 to ``available - 1``, as ``Generator.choice(available, count,
        replace=False)``, and as ``integers`` if ``count`` is 1; int64 [B, count]."""
        if count == 1:
            return self.integers(available_B)[:, None]
        if count and (available_B > _LARGEST).any():
            chosen = [self.generator(b).choice(n, count, False) for b, n in enumerate(available_B.tolist())]
            return np.array(chosen).reshape(-1, count)
        every, out = np.arange(len(self)), np.empty((len(self), count), np.int64)
        for c in range(count):  # Floyd's method
            last_B = available_B - count + c
            number_B = self.integers(last_B + 1)
            is_taken_B = (out[:, :c] == number_B[:, None]).any(axis=1)
            out[:, c] = np.where(is_taken_B, last_B, number_B)
        for c in range(count - 1, 0, -1):  # shuffled
            other_B = self.integers(np.full(len(self), c + 1))
            out[every, other_B], out[:, c] = out[:, c].copy(), out[every, other_B]
        return out

    def random(self, rows: np.ndarray) -> np.ndarray:
        """A number from 0 to less than 1 for each of these rows, as ``Generator.random()``; float64."""
        self._settle()
        high, low = self._next_64(rows)
        return ((high << _HALF | low) >> _BEYOND_DOUBLE) * 2.0**-53

    def generator(self, b: int) -> np.random.Generator:
        """NumPy's generator in the state of row ``b``. What it draws counts; valid until the next call of a method."""
        self._settle()
        if self._numpy is None:
            self._numpy = np.random.Generator(np.random.Philox(key=[0, 0]))
        blocks, used = divmod(int(self._used_B[b]) + _BLOCK - 1, _BLOCK)  # of the last, 1 to 4 words were used
        self._extend(blocks)
        buffer = self._words_BW[b, (blocks - 1) * _BLOCK : blocks * _BLOCK] if blocks else np.zeros(_BLOCK, np.uint64)
        self._numpy.bit_generator.state = {
            "bit_generator": "Philox",
            "state": {"counter": [blocks, 0, 0, 0], "key": [self._key, int(self._position_B[b])]},
            "buffer": buffer,
            "buffer_pos": used + 1,
            "has_uint32": int(self._has_half_B[b]),
            "uinteger": int(self._half_B[b]),
        }
        self._running = b
        return self._numpy

    def _settle(self) -> None:
        """Takes over the state of NumPy's generator."""
        if self._numpy is None or self._running is None:
            return
        b, state = self._running, self._numpy.bit_generator.state
        blocks = int(state["state"]["counter"][0])
        self._used_B[b] = (blocks - 1) * _BLOCK + state["buffer_pos"]
        self._has_half_B[b], self._half_B[b] = state["has_uint32"], state["uinteger"]
        self._running = None

    def _next_32(self, rows: np.ndarray) -> np.ndarray:
        """The next 32 bits of each of these rows, as uint64: the lower half of a word, then the upper."""
        fresh = rows[~self._has_half_B[rows]]
        self._half_B[fresh], low = self._next_64(fresh)
        out = self._half_B[rows]
        out[~self._has_half_B[rows]] = low
        self._has_half_B[rows] = ~self._has_half_B[rows]
        return out

    def _next_64(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The upper and lower halves of the next word of each of these rows."""
        used = self._used_B[rows]
        self._extend(int(used.max(initial=-1)) // _BLOCK + 1)
        words = self._words_BW[rows, used]
        self._used_B[rows] = used + 1
        return words >> _HALF, words & _LOW

    def _extend(self, blocks: int) -> None:
        """Computes the words of that many blocks."""
        while (known := self._words_BW.shape[1] // _BLOCK) < blocks:  # NumPy counts up before it computes
            block = _philox(self._key, self._position_B, known + 1)
            self._words_BW = np.concatenate([self._words_BW, block], axis=1)


def _philox(key: int, position_B: np.ndarray, counter: int) -> np.ndarray:
    """The four words of block ``counter`` for each key (``key``, position); uint64 [B, 4]."""
    with np.errstate(over="ignore"):  # of scalars; arrays wrap around silently
        keys = [np.full(len(position_B), key, np.uint64), position_B.astype(np.uint64)]
        words = [np.full(len(position_B), n, np.uint64) for n in (counter, 0, 0, 0)]
        for n in range(_ROUNDS):
            if n:
                keys = [word + weyl for word, weyl in zip(keys, _WEYL, strict=True)]
            (high_0, low_0), (high_1, low_1) = (_product(words[2 * n], _MULTIPLIERS[n]) for n in (0, 1))
            words = [high_1 ^ words[1] ^ keys[0], low_1, high_0 ^ words[3] ^ keys[1], low_0]
    return np.stack(words, axis=1)


def _product(word: np.ndarray, by: np.uint64) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of each word's product."""
    high, low, by_high, by_low = word >> _HALF, word & _LOW, by >> _HALF, by & _LOW
    middle = high * by_low + (low * by_low >> _HALF)
    other = low * by_high + (middle & _LOW)
    return high * by_high + (middle >> _HALF) + (other >> _HALF), word * by
