"""The processor: how a model's texts become token ids and its pictures become pixels. It is saved with every checkpoint and export."""

import dataclasses
import functools
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tokenizers
from PIL import Image
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

MAX_PIXELS = 64_000_000  # a larger picture is refused before it is decoded

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclasses.dataclass(frozen=True)
class Processor:
    """Text and image preprocessing of one model.

    ``tokenizer`` is the JSON of a ``tokenizers.Tokenizer`` that normalises, adds the special tokens, truncates and pads to ``context``.
    ``resize``: ``short`` (short side to ``size``, centre crop: CLIP) or ``square`` (both sides: SigLIP). ``mean`` and ``std`` are by channel, of pixels in [0, 1].
    """

    tokenizer: str
    context: int
    size: int
    resize: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``Processor(**d)`` reads it back."""
        return dataclasses.asdict(self)

    @functools.cached_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        return tokenizers.Tokenizer.from_str(self.tokenizer)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids [len(texts), context], int32."""
        return np.array([e.ids for e in self._tokenizer.encode_batch(list(texts))], np.int32).reshape(
            len(texts), self.context
        )

    def image(self, data: bytes, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Decodes, crops ``box`` (left, top, right, bottom in pixels), resizes: uint8 [size, size, 3], as the PIL reference does.

        Raises ValueError for bytes that are not a picture or are larger than ``MAX_PIXELS``.
        """
        picture = open_picture(data)
        if box is not None:
            picture = picture.crop(box)
        return np.asarray(self._resize(picture))

    def _resize(self, picture: Image.Image) -> Image.Image:
        filter_, size = _FILTERS[self.interpolation], self.size
        if self.resize == "square":
            return picture.resize((size, size), filter_)
        w, h = picture.size
        w, h = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
        left, top = (w - size) // 2, (h - size) // 2
        return picture.resize((w, h), filter_).crop((left, top, left + size, top + size))


def open_picture(data: bytes) -> Image.Image:
    """An RGB picture from encoded bytes, its size checked before its pixels are decoded. Raises ValueError."""
    try:
        picture = Image.open(io.BytesIO(data))
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(
                f"picture of {picture.width} x {picture.height} pixels: more than {MAX_PIXELS:,} are refused"
            )
        return picture.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"not a readable picture ({len(data)} bytes): {error}") from error


def train_tokenizer(family: str, captions: Iterable[str], vocab: int, context: int) -> str:
    """Trains a small tokenizer with the conventions of ``family`` (``clip`` or ``siglip``) and returns its JSON.

    CLIP: byte-level BPE with ``</w>``, lowercased, ids 0 and 1 are start and end, padded with the end. SigLIP: unigram, lowercased without punctuation, id 1 is
    the end and the padding.
    """
    build, start_end = {
        "clip": (_clip_tokenizer, "<|startoftext|> $A <|endoftext|>"),
        "siglip": (_siglip_tokenizer, "$A </s>"),
    }[family]
    tok, trainer, pad = build(vocab)
    tok.train_from_iterator(captions, trainer)
    specials = [(t, tok.token_to_id(t)) for t in start_end.split() if t != "$A"]
    tok.post_processor = processors.TemplateProcessing(single=start_end, special_tokens=specials)
    tok.enable_truncation(context)
    tok.enable_padding(pad_id=tok.token_to_id(pad), pad_token=pad, length=context)
    return tok.to_str()


def _clip_tokenizer(vocab: int):
    tok = tokenizers.Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tok.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, behavior="removed", invert=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    return tok, trainer, "<|endoftext|>"


def _siglip_tokenizer(vocab: int):
    tok = tokenizers.Tokenizer(models.Unigram())
    clean = normalizers.Replace(tokenizers.Regex(r"[!-/:-@\[-`{-~]"), "")
    tok.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), clean, normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    return tok, trainer, "</s>"
