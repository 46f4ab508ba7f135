"""Tokenizers and pictures against OpenCLIP's, transformers' and PIL's own."""

import dataclasses
import io
import json
import random
import string

import numpy as np
import open_clip
import pytest
import sentencepiece
import tokenizers
import transformers
from model_files import random_params, reduced
from PIL import Image

from naturel_jax.data.processor import MAX_PIXELS, Processor, open_picture, train_tokenizer
from naturel_jax.models.two_tower import Model, normalize
from naturel_jax.weights import processor_files

WORDS = (
    "the a cat dog table under on person holds guitar horse left right of chair ball red small bottle woman man rides",
    "bicycle near isn't it's they're O'Neill café naïve Zürich 3rd 2024 1,000 £5 semi-detached snake_case ÀÉÎ straße",
)
ODD = [
    "",
    " ",
    "  two  spaces \t and\nlines ",
    "😀 a cat 👩‍👩‍👧 with 🏳️‍🌈 flags",
    "日本語の説明文 と 犬",
    "Ελληνικά ΣΊΣΥΦΟΣ",
    "кошка под столом",
    "\u201ccurly quotes\u201d and \u2018these\u2019 \u2014 dashes\u2026",
    "fish &amp; chips &lt;3",
    "cafe\u0301 is café",
    "\ufb01ne \ufb02our \uff11\uff12 \uff21\uff22",
    "a" * 300,
    "the cat is under the table " * 100,  # 600 words
    "don't stop_now: it's 5 o'clock!!! (really?)",
    "\u00a0non\u2003breaking\u3000spaces",
    "#hashtag @user http://x.y/z?q=1&r=2",
]
CLIP_IMAGE, SIGLIP_IMAGE = (processor_files.IMAGE_DEFAULTS[family] for family in ("clip", "siglip"))


def captions(count: int = 1000) -> list[str]:
    rng, words = random.Random(0), " ".join(WORDS).split()
    made = [" ".join(rng.choices(words, k=rng.randint(1, 25))) for _ in range(count - len(ODD))]
    punctuated = [text.capitalize() + rng.choice(string.punctuation) for text in made]
    return ODD + punctuated


@pytest.fixture(scope="module")
def clip_processor() -> Processor:
    return Processor(context=77, size=224, **processor_files.openai_tokenizer(77), **CLIP_IMAGE)


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    """A sentencepiece model with the settings of SigLIP's c4-en vocabulary (unigram, pad 0, end 1, unknown 2, no
    start)."""
    folder = tmp_path_factory.mktemp("siglip")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions()[len(ODD) :]),
        model_prefix=str(folder / "spiece"),
        vocab_size=160,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder


def ends(tokens: np.ndarray, padding: int, end: int) -> np.ndarray:
    """Tokens with everything after the first ``end`` set to ``padding``: OpenCLIP pads with 0, transformers with the
    end token."""
    out = tokens.copy()
    for row in out:
        row[np.argmax(row == end) + 1 :] = padding
    return out


def test_clip_ids_equal_openclips(clip_processor):
    """OpenCLIP's is OpenAI's tokenizer: mojibake mended, HTML entities resolved, lowercased."""
    ours, theirs = clip_processor.tokenize(captions()), open_clip.SimpleTokenizer()(captions()).numpy()
    np.testing.assert_array_equal(ends(ours, 0, 49407), theirs)


def test_clip_ids_equal_transformers(clip_processor, tmp_path):
    """The same vocabulary as transformers reads it, from vocab.json and merges.txt, from tokenizer.json, and ours
    from both."""
    state = json.loads(clip_processor.tokenizer)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(state["vocab"]), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in state["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    expected = theirs(captions(), padding="max_length", truncation=True, max_length=77, return_tensors="np")[
        "input_ids"
    ]
    text = processor_files.tokenizer(tmp_path, "clip", 77)
    np.testing.assert_array_equal(Processor(context=77, size=224, **text, **CLIP_IMAGE).tokenize(captions()), expected)
    theirs.save_pretrained(tmp_path / "saved")
    text = processor_files.tokenizer(tmp_path / "saved", "clip", 77)
    np.testing.assert_array_equal(Processor(context=77, size=224, **text, **CLIP_IMAGE).tokenize(captions()), expected)


@pytest.mark.parametrize("context", [16, 64])
def test_siglip_ids_equal_transformers(siglip_folder, context):
    theirs = transformers.SiglipTokenizer(vocab_file=str(siglip_folder / "spiece.model"))
    expected = theirs(captions(), padding="max_length", truncation=True, max_length=context, return_tensors="np")[
        "input_ids"
    ]
    text = processor_files.tokenizer(siglip_folder, "siglip", context)
    processor = Processor(context=context, size=224, **text, **SIGLIP_IMAGE)
    ours = processor.tokenize(captions())
    np.testing.assert_array_equal(ours, expected)
    assert (ours[:, -1] == 1).all()  # the end token is sticky: also on texts that were cut
    assert Processor(**json.loads(json.dumps(processor.to_dict()))) == processor


def test_siglip_export_keeps_its_sentencepiece_model(siglip_folder, tmp_path):
    text = processor_files.tokenizer(siglip_folder, "siglip", 64)
    processor_files.write(tmp_path, Processor(context=64, size=224, **text, **SIGLIP_IMAGE), "siglip")
    assert (tmp_path / "spiece.model").read_bytes() == (siglip_folder / "spiece.model").read_bytes()
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(theirs.tokenizer, transformers.SiglipTokenizer)
    assert theirs.tokenizer.model_max_length == 64


def test_siglip2_texts_are_lowercased_and_end_in_the_end_token(tmp_path):
    """Gemma's tokenizer files, as SigLIP 2 was published with them, do neither by themselves (transformers issue
    43101)."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase, *string.ascii_uppercase]
    vocab = {word: i for i, word in enumerate([*words, "ca", "cat", "▁cat"])}
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    transformers.GemmaTokenizer(vocab=vocab, merges=merges, padding_side="right").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"add_bos_token": False, "add_eos_token": True})
    )
    text = processor_files.tokenizer(tmp_path, "siglip", 8)
    ours = Processor(context=8, size=224, **text, **SIGLIP_IMAGE).tokenize(["A Cat", "cat " * 20])
    reference = transformers.Siglip2Tokenizer(vocab=vocab, merges=merges)
    expected = [reference.encode(t, add_special_tokens=False) for t in ("A Cat", "cat " * 20)]
    assert ours[0].tolist() == [*expected[0], 1, *[0] * (7 - len(expected[0]))]
    assert ours[1].tolist() == [*expected[1][:7], 1]


def photo(width: int, height: int, seed: int = 0, quality: int = 92, form: str = "JPEG") -> bytes:
    """A picture with the spectrum of a photograph, encoded: amplitude falls as 1 / frequency, and with a lens's blur
    of 0.7 pixels."""
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.maximum(np.hypot(fy, fx), 1 / max(width, height))
    falloff = np.exp(-2 * (np.pi * 0.7 * frequency) ** 2) / frequency
    noise = np.fft.fft2(rng.standard_normal((3, height, width)))
    layers = np.fft.ifft2(noise * falloff).real
    shared = 0.8 * layers[:1] + 0.2 * layers  # colour channels of photographs go together
    pixels = 128 + 55 * (shared - shared.mean()) / shared.std()
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(buffer, form, quality=quality)
    return buffer.getvalue()


SIZES = [(640, 425), (425, 640), (1024, 683), (500, 500), (225, 1000), (100, 80)]


@pytest.mark.parametrize("size", SIZES)
def test_exact_pictures_equal_transformers_pil_backend(clip_processor, size):
    data = photo(*size)
    picture = Image.open(io.BytesIO(data))
    clip = transformers.CLIPImageProcessorPil()(picture, return_tensors="np")["pixel_values"][0]
    ours = normalize(clip_processor.image(data)[None], clip_processor.mean, clip_processor.std)[0]
    np.testing.assert_allclose(ours.transpose(2, 0, 1), clip, atol=2e-6)
    siglip = dataclasses.replace(clip_processor, **SIGLIP_IMAGE)
    theirs = transformers.SiglipImageProcessorPil(resample=2)(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(
        normalize(siglip.image(data)[None], siglip.mean, siglip.std)[0].transpose(2, 0, 1), theirs, atol=2e-6
    )


@pytest.mark.parametrize("size", [*SIZES, (640, 424), (297, 224), (299, 224), (224, 301)])
def test_exact_pictures_equal_openclips_transform(clip_processor, size):
    """Margins of 73, 75 and 77 pixels too, which halve to 36.5, 37.5 and 38.5."""
    data = photo(*size)
    transform = open_clip.image_transform(224, is_train=False)
    theirs = transform(Image.open(io.BytesIO(data))).numpy()
    processor = dataclasses.replace(clip_processor, centre="round")
    ours = normalize(processor.image(data)[None], processor.mean, processor.std)[0]
    np.testing.assert_allclose(ours.transpose(2, 0, 1), theirs, atol=2e-6)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_fast_pictures_are_near_the_exact_ones(clip_processor, family):
    """Within 2/255 on average over a photo, and an embedding of ViT-B/32's shapes within a cosine of 0.9999."""
    processor = dataclasses.replace(clip_processor, **processor_files.IMAGE_DEFAULTS[family])
    photos = [photo(*size, seed=i) for i, size in enumerate(SIZES)]
    exact, fast = (np.stack([processor.image(p, exact=way) for p in photos]) for way in (True, False))
    assert np.abs(exact.astype(int) - fast).mean(axis=(1, 2, 3)).max() <= 2
    config = reduced("clip-b32", depth=2)
    model, params = Model(config), random_params(config)
    zexact, zfast = (model.encode_image(params, normalize(p, processor.mean, processor.std)) for p in (exact, fast))
    assert (np.asarray(zexact) * np.asarray(zfast)).sum(axis=1).min() >= 0.9999


@pytest.mark.parametrize("exact", [True, False])
def test_boxes_are_cut_before_resizing(clip_processor, exact):
    data = photo(300, 200, form="PNG")
    box = (30, 20, 254, 200)
    cut = io.BytesIO()
    Image.open(io.BytesIO(data)).crop(box).save(cut, "PNG")
    np.testing.assert_array_equal(
        clip_processor.image(data, box, exact=exact), clip_processor.image(cut.getvalue(), exact=exact)
    )


def test_grey_and_transparent_pictures_become_rgb(clip_processor):
    for mode in ("L", "RGBA", "P", "CMYK"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(photo(60, 50))).convert(mode).save(buffer, "JPEG" if mode in ("L", "CMYK") else "PNG")
        for exact in (True, False):
            assert clip_processor.image(buffer.getvalue(), exact=exact).shape == (224, 224, 3)


@pytest.mark.parametrize("exact", [True, False])
def test_bad_pictures_are_refused(clip_processor, exact):
    for data in (b"", b"GIF89a", b"<html>", photo(60, 50)[:40], b"\xff\xd8" + b"\0" * 50):
        with pytest.raises(ValueError, match="not a readable"):
            clip_processor.image(data, exact=exact)


def test_picture_bombs_are_refused_before_decoding(clip_processor):
    """JPEG and PNG headers that claim more pixels than the limit, with no pixels behind them."""
    jpeg = bytearray(photo(64, 64))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
    for exact in (True, False):
        with pytest.raises(ValueError, match=r"60000 x 60000 pixels: more than 64,000,000 are refused|exceeds limit"):
            clip_processor.image(bytes(jpeg), exact=exact)
    buffer = io.BytesIO()
    Image.new("1", (9000, MAX_PIXELS // 9000 + 1)).save(buffer, "PNG")
    with pytest.raises(ValueError, match="are refused"):
        open_picture(buffer.getvalue())


@pytest.mark.parametrize(("family", "pad"), [("clip", "<|endoftext|>"), ("siglip", "</s>")])
def test_trained_tokenizers_keep_their_familys_conventions(family, pad):
    tok = tokenizers.Tokenizer.from_str(train_tokenizer(family, captions(), 400, 12))
    assert tok.token_to_id(pad) == 1 and tok.get_vocab_size() <= 400
    image = processor_files.IMAGE_DEFAULTS[family]
    processor = Processor(tok.to_str(), 12, 48, **image)
    upper, lower, long = processor.tokenize(["A Red Ball!", "a red ball!", "cat " * 50])
    assert upper.tolist() == lower.tolist()
    assert long[-1] == 1 and (lower == 1).sum() >= 1
    if family == "clip":
        assert lower[0] == 0
    assert processor.tokenize([]).shape == (0, 12)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_same_captions_train_the_same_tokenizer(family):
    """Runs of one seed must agree from their first token on; the libraries' trainers hash with random seeds."""
    assert len({train_tokenizer(family, captions(), 400, 12) for _ in range(3)}) == 1


def test_processor_refuses_unknown_fields_values(clip_processor):
    with pytest.raises(ValueError, match=r"processor\.resize is 'pad': expected one of short, square"):
        dataclasses.replace(clip_processor, resize="pad")
