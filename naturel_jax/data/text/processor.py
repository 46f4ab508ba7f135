"""The processor: how a model's texts become token ids and its images become pixels. It is saved with every checkpoint
and export."""

import base64
import dataclasses
import functools
import html
import itertools
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import ftfy
import numpy as np
import sentencepiece
import tokenizers
from PIL import Image

from naturel_jax.data.images import naflex
from naturel_jax.data.images.decode import cropped, decoded, to_rgb, without_transparent_color
from naturel_jax.data.text.tokenizer import train_tokenizer
from naturel_jax.models.families import Channels, family_of
from naturel_jax.models.naflex import Patches
from naturel_jax.models.two_tower import ImageConfig, TextConfig, TwoTowerConfig
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import LONGEST_TEXT, reading_tokenizer

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_Tokenizer = sentencepiece.SentencePieceProcessor | tokenizers.Tokenizer
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SIGLIP_SPECIAL = re.compile(r"(?:(?<!\s)\s+)?(</s>|<unk>)\s*")  # \s* would try each space of a long run as its first
_LONG_NUMBER = re.compile("&#[0-9]{4301,};?")  # more digits than int() reads
_SURROGATE = re.compile("[\ud800-\udfff]")


def _unescaped(text: str) -> str:
    """``html.unescape``, which gives the same for a number of no character, but raises ValueError for a long one."""
    return html.unescape(_LONG_NUMBER.sub("\N{REPLACEMENT CHARACTER}", text))


def _fixed(text: str) -> str:
    if not (text.isascii() and text.isprintable() and "&" not in text):  # other texts need no fixing
        text = _unescaped(_unescaped(ftfy.fix_text(text)))
    return " ".join(text.split())


def _openclip(text: str) -> str:
    """Cleaned as by OpenCLIP's own tokenizer, whose special tokens have other names: the usual ones are text to it."""
    text = re.sub(r"<\|(startoftext|endoftext)\|>", r"<| \1 |>", _fixed(text).lower())
    return re.sub(r"(?:(?<=[\w\s])(?<!_)|^)<(start|end)_of_text>", r"<|\1oftext|>", text)


def _siglip(text: str) -> str:
    """Cleaned as by transformers' ``SiglipTokenizer``, which finds special tokens before it cleans the rest."""
    parts = _SIGLIP_SPECIAL.split(text.replace("▁", " "))
    return "".join(part if n % 2 else _without_punctuation(part) for n, part in enumerate(parts))


def _without_punctuation(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())


# How texts are cleaned before the tokenizer's own normalization. OpenAI's and OpenCLIP's tokenizers fix mojibake,
# curly quotes and HTML entities, transformers' do not; SigLIP's drops punctuation (OpenCLIP's version of it turns an
# underscore into a space).
CLEANERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "openclip": _openclip,
    "openclip_whitespace": _fixed,
    "openclip_siglip": lambda text: _without_punctuation(_fixed(text).replace("_", " ")),
    "siglip": _siglip,
}


# Where a centre crop starts, given the sum of the two margins; the conventions differ by a pixel if it is odd:
# transformers rounds down; torchvision, and so OpenAI's and OpenCLIP's transforms, round half to even.
CENTRES: dict[str, Callable[[int], int]] = {
    "floor": lambda margin: margin // 2,
    "round": lambda margin: round(margin / 2),
}


def _on_white(image: Image.Image) -> Image.Image:
    """The same as transformers' ``convert_to_rgb``, in less memory than its ``alpha_composite``, whose rounding
    ``paste`` has for every color and opacity; ``transparency`` is that of a palette, or of one color."""
    if "A" not in image.getbands() and image.info.get("transparency") is None:
        return to_rgb(image)
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white


# How an image that is not RGB becomes RGB before it is resized. Only images with transparency or a palette depend on
# it: all three agree on grey ones.
TO_RGB: dict[str, Callable[[Image.Image], Image.Image]] = {
    "first": lambda image: to_rgb(without_transparent_color(image)),
    "on_white": _on_white,
    "last": without_transparent_color,
}


_MAX_MEMORY = 64 << 20  # bytes of an image, of what it is resized to, and of the step between
_LARGEST = 1 << 14  # tokens of a text, pixels of a side, or patches
_MOST_PIXELS = 1 << 22  # of all patches of an image, which has nearly as many as it may have, however small it is
_FARTHEST = 1e4  # largest absolute mean, or 1 / std


def _is_channels(values: object, smallest: float) -> bool:
    """Whether ``values`` are three numbers from ``smallest`` to ``_FARTHEST``."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        return False
    return all(isinstance(value, int | float) and smallest <= value <= _FARTHEST for value in values)


@dataclasses.dataclass(frozen=True)
class Processor:
    """Text and image preprocessing of one model.

    ``tokenizer`` is the JSON of a ``tokenizers.Tokenizer`` that normalizes, adds the special tokens, truncates and
    pads to ``context``, or a sentencepiece model (SigLIP's spiece.model) in base64, whose end token also pads.
    ``resize``: ``short`` (short side to ``size``, centre crop: CLIP), ``square`` (both sides: SigLIP) or ``naflex`` (to
    at most ``max_patches`` squares of ``patch`` pixels with the image's aspect ratio: ``naflex.grid``). ``patch`` and
    ``max_patches`` are None unless the model takes ``Patches``. ``mean`` and ``std`` are per channel, for pixels in
    [0, 1]. ``clean``: a key of ``CLEANERS``; ``centre``: of ``CENTRES``.

    ``to_rgb``: what happens to transparency and palettes, as in the code that a model comes with. ``first``: converted
    to RGB, dropping the alpha channel, then resized; big_vision (``tf.io.decode_image`` with three channels), the
    published code of the benchmarks (see ``for_benchmarks``), and models trained here from scratch. ``on_white``:
    composited on white, then resized; transformers 5. ``last``: resized as it is, which takes the nearest color of a
    palette and weights colors by their opacity, then converted, dropping the alpha channel; OpenAI and OpenCLIP.

    Raises UserError for a value that is not one of these.
    """

    tokenizer: str
    context: int
    size: int
    resize: str
    interpolation: str
    mean: Channels
    std: Channels
    clean: str = "none"
    centre: str = "floor"
    to_rgb: str = "first"
    patch: int | None = None
    max_patches: int | None = None

    def __post_init__(self) -> None:
        choices: dict[str, Iterable[str]] = {
            "resize": ("short", "square", "naflex"),
            "interpolation": FILTERS,
            "clean": CLEANERS,
            "centre": CENTRES,
            "to_rgb": TO_RGB,
        }
        for field, values in choices.items():
            if (value := getattr(self, field)) not in list(values):
                raise UserError(f"processor.{field} is {value!r:.80}: expected one of {', '.join(values)}")
        sizes = ["context", "size"]
        if self.resize == "naflex" or self.patch is not None or self.max_patches is not None:
            sizes += ["patch", "max_patches"]
        for field in sizes:
            if type(value := getattr(self, field)) is not int or not 0 < value <= _LARGEST:
                raise UserError(f"processor.{field} is {value!r:.80}: expected a whole number from 1 to {_LARGEST}")
        if self.patch and self.max_patches and self.max_patches * self.patch**2 > _MOST_PIXELS:
            raise UserError(
                f"processor.max_patches is {self.max_patches}, of {self.patch} x {self.patch} pixels: expected at most "
                f"{_MOST_PIXELS:,} pixels together"
            )
        for field, smallest in (("mean", -_FARTHEST), ("std", 1 / _FARTHEST)):
            if not _is_channels(value := getattr(self, field), smallest):
                raise UserError(f"processor.{field} is {value!r:.80}: expected three numbers from {smallest:g}")
            object.__setattr__(self, field, tuple(value))  # JSON has lists
        if not isinstance(self.tokenizer, str):
            raise UserError(f"processor.tokenizer is a {type(self.tokenizer).__name__}: expected a string")

    def to_dict(self) -> dict[str, Any]:
        """JSON-serializable form; ``Processor(**d)`` reads it back."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @property
    def sentencepiece(self) -> bytes | None:
        """The sentencepiece model, if the tokenizer is one."""
        return None if self.tokenizer.startswith("{") else base64.b64decode(self.tokenizer, validate=True)

    @property
    def is_bpe(self) -> bool:
        """Whether the tokenizer is byte-pair encoding."""
        return isinstance(getattr(self._opened, "model", None), tokenizers.models.BPE)

    @functools.cached_property
    def _opened(self) -> _Tokenizer:
        if model := self.sentencepiece:
            return sentencepiece.SentencePieceProcessor(model_proto=model)
        return tokenizers.Tokenizer.from_str(self.tokenizer)

    @property
    def _largest_id(self) -> int:
        opened = self._opened
        if isinstance(opened, tokenizers.Tokenizer):
            return max(opened.get_vocab().values(), default=0)
        return opened.vocab_size() - 1

    @property
    def _end_id(self) -> int:
        """What a text ends with that is longer than the context, whatever shorter ones are padded with."""
        return int(self.tokenize(["a " * self.context])[0, -1])

    def check_ids(self, text: TextConfig) -> None:
        """Raises UserError for a tokenizer that cannot be used, that has ids which a model with this text tower does
        not embed, or that ends texts with another id than the tower takes the embedding at: without that id in a text,
        it would be the first position's, which is the same for all texts."""
        added = self.tokenize([""])  # what is added to a text need not be in the vocabulary
        for number in (self._largest_id, *added[0].tolist()):
            if not 0 <= number < text.vocab:
                raise UserError(
                    f"the tokenizer has the token id {number}; expected 0 to {text.vocab - 1}, as in the model"
                )
        if text.pool == "eos" and (end := self._end_id) != text.eos_id:
            raise UserError(
                f"the tokenizer ends texts with the token id {end}, but the model takes a text's embedding at the id "
                f"{text.eos_id}; expected the same: use the tokenizer that the model was trained with, or if it is, "
                f"write {end} as text_config.eos_token_id in config.json, or as text_cfg.eos_id with the pool_type "
                "'eos' in open_clip_config.json"
            )

    def ends(self, text: TextConfig, largest: bool = False) -> TextConfig:
        """``text`` with the embedding at the end of a text, if it is at an end token. ``largest``: of a model that
        takes it at the largest id of a text; only if the end token always is the largest, as it is unless the tokenizer
        was given further tokens. A vocabulary with more ids than the tokenizer has was padded."""
        if text.pool != "eos" or (largest and self._end_id != self._largest_id):
            return text
        return dataclasses.replace(text, eos_id=self._end_id)

    @functools.cached_property
    def _encode(self) -> Callable[[list[str]], Iterable[Sequence[int]]]:
        tokenizer = self._opened
        if isinstance(tokenizer, sentencepiece.SentencePieceProcessor):
            end, length = tokenizer.eos_id(), self.context
            return lambda texts: (
                ids[: length - 1] + [end] * max(1, length - len(ids)) for ids in _encode_pieces(tokenizer, texts)
            )
        padding, truncation = tokenizer.padding or {}, tokenizer.truncation or {}
        if (lengths := (truncation.get("max_length"), padding.get("length"))) != (self.context,) * 2:
            raise UserError(  # a long text would pad all others
                f"processor.tokenizer: truncates to {lengths[0]} tokens and pads to {lengths[1]}; expected "
                f"{self.context}"
            )
        if padding["direction"] != "right":
            return lambda texts: (encoding.ids for encoding in tokenizer.encode_batch_fast(texts))
        tokenizer.no_padding()  # building lists of padding took most of the time
        pads = [padding["pad_id"]] * self.context
        return lambda texts: (
            (ids := encoding.ids) + pads[len(ids) :] for encoding in tokenizer.encode_batch_fast(texts)
        )

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids [len(texts), context], int32. Raises UserError for a text with a lone surrogate, or of more than
        ``LONGEST_TEXT`` characters."""
        if long := next((text for text in texts if len(text) > LONGEST_TEXT), None):
            raise UserError(f"text {long!r:.80} has {len(long):,} characters; the limit is {LONGEST_TEXT:,}")
        if bad := next((text for text in texts if not text.isascii() and _SURROGATE.search(text)), None):
            raise UserError(
                f"text {bad!r:.80} has a lone surrogate, which is not a character: read the file as UTF-8, or drop it "
                "with text.encode(errors='ignore').decode()"
            )
        clean = CLEANERS[self.clean]
        cleaned = [clean(text) for text in texts]
        with reading_tokenizer("processor.tokenizer"):
            encoded = list(self._encode(cleaned))
        ids = np.fromiter(itertools.chain.from_iterable(encoded), np.int32)
        if len(ids) != len(texts) * self.context:
            raise UserError(
                f"processor.tokenizer: gives {len(ids)} tokens for {len(texts)} texts; expected {self.context} for each"
            )
        return ids.reshape(len(texts), self.context)

    def image(self, data: bytes, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Decodes, crops ``box`` (left, top, right, bottom in pixels), resizes: uint8 [size, size, 3], or the whole
        patches of a NaFlex model.

        The pixels are exactly those of transformers' PIL image processors, and of OpenAI's and OpenCLIP's transforms
        (with ``centre`` ``round``); for images with transparency or a palette, with that library's ``to_rgb``. Like all
        three, this ignores EXIF orientation. big_vision's resizing is not antialiased; its models are
        evaluated here as transformers does. Raises UserError for bytes that are not an image, or an image or a box
        with too many pixels for its bytes (``photos.most_pixels``).
        """
        with decoded(data) as image:
            image = TO_RGB[self.to_rgb](image)
            image = image if box is None else cropped(image, box, len(data))
            return np.asarray(to_rgb(self._resized(image, _MAX_MEMORY + 40 * len(data))))

    def _resized(self, image: Image.Image, memory: int) -> Image.Image:
        """The image resized and cropped. If that takes more than ``memory`` bytes, as of a strip of a thousand times
        its width, only the crop is resized; Pillow then rounds where it begins and ends to float32, and from 13 on may
        resize the height before the width."""
        (width, height, crop), filtered = self._geometry(*image.size), FILTERS[self.interpolation]
        if 4 * (image.width * image.height + width * image.height + width * height) <= memory:
            return image.resize((width, height), filtered).crop(crop)
        if self.resize != "short" and image.height > image.width:  # before 13, Pillow resizes the width first
            image = image.resize((image.width, height), filtered)
            return image.resize((width, height), filtered)
        scales = (image.width / width, image.height / height) * 2
        left, top, right, bottom = (side * scale for side, scale in zip(crop, scales, strict=True))
        within = (left, top, min(right, image.width), min(bottom, image.height))
        return image.resize((crop[2] - crop[0], crop[3] - crop[1]), filtered, box=within)

    def batch(self, images: Mapping[int, np.ndarray], rows: int) -> np.ndarray | Patches:
        """What a tower takes of ``rows`` images from ``image``, by row, uint8; those that are not there are black.
        Raises ValueError for an image with more than ``max_patches`` patches."""
        black = functools.partial(np.zeros, dtype=np.uint8)
        if self.patch is None or self.max_patches is None:
            block: np.ndarray = black((rows, self.size, self.size, 3))
            for n, pixels in images.items():
                block[n] = pixels
            return block
        patches = naflex.empty(rows, self.patch, self.max_patches, black)
        for n, pixels in images.items():
            naflex.put(patches, n, pixels, self.patch)
        return patches

    def for_benchmarks(self) -> "Processor":
        """This processor for the images of benchmarks, whose published code converts them to RGB before anything
        else (ARO's, Winoground's)."""
        return dataclasses.replace(self, to_rgb="first")

    def _geometry(self, width: int, height: int) -> tuple[int, int, tuple[int, int, int, int]]:
        """The size to resize an image of this size to, and the box to crop from the result."""
        size = self.size
        if self.resize == "square":
            return size, size, (0, 0, size, size)
        if self.resize == "naflex":
            assert self.patch and self.max_patches  # checked above
            rows, columns = naflex.grid(width, height, self.patch, self.max_patches)
            w, h = columns * self.patch, rows * self.patch
            return w, h, (0, 0, w, h)
        w, h = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
        left, top = (CENTRES[self.centre](side - size) for side in (w, h))
        return w, h, (left, top, left + size, top + size)


def _encode_pieces(pieces: sentencepiece.SentencePieceProcessor, texts: list[str]) -> Iterator[list[int]]:
    """Ids of cleaned texts. Text after a special token continues a word, as in transformers: the unknown token before
    it keeps sentencepiece from starting one."""
    unknown = pieces.id_to_piece(pieces.unk_id())
    before = len(pieces.encode(unknown))
    for text, ids in zip(texts, pieces.encode(texts), strict=True):
        first, *rest = _SIGLIP_SPECIAL.split(text)
        if rest:
            ids = pieces.encode(first)
            for special, part in zip(rest[::2], rest[1::2], strict=True):
                ids += [pieces.piece_to_id(special), *pieces.encode(unknown + part)[before:]]
            if ids[-1] == pieces.eos_id():
                ids = ids[:-1]
        yield ids


def from_scratch(config: TwoTowerConfig, captions: Iterable[str]) -> Processor:
    """The processor of a model with random parameters: a tokenizer of its family trained on ``captions``, and images
    as ``resizing`` says, with values from -1 to 1."""
    text = config.text
    return Processor(
        tokenizer=train_tokenizer(family_of(config).name, captions, text.vocab, text.context),
        context=text.context,
        interpolation="bilinear",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        **resizing(config.image),
    )


def resizing(image: ImageConfig, max_patches: int = 0) -> dict[str, Any]:
    """The fields by which the processor of a new model resizes images: squashed to a square, or for a NaFlex model, to
    at most ``max_patches`` (0: as many as it has positions)."""
    if not image.naflex:
        return {"size": image.size, "resize": "square"}
    most = max_patches or image.grid**2
    return {"size": image.size, "resize": "naflex", "patch": image.patch, "max_patches": most}
