"""The processor: how a model's texts become token ids and its pictures become pixels. It is saved with every
checkpoint and export."""

import base64
import dataclasses
import functools
import html
import io
import json
import math
import re
import string
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cv2
import ftfy
import numpy as np
import sentencepiece
import simplejpeg
import tokenizers
from PIL import Image
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded

FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _mended(text: str) -> str:
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


# What is done to a text before the tokenizer's own normalisation. OpenAI's and OpenCLIP's tokenizers mend mojibake,
# curly quotes and HTML entities, transformers' do not; SigLIP's drops punctuation (OpenCLIP's version of it makes an
# underscore a space).
CLEANERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "openclip": lambda text: _mended(text).lower(),
    "openclip_whitespace": _mended,
    "openclip_siglip": lambda text: " ".join(
        _mended(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split()
    ),
    "siglip": lambda text: re.sub(r"\s+", " ", text.replace("▁", " ").lower().translate(_NO_PUNCTUATION)).strip(),
}


# Where a centre crop starts, given the margin on both sides: they differ by a pixel where it is odd. transformers
# rounds down; torchvision, so OpenAI's and OpenCLIP's transforms, rounds half to even.
CENTRES: dict[str, Callable[[int], int]] = {
    "floor": lambda margin: margin // 2,
    "round": lambda margin: round(margin / 2),
}


@dataclasses.dataclass(frozen=True)
class Processor:
    """Text and image preprocessing of one model.

    ``tokenizer`` is the JSON of a ``tokenizers.Tokenizer`` that normalises, adds the special tokens, truncates and
    pads to ``context``, or a sentencepiece model (SigLIP's spiece.model) in base64, whose end token also pads.
    ``resize``: ``short`` (short side to ``size``, centre crop: CLIP) or ``square`` (both sides: SigLIP). ``mean`` and
    ``std`` are by channel, of pixels in [0, 1]. ``clean``: a key of ``CLEANERS``; ``centre``: of ``CENTRES``. Raises
    ValueError for a field it does not know.
    """

    tokenizer: str
    context: int
    size: int
    resize: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    clean: str = "none"
    centre: str = "floor"

    def __post_init__(self):
        known = {"resize": ("short", "square"), "interpolation": FILTERS, "clean": CLEANERS, "centre": CENTRES}
        for field, values in known.items():
            if getattr(self, field) not in values:
                raise ValueError(f"processor.{field} is {getattr(self, field)!r}: expected one of {', '.join(values)}")
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists
        object.__setattr__(self, "std", tuple(self.std))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``Processor(**d)`` reads it back."""
        return dataclasses.asdict(self)

    @property
    def sentencepiece(self) -> bytes | None:
        """The sentencepiece model, where the tokenizer is one."""
        return None if self.tokenizer.startswith("{") else base64.b64decode(self.tokenizer, validate=True)

    @functools.cached_property
    def _encode(self) -> Callable[[list[str]], Iterable[Sequence[int]]]:
        if model := self.sentencepiece:
            pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
            end, length = pieces.eos_id(), self.context
            return lambda texts: (ids[: length - 1] + [end] * max(1, length - len(ids)) for ids in pieces.encode(texts))
        tokenizer = tokenizers.Tokenizer.from_str(self.tokenizer)
        return lambda texts: (encoding.ids for encoding in tokenizer.encode_batch(texts))

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids [len(texts), context], int32."""
        clean = CLEANERS[self.clean]
        ids = list(self._encode([clean(text) for text in texts]))
        return np.array(ids, np.int32).reshape(len(texts), self.context)

    def image(self, data: bytes, box: tuple[int, int, int, int] | None = None, *, exact: bool = True) -> np.ndarray:
        """Decodes, crops ``box`` (left, top, right, bottom in pixels), resizes: uint8 [size, size, 3].

        ``exact``: bit for bit as PIL, the reference of every family, does it. Otherwise with libjpeg-turbo and
        OpenCV, about twice as fast: pixels within 2/255 of the reference on average over a photo. Raises ValueError
        for bytes that are not a picture or are larger than ``MAX_PIXELS``.
        """
        if exact:
            picture = open_picture(data)
            picture = picture if box is None else picture.crop(box)
            width, height, crop = self._geometry(*picture.size)
            return np.asarray(picture.resize((width, height), FILTERS[self.interpolation]).crop(crop))
        pixels = _decoded(data)
        if box is not None:
            left, top, right, bottom = box
            pixels = pixels[top:bottom, left:right]
        width, height, (left, top, right, bottom) = self._geometry(pixels.shape[1], pixels.shape[0])
        return _resized(pixels, width, height, self.interpolation)[top:bottom, left:right]

    def _geometry(self, width: int, height: int) -> tuple[int, int, tuple[int, int, int, int]]:
        """The size to resize a picture of this size to, and the box to crop from the result."""
        size = self.size
        if self.resize == "square":
            return size, size, (0, 0, size, size)
        w, h = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
        left, top = (CENTRES[self.centre](side - size) for side in (w, h))
        return w, h, (left, top, left + size, top + size)


def open_picture(data: bytes) -> Image.Image:
    """An RGB picture from encoded bytes, its size checked before its pixels are decoded. Raises ValueError."""
    try:
        picture = Image.open(io.BytesIO(data))
        _check_size(*picture.size)
        return picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable picture ({len(data)} bytes): {error}") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"picture of {width} x {height} pixels: more than {MAX_PIXELS:,} are refused")


def _decoded(data: bytes) -> np.ndarray:
    """Pixels [H, W, 3], uint8; JPEG through libjpeg-turbo, the rest through PIL."""
    if data[:2] != b"\xff\xd8":
        return np.asarray(open_picture(data))
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        # CMYK files are stored inverted or not as their writer liked, which PIL sorts out.
        return simplejpeg.decode_jpeg(data, "RGB") if space != "CMYK" else np.asarray(open_picture(data))
    except ValueError as error:
        raise ValueError(f"not a readable JPEG ({len(data)} bytes): {error}") from error


def _resized(pixels: np.ndarray, width: int, height: int, interpolation: str) -> np.ndarray:
    """OpenCV's nearest thing to PIL's resizing, whose filters widen as a picture shrinks and OpenCV's do not."""
    shrink = pixels.shape[1] / width, pixels.shape[0] / height
    if interpolation == "bilinear":
        # A triangle as wide as the shrinkage s has variance s^2 / 6, of which interpolation itself brings 1 / 6.
        sigma_x, sigma_y = (math.sqrt(max(s * s - 1, 1e-6) / 6) for s in shrink)
        blurred = cv2.GaussianBlur(pixels, (0, 0), sigmaX=sigma_x, sigmaY=sigma_y) if max(shrink) > 1 else pixels
        return cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if min(shrink) > 1 else cv2.INTER_CUBIC)


def train_tokenizer(family: str, captions: Iterable[str], vocab: int, context: int) -> str:
    """Trains a small tokenizer with the conventions of ``family`` (``clip`` or ``siglip``) and returns its JSON. The
    same captions always give the same one.

    CLIP: byte-level BPE with ``</w>``, lowercased, ids 0 and 1 are start and end, padded with the end. SigLIP:
    unigram, lowercased without punctuation, id 1 is the end and the padding.
    """
    train, start_end, pad = {
        "clip": (_train_clip, "<|startoftext|> $A <|endoftext|>", "<|endoftext|>"),
        "siglip": (_train_siglip, "$A </s>", "</s>"),
    }[family]
    tok = train(captions, vocab)
    specials = [(t, tok.token_to_id(t)) for t in start_end.split() if t != "$A"]
    tok.post_processor = processors.TemplateProcessing(single=start_end, special_tokens=specials)
    return padded(tok, context, pad).to_str()


def padded(tok: tokenizers.Tokenizer, context: int, pad: str, side: str = "right") -> tokenizers.Tokenizer:
    """``tok`` cutting and padding every text to ``context`` tokens."""
    tok.enable_truncation(context)
    tok.enable_padding(pad_id=tok.token_to_id(pad), pad_token=pad, length=context, direction=side)
    return tok


def clip_tokenizer(model: models.BPE) -> tokenizers.Tokenizer:
    """CLIP's pipeline around a byte-level BPE whose words end in ``</w>``, as transformers' ``CLIPTokenizer`` builds
    it."""
    tok = tokenizers.Tokenizer(model)
    tok.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = pre_tokenizers.Split(tokenizers.Regex(words), behavior="removed", invert=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    return tok


def _train_clip(captions: Iterable[str], vocab: int) -> tokenizers.Tokenizer:
    start, end = "<|startoftext|>", "<|endoftext|>"
    tok = clip_tokenizer(models.BPE(unk_token=end, end_of_word_suffix="</w>"))
    captions = [tok.normalizer.normalize_str(caption) for caption in captions]
    words = {word for caption in captions for word, _ in tok.pre_tokenizer.pre_tokenize_str(caption)}
    # The library numbers the letters that end words in the order of a randomly seeded hash, and breaks ties between
    # merges by number. Named beforehand, they always have the same numbers.
    last_letters = sorted({word[-1] + "</w>" for word in words})
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[start, end, *last_letters],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    tok.train_from_iterator(captions, trainer)
    state = json.loads(tok.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in (start, end)]
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _train_siglip(captions: Iterable[str], vocab: int) -> tokenizers.Tokenizer:
    tok = tokenizers.Tokenizer(models.Unigram())
    clean = normalizers.Replace(tokenizers.Regex(r"[!-/:-@\[-`{-~]"), "")
    tok.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), clean, normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    # sentencepiece trains it, as it did SigLIP's own: tokenizers' unigram trainer gives other pieces each time.
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=map(tok.normalizer.normalize_str, captions),
        model_writer=trained,
        vocab_size=vocab,
        hard_vocab_limit=False,
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    scores = [(pieces.id_to_piece(n), pieces.get_score(n)) for n in range(pieces.vocab_size())]
    tok.model = models.Unigram(scores, unk_id=2)
    tok.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return tok
