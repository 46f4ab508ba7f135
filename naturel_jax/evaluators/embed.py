"""Turns items into cosines: every distinct crop and caption is embedded once, in batches of one shape, sharded over the
mesh.

Shape letters: I images, U distinct captions, L tokens, C captions of an item, N rows, D embedding.
"""

import collections
import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from naturel_jax import weights
from naturel_jax.benchmarks.benchmark import Box, Caption, Image, Item
from naturel_jax.data.images.decode import decoded
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices import preemption
from naturel_jax.devices.sharding import batch_sharding, batch_shards, make_mesh, param_sharding
from naturel_jax.models.naflex import Patches
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Encode, Model, Params, of_pixels
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common.errors import UserError

LENGTH_STEP = 16  # captions of a causal tower are trimmed to a multiple of this, so that few shapes are compiled
_TEXTS = 1 << 18  # the token cache is emptied beyond this many texts
# Annotated boxes may extend a few pixels past the image; beyond this share of a side, a box is another image's.
BOX_SLACK = 0.05

Advance = Callable[[int], object]  # called with the number of images or captions processed since the last call
Decoded = tuple[np.ndarray | None, str]  # pixels, or None and the reason
Block = np.ndarray | Patches  # a batch of images or tokens
T = TypeVar("T")
R = TypeVar("R")


class Embedder(Protocol):
    """Embeds with one set of parameters: ``Sides``, or a ``CachedEncoder``."""

    def images(self, images: Sequence[Image], /) -> tuple[np.ndarray, dict[int, str]]:
        """Unit embeddings [I, D], float32; index -> reason for the images that could not be read."""
        ...

    def captions(self, texts: Sequence[str], /) -> np.ndarray:
        """Unit embeddings [U, D], float32. Texts with the same tokens have the same embedding, bit for bit."""
        ...


class Sides(NamedTuple):
    """An ``Embedder`` of two functions."""

    images: Callable[[Sequence[Image]], tuple[np.ndarray, dict[int, str]]]
    captions: Callable[[Sequence[str]], np.ndarray]


class Encoder:
    """Embeds images and captions with one model and any parameters for it.

    Without a ``mesh``, it does so on the first device of this process. Decoded pixels and tokens are kept, so later
    evaluations of a run pay only for the towers. Pixels of distinct crops (uint8) are kept until ``pixel_cache_bytes``
    are used; further ones are decoded each time.
    """

    def __init__(
        self,
        model: Model,
        processor: Processor,
        *,
        mesh: Mesh | None = None,
        batch_size: int = 256,
        pixel_cache_bytes: int = 1 << 30,
    ):
        self.model, self.processor = model, processor
        mesh = mesh or make_mesh({"data": 1}, jax.local_devices()[:1])
        self._rows, shards = batch_sharding(mesh), batch_shards(mesh)
        self.batch_size = -(-batch_size // shards) * shards
        self._pixels: dict[tuple[str, Box | None], np.ndarray] = {}
        self._max_cached = pixel_cache_bytes // sum(x.nbytes for x in jax.tree.leaves(processor.batch({}, 1)))
        self._tokens: dict[str, np.ndarray] = {}

        towers = _compiled(model, processor.mean, processor.std, self._rows)
        self._encode_image, self._image_norm, self._encode_text, self._text_norm = towers

    def images(
        self, params: Params, images: Sequence[Image], advance: Advance = lambda n: None
    ) -> tuple[np.ndarray, dict[int, str]]:
        """Unit embeddings [I, D], float32; index -> reason for the images that could not be read."""
        return self._images(self._encode_image, params, images, advance)

    def image_norms(self, params: Params, images: Sequence[Image]) -> np.ndarray:
        """Lengths [I], float32, of the embeddings before normalization."""
        return self._images(self._image_norm, params, images, lambda n: None)[0]

    def stream(self, params: Params, images: Iterable[Image]) -> Iterator[tuple[np.ndarray, str]]:
        """The unit embedding [D], float32, of each image, and why it cannot be read, or ""; in order. A few batches are
        in memory, however many images there are. For processes that are not joined."""
        reasons: collections.deque[list[str]] = collections.deque()

        def blocks() -> Iterator[Block]:
            loaded = _prefetch(pool, self._load, images, 2 * self.batch_size)
            while batch := list(itertools.islice(loaded, self.batch_size)):
                reasons.append([reason for _, reason in batch])
                pixels = {n: pixels for n, (pixels, _) in enumerate(batch) if pixels is not None}
                yield self.processor.batch(pixels, self.batch_size)

        pool = concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1))
        try:
            for z_ID in self._results(self._encode_image, params, blocks()):
                yield from zip(z_ID, reasons.popleft(), strict=False)
        finally:
            pool.shutdown(cancel_futures=True)

    def _images(
        self, encode: Encode, params: Params, images: Sequence[Image], advance: Advance
    ) -> tuple[np.ndarray, dict[int, str]]:
        faults: dict[int, str] = {}
        starts, local = range(0, len(images), self.batch_size), self._local_rows()
        indices = [start + int(n) for start in starts for n in local if start + n < len(images)]
        pool = concurrent.futures.ThreadPoolExecutor(min(32, os.cpu_count() or 1))
        try:
            rows = _prefetch(pool, self._load, (images[n] for n in indices), 2 * self.batch_size)
            blocks = self._pixel_blocks(zip(indices, rows, strict=True), len(images), faults, advance)
            encoded = self._run(encode, params, blocks)
        finally:
            pool.shutdown(cancel_futures=True)  # when stopped, what was queued is not decoded
        return encoded[: len(images)], self._all_process_faults(faults, images)

    def _pixel_blocks(
        self, rows: Iterator[tuple[int, Decoded]], number: int, faults: dict[int, str], advance: Advance
    ) -> Iterator[Block]:
        """Batches of pixels, black for rows without an image and rows of other processes."""
        local = self._local_rows()
        for start in range(0, number, self.batch_size):
            block = dict[int, np.ndarray]()
            for n, (pixels, reason) in itertools.islice(rows, int((local < number - start).sum())):
                if pixels is None:
                    faults[n] = reason
                else:
                    block[n - start] = pixels
                advance(1)
            yield self.processor.batch(block, self.batch_size)

    def captions(self, params: Params, texts: Sequence[str], advance: Advance = lambda n: None) -> np.ndarray:
        """Unit embeddings [U, D], float32. Texts with the same tokens have the same embedding, bit for bit, so ties
        are exact.
        """
        if not texts:
            return np.zeros((0, self.model.config.embed_dim), np.float32)
        return self._texts(self._encode_text, params, texts, advance)

    def text_norms(self, params: Params, texts: Sequence[str]) -> np.ndarray:
        """Lengths [U], float32, of the embeddings before normalization."""
        return self._texts(self._text_norm, params, texts, lambda n: None)

    def with_params(self, params: Params) -> Embedder:
        """This encoder bound to one set of parameters. Benchmarks of the same captions have them embedded once."""
        captions = functools.cache(functools.partial(self.captions, params))
        return Sides(functools.partial(self.images, params), lambda texts: captions(tuple(texts)))

    def _texts(self, encode: Encode, params: Params, texts: Sequence[str], advance: Advance) -> np.ndarray:
        tokens_UL, inverse = np.unique(self.tokens(texts), axis=0, return_inverse=True)
        lengths, rows, results = self._lengths(tokens_UL), [], []
        for length in np.unique(lengths):
            which = np.flatnonzero(lengths == length)
            blocks = _blocks(tokens_UL[which, :length], self.batch_size)
            results.append(self._run(encode, params, blocks)[: len(which)])
            rows.append(which)
            advance(len(which))
        return np.concatenate(results)[np.argsort(np.concatenate(rows))][inverse.reshape(-1)]

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids [U, context], int32; each text is tokenized once."""
        if len(self._tokens) > _TEXTS:
            self._tokens.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        self._tokens |= zip(new, self.processor.tokenize(new), strict=True)
        return np.stack([self._tokens[text] for text in texts])

    def _lengths(self, tokens_UL: np.ndarray) -> np.ndarray:
        """Number of positions in each row that affect its embedding, rounded up: all unless the tower is causal and
        pools at the end token.
        """
        text = self.model.config.text
        if not text.causal or text.pool != "eos":
            return np.full(len(tokens_UL), tokens_UL.shape[1])
        needed = np.argmax(tokens_UL == text.eos_id, axis=1) + 1
        return np.minimum(-(-needed // LENGTH_STEP) * LENGTH_STEP, tokens_UL.shape[1])

    def _load(self, image: Image) -> Decoded:
        key = (image.key, image.box)
        if key in self._pixels:
            return self._pixels[key], ""
        try:
            data = image.read()
            if image.box is not None:
                _check_box(data, image.box)
            pixels = self.processor.image(data, image.box)
        except (OSError, ValueError) as error:
            return None, f"image {image.key}: {error}"
        if len(self._pixels) < self._max_cached:
            self._pixels[key] = pixels
        return pixels, ""

    def _local_rows(self) -> np.ndarray:
        """The rows of a batch on this process's devices, the only ones that it decodes."""
        rows = np.arange(self.batch_size)
        slices = self._rows.addressable_devices_indices_map((self.batch_size,)).values()
        return np.unique(np.concatenate([rows[index] for index in slices]))

    def _run(self, encode: Encode, params: Params, blocks: Iterable[Block]) -> np.ndarray:
        """Embeddings of all blocks."""
        results = list(self._results(encode, params, blocks))
        return np.concatenate(results) if results else np.zeros((0, self.model.config.embed_dim), np.float32)

    def _results(self, encode: Encode, params: Params, blocks: Iterable[Block]) -> Iterator[np.ndarray]:
        """Embeddings of each block. One result is awaited while the next is computed. Raises Stopped between blocks;
        all processes have equally many. Raises UserError for embeddings that are not finite."""
        pending: jax.Array | None = None
        for block in blocks:
            preemption.check()
            result = encode(params, jax.tree.map(self._put, block))
            if pending is not None:
                yield self._fetched(encode, pending)
            pending = result
        if pending is not None:
            yield self._fetched(encode, pending)

    def _fetched(self, encode: Encode, result: jax.Array) -> np.ndarray:
        """``result`` of all processes. NaN is refused: no number is above it, so it would win every comparison."""
        z_ND = np.asarray(multihost_utils.process_allgather(result, tiled=True))
        if not np.isfinite(z_ND).all():
            tower = "text" if encode in (self._encode_text, self._text_norm) else "image"
            raise UserError(
                f"the {tower} tower gives embeddings that are not finite numbers: its weights are damaged, or their "
                "training diverged; get the weights again, or train with a lower config.optim.lr"
            )
        return z_ND

    def _put(self, block: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(block.shape, self._rows, block.__getitem__)

    def _all_process_faults(self, faults: dict[int, str], images: Sequence[Image]) -> dict[int, str]:
        """The faults of all processes. The others send only the indices, so their reasons are looked up again here."""
        mask = np.zeros(len(images), bool)
        mask[list(faults)] = True
        failed = np.flatnonzero(multihost_utils.process_allgather(mask).any(axis=0)).tolist()
        return {n: faults.get(n) or self._load(images[n])[1] or "unreadable in another process" for n in failed}


@functools.lru_cache(maxsize=2)
def _compiled(
    model: Model, mean: tuple[float, ...], std: tuple[float, ...], rows: NamedSharding
) -> tuple[Encode, Encode, Encode, Encode]:
    """``encode_image`` and ``image_norm`` of uint8 images, ``encode_text`` and ``text_norm``: jitted, with results
    sharded by ``rows``. Kept, so that further runs of a model in a process compile nothing: a base and its recipes."""
    # Float32 towers compute in float32: an accelerator's default would round products to TF32 or bfloat16.
    exact = jax.default_matmul_precision("highest")
    image = (of_pixels(encode, mean, std) for encode in (model.encode_image, model.image_norm))
    encode_image, image_norm, encode_text, text_norm = (
        jax.jit(exact(encode), out_shardings=rows) for encode in (*image, model.encode_text, model.text_norm)
    )
    return encode_image, image_norm, encode_text, text_norm


def load_encoder(source: str, *, dtype: str, batch_size: int) -> tuple[Encoder, Params]:
    """An encoder of benchmark items for the model at ``source`` (see ``weights.load``), and its parameters, over all
    devices.

    ``dtype`` is that of the towers' arithmetic. Pixels are not cached, since one set of parameters reads each image
    only once. Raises whatever ``weights.load`` raises.
    """
    loaded = weights.load(source, sharding_for=param_sharding(make_mesh({"data": -1})))
    return make_encoder(loaded, dtype=dtype, batch_size=batch_size), loaded.params


def make_encoder(loaded: Loaded, *, dtype: str, batch_size: int) -> Encoder:
    """Like ``load_encoder``, for a model in memory."""
    model = Model(loaded.config, Compute(dtype=dtype))
    processor, mesh = loaded.processor.for_benchmarks(), make_mesh({"data": -1})
    return Encoder(model, processor, mesh=mesh, batch_size=batch_size, pixel_cache_bytes=0)


def cosines(items: Sequence[Item], embedder: Embedder) -> tuple[list[Item], list[np.ndarray], list[str]]:
    """The items whose images could be read, their cosines (float32 [images, captions], see ``Item``), and the
    problems of the others.
    """
    images: dict[tuple[str, Box | None], tuple[int, Image]] = {}
    texts: dict[str, int] = {}
    for item in items:
        for image in item.images:
            images.setdefault((image.key, image.box), (len(images), image))
    for captions in _distinct(item.captions for item in items):
        for text in itertools.chain.from_iterable((c,) if isinstance(c, str) else c for c in captions):
            texts.setdefault(text, len(texts))
    ztxt_UD = embedder.captions(list(texts))
    zimg_ID, faults = embedder.images([image for _, image in images.values()])
    kept: list[Item] = []
    matrices: list[np.ndarray] = []
    problems: list[str] = []
    shared: tuple[Caption, ...] = ()
    zcap_CD = np.zeros((0, zimg_ID.shape[1]), np.float32)
    for item in items:
        rows = [images[image.key, image.box][0] for image in item.images]
        if bad := [faults[row] for row in rows if row in faults]:
            problems.append(f"item {item.id}: {bad[0]}")
            continue
        if item.captions is not shared:  # classification items share one long tuple
            shared, zcap_CD = item.captions, np.stack([_caption(c, texts, ztxt_UD) for c in item.captions])
        left = np.concatenate([zimg_ID[rows], zcap_CD]) if item.caption_rows else zimg_ID[rows]
        kept.append(item)
        # einsum sums each cell in the same order regardless of its position, so equal captions tie exactly; a matrix
        # product does not.
        matrices.append(np.einsum("id,cd->ic", left, zcap_CD))
    return kept, matrices, problems


def _caption(caption: Caption, texts: dict[str, int], ztxt_UD: np.ndarray) -> np.ndarray:
    if isinstance(caption, str):
        return ztxt_UD[texts[caption]]
    mean = ztxt_UD[[texts[text] for text in caption]].mean(axis=0)
    return mean / np.linalg.norm(mean)


def _check_box(data: bytes, box: Box) -> None:
    """Rejects a box that is empty or belongs to another image. One that extends slightly past the image is fine: PIL
    fills the rest with black.
    """
    with decoded(data) as image:
        width, height = image.size
    left, top, right, bottom = box
    x, y = BOX_SLACK * width, BOX_SLACK * height
    inside = -x <= left < right <= width + x and -y <= top < bottom <= height + y
    if not inside or left >= width or top >= height or right <= 0 or bottom <= 0:
        raise ValueError(f"box {box} is empty or outside the image of {width} x {height} pixels")


def _distinct(captions: Iterable[tuple[Caption, ...]]) -> Iterable[tuple[Caption, ...]]:
    """Each tuple object once, so that one shared by many items is read only once."""
    return {id(shared): shared for shared in captions}.values()


def _blocks(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """``rows`` in blocks of ``size``, the last one padded with copies of its last row."""
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        yield np.pad(block, [(0, size - len(block)), (0, 0)], mode="edge")


def _prefetch(
    pool: concurrent.futures.Executor, work: Callable[[T], R], elements: Iterable[T], depth: int
) -> Iterator[R]:
    """``work`` of each element, in order, at most ``depth`` ahead of the reader."""
    ahead: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    for element in elements:
        ahead.append(pool.submit(work, element))
        if len(ahead) > depth:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
