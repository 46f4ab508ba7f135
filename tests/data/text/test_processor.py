"""Tokenizers and image preprocessing against OpenCLIP and transformers."""

import dataclasses
import io
import json
import random
import shutil
import string
import struct

import numpy as np
import open_clip
import pytest
import tokenizers
import transformers
from PIL import Image

from naturel_jax.data.images.decode import decoded, open_image
from naturel_jax.data.text.processor import CLEANERS, TO_RGB, Processor
from naturel_jax.data.text.tokenizer import train_tokenizer
from naturel_jax.models.families import FAMILIES
from naturel_jax.models.two_tower import normalize
from naturel_jax.weights import hub, processor_files
from tests.helpers.image_bombs import first_of_two, index_of_images, profiles, tags_of_exif
from tests.helpers.image_files import encoded, photo
from tests.helpers.model_files import gemma_tokenizer, sentencepiece_model
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.photos import MAX_PIXELS, BadPhoto, to_jpeg

WORDS = (
    "the a cat dog table under on person holds guitar horse left right of chair ball red small bottle woman man rides",
    "bicycle near isn't it's they're O'Neill café naïve Zürich 3rd 2024 1,000 £5 semi-detached snake_case ÀÉÎ straße",
)
ODD = [
    *("", " ", "  two  spaces \t and\nlines ", "😀 a cat 👩‍👩‍👧 with 🏳️‍🌈 flags"),
    *("日本語の説明文 と 犬", "Ελληνικά ΣΊΣΥΦΟΣ"),
    *("кошка под столом", "\u201ccurly quotes\u201d and \u2018these\u2019 \u2014 dashes\u2026"),
    *("fish &amp; chips &lt;3", "cafe\u0301 is café", "\ufb01ne \ufb02our \uff11\uff12 \uff21\uff22", "a" * 300),
    *("the cat is under the table " * 100, "don't stop_now: it's 5 o'clock!!! (really?)"),
    *("\u00a0non\u2003breaking\u3000spaces", "#hashtag @user http://x.y/z?q=1&r=2"),
]
CLIP, SIGLIP = FAMILIES["clip"], FAMILIES["siglip"]


def captions(count: int = 1000) -> list[str]:
    rng, words = random.Random(0), " ".join(WORDS).split()
    sentences = [" ".join(rng.choices(words, k=rng.randint(1, 25))) for _ in range(count - len(ODD))]
    punctuated = [text.capitalize() + rng.choice(string.punctuation) for text in sentences]
    return ODD + punctuated


@pytest.fixture(scope="module")
def clip_processor() -> Processor:
    return Processor(context=77, size=224, **processor_files.openai_tokenizer(hub.clip_vocabulary(), 77), **CLIP.pixels)


def read(folder, family, context: int) -> Processor:
    """With the tokenizer of a folder."""
    text = processor_files.tokenizer(folder, family, context)
    return Processor(context=context, size=224, **text, **family.pixels)


def pixels(processor: Processor, data: bytes) -> np.ndarray:
    """What a tower gets, as other libraries have it: channels first."""
    return normalize(processor.image(data)[None], processor.mean, processor.std)[0].transpose(2, 0, 1)


@pytest.fixture(scope="module")
def siglip_folder(tmp_path_factory):
    """A folder with a tokenizer file like SigLIP's."""
    folder = tmp_path_factory.mktemp("siglip")
    (folder / "spiece.model").write_bytes(sentencepiece_model(captions()[len(ODD) :], 160))
    return folder


def ends(tokens: np.ndarray, padding: int, end: int) -> np.ndarray:
    """``tokens`` with everything after the first ``end`` replaced by ``padding``: OpenCLIP pads with 0, transformers
    with the end token."""
    out = tokens.copy()
    for row in out:
        row[np.argmax(row == end) + 1 :] = padding
    return out


def test_clip_ids_match_openclip(clip_processor):
    """OpenCLIP uses OpenAI's tokenizer, which fixes mojibake, resolves HTML entities and lowercases."""
    ours, theirs = clip_processor.tokenize(captions()), open_clip.SimpleTokenizer()(captions()).numpy()
    np.testing.assert_array_equal(ends(ours, 0, 49407), theirs)


def test_texts_are_cleaned_as_by_openclip():
    """Random texts of ASCII, control characters, entities and others, against its function."""
    rng, letters = random.Random(0), [*map(chr, range(160)), "&amp;", "&#39;", "&", "é", "â€™", "\u2019", "ﬁ", "\u200b"]
    texts = ["".join(rng.choices(letters[32:127], k=rng.randint(0, 30))) for _ in range(3000)]
    texts += ["".join(rng.choices(letters, k=rng.randint(0, 30))) for _ in range(1000)]
    clean = open_clip.tokenizer.get_clean_fn("whitespace")
    assert [CLEANERS["openclip_whitespace"](text) for text in texts] == [clean(text) for text in texts]


@pytest.mark.parametrize("text", ["&#{};", "&#{}", "&amp;#{};", "&#0{}"])
def test_a_reference_of_any_length_is_one_to_no_character(text):
    long, short = (f"a {text.format('1' * digits)} dog" for digits in (5000, 50))
    assert CLEANERS["openclip_whitespace"](long) == CLEANERS["openclip_whitespace"](short) == "a \ufffd dog"


def test_clip_ids_match_transformers(clip_processor, tmp_path):
    """With the same vocabulary, read from vocab.json and merges.txt, and from tokenizer.json."""
    state = json.loads(clip_processor.tokenizer)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(state["vocab"]), "utf-8")
    merges = "\n".join(" ".join(pair) for pair in state["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", "utf-8")
    theirs = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    options = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    expected = theirs(captions(), max_length=77, **options)["input_ids"]
    theirs.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path, tmp_path / "saved"):
        np.testing.assert_array_equal(read(folder, CLIP, 77).tokenize(captions()), expected)


@pytest.mark.parametrize("context", [16, 64])
def test_siglip_ids_match_transformers(siglip_folder, context):
    theirs = transformers.SiglipTokenizer(vocab_file=str(siglip_folder / "spiece.model"))
    options = {"padding": "max_length", "truncation": True, "return_tensors": "np"}
    expected = theirs(captions(), max_length=context, **options)["input_ids"]
    processor = read(siglip_folder, SIGLIP, context)
    ours = processor.tokenize(captions())
    np.testing.assert_array_equal(ours, expected)
    assert (ours[:, -1] == 1).all()  # truncated texts also end in the end token
    assert Processor(**json.loads(json.dumps(processor.to_dict()))) == processor


@pytest.mark.parametrize(
    ("field", "value"),
    [("padding_side", "left"), ("pad_token", {"content": "<pad>"}), ("additional_special_tokens", ["<image>"])],
)
def test_sentencepiece_settings_that_give_other_ids_are_refused(field, value, siglip_folder, tmp_path):
    folder = shutil.copytree(siglip_folder, tmp_path / "model")
    settings = {"tokenizer_class": "SiglipTokenizer", "pad_token": {"content": "</s>"}, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    processor_files.tokenizer(folder, SIGLIP, 16)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {field: value}))
    with pytest.raises(UserError, match=rf"tokenizer_config\.json: {field} is .*; only .* is implemented"):
        processor_files.tokenizer(folder, SIGLIP, 16)


def test_siglip_export_keeps_its_sentencepiece_model(siglip_folder, tmp_path):
    processor_files.write(tmp_path, read(siglip_folder, SIGLIP, 64), SIGLIP)
    assert (tmp_path / "spiece.model").read_bytes() == (siglip_folder / "spiece.model").read_bytes()
    theirs = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(theirs.tokenizer, transformers.SiglipTokenizer)
    assert theirs.tokenizer.model_max_length == 64


def test_siglip2_texts_are_lowercased_and_end_in_the_end_token(tmp_path):
    """Gemma's tokenizer files, as published with SigLIP 2, do neither by themselves (transformers issue 43101)."""
    vocab, merges = gemma_tokenizer(tmp_path, ["A Cat"])
    ours = read(tmp_path, SIGLIP, 8).tokenize(["A Cat", "cat " * 20])
    reference = transformers.Siglip2Tokenizer(vocab=vocab, merges=merges)
    expected = [reference.encode(t, add_special_tokens=False) for t in ("A Cat", "cat " * 20)]
    assert ours[0].tolist() == [*expected[0], 1, *[0] * (7 - len(expected[0]))]
    assert ours[1].tolist() == [*expected[1][:7], 1]


@pytest.mark.parametrize("kind", ["GemmaTokenizer", "Siglip2Tokenizer", "LlamaTokenizer", "CohereTokenizer"])
def test_padding_side_is_by_default_that_of_the_tokenizers_class(tmp_path, kind):
    """transformers does not write it."""
    vocab, merges = gemma_tokenizer(tmp_path / "published", ["a cat"])
    getattr(transformers, kind)(vocab=vocab, merges=merges, pad_token="<pad>").save_pretrained(tmp_path)
    assert "padding_side" not in json.loads((tmp_path / "tokenizer_config.json").read_text())
    texts, padding = ["cat", "a cat cat"], {"padding": "max_length", "max_length": 8, "truncation": True}
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(texts, **padding)["input_ids"]
    ours = read(tmp_path, SIGLIP, 8).tokenize(texts)
    assert ours.tolist() == theirs and theirs[0][0] == vocab["<pad>"] != theirs[0][-1]


def test_a_byte_level_llama_tokenizer_pads_as_the_class_that_opens_it(tmp_path):
    """Not as the class that its files name."""
    gemma_tokenizer(tmp_path, ["a cat"])
    tok = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tok.decoder = tokenizers.decoders.ByteLevel()
    tok.save(str(tmp_path / "tokenizer.json"))
    fields = {"tokenizer_class": "LlamaTokenizerFast", "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    side = transformers.AutoTokenizer.from_pretrained(tmp_path).padding_side
    ours = tokenizers.Tokenizer.from_str(processor_files.tokenizer(tmp_path, SIGLIP, 8)["tokenizer"])
    assert ours.padding["direction"] == side == "right"


@pytest.mark.slow  # it imports the modules of all classes
def test_classes_that_pad_left_are_all_known():
    kinds = (getattr(transformers, name) for name in dir(transformers) if "Tokenizer" in name)
    base = transformers.PreTrainedTokenizerBase
    found = {kind.__name__ for kind in kinds if isinstance(kind, type) and base in type.mro(kind)}
    left = {name for name in found if getattr(transformers, name).padding_side == "left"}
    assert left == processor_files.PAD_LEFT


SIZES = [(640, 425), (425, 640), (1024, 683), (500, 500), (225, 1000), (100, 80)]


@pytest.mark.parametrize("size", SIZES)
def test_images_match_transformers_pil_backend(clip_processor, size):
    data = photo(*size)
    image = Image.open(io.BytesIO(data))
    clip = transformers.CLIPImageProcessorPil()(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixels(clip_processor, data), clip, atol=2e-6)
    siglip = dataclasses.replace(clip_processor, **SIGLIP.pixels)
    theirs = transformers.SiglipImageProcessorPil(resample=2)(image, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(pixels(siglip, data), theirs, atol=2e-6)


@pytest.mark.parametrize("size", [*SIZES, (640, 424), (297, 224), (299, 224), (224, 301)])
def test_images_match_openclips_transform(clip_processor, size):
    """Including margins of 73, 75 and 77 pixels, half of which is 36.5, 37.5 and 38.5."""
    data = photo(*size)
    transform = open_clip.image_transform(224, is_train=False)
    theirs = transform(Image.open(io.BytesIO(data))).numpy()
    processor = dataclasses.replace(clip_processor, centre="round")
    np.testing.assert_allclose(pixels(processor, data), theirs, atol=2e-6)


def test_boxes_are_cropped_before_resizing(clip_processor):
    data = photo(300, 200, form="PNG")
    box = (30, 20, 254, 200)
    cropped = encoded(Image.open(io.BytesIO(data)).crop(box))
    np.testing.assert_array_equal(clip_processor.image(data, box), clip_processor.image(cropped))


def odd_images() -> dict[str, bytes]:
    """Images with transparency, with a palette, and with both, in all ways that PNG has."""
    photo_RGB = Image.open(io.BytesIO(photo(233, 181)))
    alpha = Image.linear_gradient("L").resize(photo_RGB.size)
    images = {mode: photo_RGB.convert(mode) for mode in ("1", "L", "LA", "RGB", "RGBA")}
    for mode in ("LA", "RGBA"):
        images[mode].putalpha(alpha)
    images["P"] = photo_RGB.quantize(32)
    keys = {"P and one color": ("P", 3), "P and alpha": ("P", bytes(range(0, 256, 8)))}
    keys["RGB and a color"] = ("RGB", (0, 0, 0))
    plain = {mode: encoded(image) for mode, image in images.items()}
    return plain | {name: encoded(images[mode], transparency=key) for name, (mode, key) in keys.items()}


@pytest.mark.parametrize(("name", "data"), odd_images().items(), ids=odd_images())
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # OpenCLIP's
def test_transparency_and_palettes_as_in_each_library(clip_processor, name, data):
    """transformers composites on white, OpenCLIP resizes before it converts, big_vision and the benchmarks' code drop
    the alpha channel first."""

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(data))

    white = transformers.CLIPImageProcessorPil()(opened(), return_tensors="np")["pixel_values"][0]
    last = open_clip.image_transform(224, is_train=False)(opened()).numpy()
    for fields, theirs in (({"to_rgb": "on_white"}, white), ({"to_rgb": "last", "centre": "round"}, last)):
        processor = dataclasses.replace(clip_processor, **fields)
        np.testing.assert_allclose(pixels(processor, data), theirs, atol=2e-6, err_msg=f"{name} {fields}")
    expected = clip_processor.image(encoded(opened().convert("RGB")))
    benchmarks = dataclasses.replace(clip_processor, to_rgb="last").for_benchmarks()
    np.testing.assert_array_equal(benchmarks.image(data), expected)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<html>", photo(60, 50)[:40], b"\xff\xd8" + b"\0" * 50])
def test_bad_images_are_rejected(clip_processor, data):
    with pytest.raises(UserError, match="not a readable image"):
        clip_processor.image(data)


def test_decompression_bombs_are_rejected_before_decoding():
    """JPEG and PNG headers that claim more pixels than the limit."""
    jpeg = bytearray(photo(64, 64))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
    with pytest.raises(UserError, match="exceeds limit"):
        open_image(bytes(jpeg))
    with pytest.raises(UserError, match="the limit for so many bytes is"):
        open_image(encoded(Image.new("1", (9000, MAX_PIXELS // 9000 + 1))))


@pytest.mark.parametrize("sides", [(40, 80_000), (80_000, 40)])
def test_images_of_very_many_rows_are_bombs(sides):
    """Each row of a PNG takes memory of its own: 7 million of one pixel took 140 MB, and 6 GB with Pillow 11."""
    data = encoded(Image.new("L", sides))
    with pytest.raises(UserError, match=r"image of \d+ x \d+ pixels; the limit is 65,500 on a side"):
        open_image(data)
    with pytest.raises(BadPhoto, match=r"too_large: \d+ x \d+ pixels, more than 65,500 on a side"):
        to_jpeg(data, 32, 90)


@pytest.mark.parametrize(("bomb", "reason"), [(first_of_two, "scans, more than 100"), (profiles, "profiles, more")])
def test_parts_that_are_unpacked_each_by_itself_are_bombs(bomb, reason):
    """A JPEG that is the first image of an MPO, and a PNG: both took longer than their sizes allow."""
    data = bomb(random.Random(0), encoded(Image.new("RGB", (8, 8))))
    with pytest.raises(UserError, match=reason):
        open_image(data)
    with pytest.raises(BadPhoto, match=reason):
        to_jpeg(data, 32, 90)


def test_tags_of_an_image_that_are_in_one_place_are_bombs():
    """Pillow before 13 copies each of them, though they are not asked for."""
    tiff, jpeg = encoded(Image.new("RGB", (8, 8)), "TIFF"), photo(64, 48)
    with pytest.raises(UserError, match=r"tags of 600,\d{3},\d{3} bytes"):
        open_image(tags_of_exif(random.Random(0), tiff))
    with decoded(index_of_images(random.Random(0), jpeg)) as image:
        assert "mp" not in image.info and image.tobytes() == open_image(jpeg).tobytes()


def test_an_image_in_very_many_strips_is_a_bomb():
    """Pillow took 340 MB and 7 s for the 2 MB of a million strips."""
    data, number = encoded(Image.new("L", (64, 64)), "TIFF"), 50_001
    (start,) = struct.unpack_from("<I", data, 4)
    entries = [data[n : n + 12] for n in range(start + 2, start + 2 + 12 * data[start], 12)]
    many = {273: struct.pack("<HHII", 273, 3, number, len(data)), 278: struct.pack("<HHII", 278, 4, 1, 1)}
    kept = [many.get(struct.unpack_from("<H", entry)[0], entry) for entry in entries]
    table = struct.pack("<H", len(kept)) + b"".join(kept) + bytes(4)
    hostile = data[:4] + struct.pack("<I", len(data) + 2 * number) + data[8:] + b"\x08\0" * number + table
    with pytest.raises(UserError, match="50,001 parts, more than 50,000"):
        open_image(hostile)


def test_boxes_beyond_an_image_are_no_bombs(clip_processor):
    """A box may be anywhere, and be larger than the image, whose file is small."""
    data = photo(64, 64)
    assert clip_processor.image(data, (-500, -500, 1000, 1000)).shape == clip_processor.image(data).shape
    for box in ((0, 0, 8000, 7999), (-4000, -4000, 4000, 3999)):
        with pytest.raises(UserError, match=r"box of 8,000 x 7,999 pixels in an image of"):
            clip_processor.image(data, box)


@pytest.mark.parametrize("sides", [(3, 900), (900, 3), (40, 1200)])
def test_strip_is_cropped_while_it_is_resized(clip_processor, monkeypatch, sides):
    """As if it had been resized as a whole, but for the rounding of where the crop begins, and of the pixels between
    two passes: Pillow 13 chooses by size whether width or height comes first."""
    strip = encoded(Image.open(io.BytesIO(photo(64, 64))).resize(sides, Image.Resampling.BICUBIC))
    processors = [clip_processor, dataclasses.replace(clip_processor, resize="square")]
    whole = [processor.image(strip).astype(int) for processor in processors]
    monkeypatch.setattr("naturel_jax.data.text.processor._MAX_MEMORY", -(10**9))
    for processor, expected in zip(processors, whole, strict=True):
        assert np.abs(processor.image(strip) - expected).max() <= 2


def test_white_below_every_color_and_opacity_is_pillows():
    """``paste`` rounds as ``alpha_composite`` does."""
    color, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    image = Image.fromarray(np.stack([color, color, color, opacity], axis=-1), "RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    assert (np.asarray(TO_RGB["on_white"](image)) == np.asarray(expected)).all()


def test_long_runs_of_spaces_are_cleaned_in_linear_time():
    """In quadratic time, it would take minutes."""
    spaces = " \t" * 200_000
    assert CLEANERS["siglip"](f"a{spaces}b{spaces}</s>{spaces}c <unk> </s> {spaces}") == "a b</s>c<unk></s>"


def test_patches_that_small_images_would_be_enlarged_to_are_limited(clip_processor):
    dataclasses.replace(clip_processor, resize="naflex", patch=16, max_patches=1 << 14)
    with pytest.raises(UserError, match=r"max_patches is 16384, of 64 x 64 pixels: expected at most 4,194,304 pixels"):
        dataclasses.replace(clip_processor, resize="naflex", patch=64, max_patches=1 << 14)


@pytest.mark.parametrize(("family", "pad"), [("clip", "<|endoftext|>"), ("siglip", "</s>")])
def test_trained_tokenizers_follow_their_familys_conventions(family, pad):
    tok = tokenizers.Tokenizer.from_str(train_tokenizer(family, captions(), 400, 12))
    assert tok.token_to_id(pad) == 1 and tok.get_vocab_size() <= 400
    processor = Processor(tok.to_str(), 12, 48, **FAMILIES[family].pixels)
    upper, lower, long = processor.tokenize(["A Red Ball!", "a red ball!", "cat " * 50])
    assert upper.tolist() == lower.tolist()
    assert long[-1] == 1 and (lower == 1).sum() >= 1
    if family == "clip":
        assert lower[0] == 0
    assert processor.tokenize([]).shape == (0, 12)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_tokenizer_training_is_deterministic(family):
    """Runs with the same seed must have the same tokens, but the libraries' trainers use randomly seeded hashes."""
    assert len({train_tokenizer(family, captions(), 400, 12) for _ in range(3)}) == 1


def test_processor_rejects_unknown_values(clip_processor):
    with pytest.raises(UserError, match=r"processor\.resize is 'pad': expected one of short, square"):
        dataclasses.replace(clip_processor, resize="pad")


@pytest.mark.parametrize("part", ["padding", "truncation"])
def test_tokenizers_that_pad_all_texts_to_the_longest_are_rejected(clip_processor, part):
    """Of a thousand captions, one that a normalizer makes long would fill the memory."""
    tokenizer = json.dumps(json.loads(clip_processor.tokenizer) | {part: None})
    with pytest.raises(UserError, match=r"truncates to (77|None) tokens and pads to (77|None); expected 77"):
        dataclasses.replace(clip_processor, tokenizer=tokenizer).tokenize(["a cat"])


def test_tokenizer_without_its_own_tokens_is_rejected(clip_processor):
    """The library finds it out when it meets such a text: an Exception, or a panic, which is none."""
    tokenizer = json.loads(clip_processor.tokenizer)
    tokenizer["model"]["unk_token"] = "absent"
    tokenizer["model"]["vocab"].pop("c")
    broken = dataclasses.replace(clip_processor, tokenizer=json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"processor\.tokenizer: not a tokenizer \("):
        broken.tokenize(["cqxz"])
