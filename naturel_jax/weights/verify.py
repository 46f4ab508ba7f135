"""Compares our outputs for a checkpoint with those of its own library, tokenizer and image processor, on many kinds of
images and captions.

Shape letters: I images, H, W pixels, C channels, P patches, V values of a patch, U captions, L tokens, N rows, X
values of each, D embedding.
"""

import functools
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from naturel_jax.data.text.processor import Processor
from naturel_jax.models.families import family_of
from naturel_jax.models.naflex import Patches
from naturel_jax.models.two_tower import Images, Model, Params, TwoTowerConfig, normalize
from naturel_jax.weights import openclip, processor_files, torch_files
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common import extras
from tfds_naturel.common.errors import UserError

TOLERANCE = 1e-5  # difference between cosines
_SAME_PIXELS = 1e-4  # difference between normalized values; two libraries that both follow Pillow differ by less
_LISTED = 5  # most names of images or captions that a message lists

Pixels = np.ndarray | Patches  # normalized: [I, H, W, 3], or of a NaFlex model
Forward = Callable[[Any, np.ndarray], np.ndarray]  # (pixels, ids [U, L]) -> logits [I, U]


class Seen(NamedTuple):
    """A library's outputs for images and captions, preprocessed by itself: pixels, token ids [U, L], and logits [I, U];
    and ``forward``, its model on any pixels and ids."""

    pixels: Pixels
    tokens_UL: np.ndarray
    logits_IU: np.ndarray
    forward: Forward


Run = Callable[[Path, TwoTowerConfig, Sequence[bytes], Sequence[str]], Seen]


class Peer(NamedTuple):
    """A library: its name, the modules that it needs, and ``run(path, config, images, captions)``."""

    name: str
    modules: tuple[str, ...]
    run: Run


class Comparison(NamedTuple):
    """``difference``: the largest logit difference (``scale`` times a cosine) on our pixels and ids. ``images`` and
    ``captions``: how many there were; ``other_images`` and ``other_captions``: the names of those whose pixels or ids
    differ; ``whole``: the largest logit difference of images and captions that both preprocess alike, each library from
    files to logits; ``other``: the same with those that they do not."""

    library: str
    images: int
    captions: int
    scale: float
    difference: float
    whole: float
    other: float
    other_images: tuple[str, ...]
    other_captions: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What differs, by more than float32 arithmetic; empty if nothing does."""
        most = TOLERANCE * max(1.0, self.scale)
        found = []
        if not self.difference <= most:
            found.append(
                f"weights or architecture differ: logits {self.difference:.2g} apart on the same pixels and ids"
            )
        elif not self.whole <= most:
            found.append(f"it passes more to its model than pixels and ids: logits {self.whole:.2g} apart")
        if self.other_images:
            found.append(f"other pixels for {listed(self.other_images, self.images, 'images')}")
        if self.other_captions:
            found.append(f"other ids for {listed(self.other_captions, self.captions, 'captions')}")
        if self.other_images or self.other_captions:
            found.append(f"logits up to {self.other:.2g} apart for these")
        return tuple(found)

    def __str__(self) -> str:
        text = (
            f"logits within {self.difference:.2e} of those of {self.library} on the same pixels and ids "
            f"({self.images} images, {self.captions} captions; scale {self.scale:.3g})"
        )
        return f"{text}; {'; '.join(self.problems) or 'its image processor and tokenizer give the same pixels and ids'}"


def listed(names: Sequence[str], count: int, what: str) -> str:
    """``2 of 8 images (a, b)``."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} of {count} {what} ({', '.join(names[:_LISTED])}{more})"


def preprocessed_otherwise(
    before: Processor, after: Processor, images: Mapping[str, bytes], texts: Sequence[str]
) -> str:
    """The images and captions whose pixels or ids two processors of one model differ in; '' if there are none."""
    files = list(images.values())
    other_I = _differ(_batch(before, files), _batch(after, files), 0)
    other_U = _differ(before.tokenize(texts), after.tokenize(texts), 0)
    parts = [
        (_names(images, other_I), len(images), "images"),
        (_names(map(repr, texts), other_U), len(texts), "captions"),
    ]
    return ", ".join(listed(names, count, what) for names, count, what in parts if names)


def _names(names: Iterable[str], chosen_N: np.ndarray) -> tuple[str, ...]:
    return tuple(name[:40] for name, chosen in zip(names, chosen_N, strict=True) if chosen)


def example_images() -> dict[str, bytes]:
    """Images of the kinds that users have, by name: photo-like noise in odd sizes, grey, with a palette, transparent,
    and with an EXIF orientation."""
    rng = np.random.default_rng(0)

    def noise(width: int, height: int) -> Image.Image:
        """The sum of noise at four resolutions, weaker the finer it is, as in photos."""
        sizes = [(height // n + 2, width // n + 2, 3) for n in (64, 16, 4, 1)]
        grids = [Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes]
        layers = np.stack([np.asarray(grid.resize((width, height))) for grid in grids])
        return Image.fromarray(np.average(layers, axis=0, weights=(8, 4, 2, 1)).astype(np.uint8))

    transparent = noise(233, 181)
    transparent.putalpha(Image.linear_gradient("L").resize(transparent.size))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "narrow.png": (noise(20, 1500), {}),
        "wide.jpg": (noise(301, 200), {"quality": 92}),
        "tall.jpg": (noise(187, 333), {"quality": 75}),
        "small.png": (noise(31, 45), {}),
        "grey.jpg": (noise(221, 160).convert("L"), {}),
        "rotated.jpg": (noise(240, 135), {"exif": exif}),
        "square.webp": (noise(256, 256), {"quality": 80}),
        "palette.png": (noise(210, 140).convert("P", palette=Image.Palette.ADAPTIVE, colors=32), {}),
        "transparent.png": (transparent, {}),
    }
    return {name: _encoded(image, Path(name).suffix, options) for name, (image, options) in images.items()}


def _encoded(image: Image.Image, suffix: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[suffix], **options)
    return buffer.getvalue()


def example_captions() -> list[str]:
    """Captions of the kinds that users have: short, long, empty, with capitals, punctuation, other scripts, and the
    special tokens of tokenizers as text."""
    things, relations = ("cat", "person", "old red car"), ("on", "under", "to the left of")
    plain = [f"a {a} {on} the {b}" for on, (a, b) in itertools.product(relations, itertools.permutations(things, 2))]
    odd = ["", "A Photo, taken in 1987: isn't it?", "café naïve", "кошка под столом", "犬と猫", "a 😀 dog"]
    special = ["a </s> dog", "a cat<|endoftext|> dog", "one <end_of_text> two", "a <pad><eos> dog <unk>cat"]
    return [*plain, *odd, "fish &amp; chips", "snake_case", "the cat is under the table and " * 30, *special]


def compare(path: Path, form: str, loaded: Loaded, images: Mapping[str, bytes], texts: Sequence[str]) -> Comparison:
    """Compares the checkpoint at ``path``, as its library runs it, with ``loaded``. Raises UserError if the library is
    not installed, or fails."""
    require(form)
    peer = PEERS[form]
    library = f"{peer.name} {extras.library(peer.modules[-1], 'torch').__version__}"
    try:
        theirs = peer.run(path, loaded.config, list(images.values()), texts)
    except Exception as error:  # whatever a library raises for files that it does not understand
        raise UserError(f"{path}: {library} fails: {' '.join(str(error).split()) or repr(error)}") from error
    our = ours(loaded, list(images.values()), texts)
    end = loaded.config.text.eos_id
    other_I = _differ(our.pixels, theirs.pixels, _SAME_PIXELS)
    other_U = _differ(_until(our.tokens_UL, end), _until(theirs.tokens_UL, end), 0)
    same_IU = ~other_I[:, None] & ~other_U[None]
    difference_IU = np.abs(our.logits_IU - theirs.logits_IU)
    return Comparison(
        library=library,
        images=len(images),
        captions=len(texts),
        scale=float(np.exp(loaded.params["logit_scale"])),
        difference=float(np.abs(our.logits_IU - theirs.forward(our.pixels, our.tokens_UL)).max()),
        whole=float(difference_IU[same_IU].max(initial=0)),
        other=float(difference_IU[~same_IU].max(initial=0)),
        other_images=_names(images, other_I),
        other_captions=_names(map(repr, texts), other_U),
    )


def _differ(ours: Any, theirs: Any, most: float) -> np.ndarray:
    """Whether each of N rows differs by more than ``most`` anywhere, bool [N], in arrays or tuples of arrays; all if
    the shapes do."""

    def differ(ours_NX: np.ndarray, theirs_NX: np.ndarray) -> np.ndarray:
        if ours_NX.shape != theirs_NX.shape:
            return np.ones(len(ours_NX), bool)
        return np.abs(ours_NX.astype(float) - theirs_NX).max(axis=tuple(range(1, ours_NX.ndim))) > most

    both = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return np.logical_or.reduce([differ(a, b) for a, b in both])


def _batch(processor: Processor, images: Sequence[bytes]) -> np.ndarray | Patches:
    return processor.batch(dict(enumerate(map(processor.image, images))), len(images))


def _until(tokens_UL: np.ndarray, end: int | None) -> np.ndarray:
    """The ids with zeros after the first ``end``, which a causal tower does not see: OpenCLIP pads with 0."""
    if end is None:
        return tokens_UL
    after = np.cumsum(tokens_UL == end, axis=1) - (tokens_UL == end) > 0
    return np.where(after, 0, tokens_UL)


def ours(loaded: Loaded, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    """Our outputs for images and captions."""
    config, params, processor = loaded

    def forward(pixels: Pixels, tokens_UL: np.ndarray) -> np.ndarray:
        zimg_ID, ztxt_UD = embeddings(config, params, pixels, tokens_UL)
        return np.asarray(np.exp(params["logit_scale"]) * zimg_ID @ ztxt_UD.T + params.get("logit_bias", 0.0))

    uint8 = jax.device_put(_batch(processor, images))
    pixels: Pixels = jax.device_get(normalize(uint8, processor.mean, processor.std))
    tokens_UL = processor.tokenize(texts)
    return Seen(pixels, tokens_UL, forward(pixels, tokens_UL), forward)


def embeddings(
    config: TwoTowerConfig, params: Params, pixels: Pixels | Images, tokens_UL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Our unit embeddings [I, D] and [U, D] of normalized pixels and token ids."""
    encode_image, encode_text = _encoders(config)
    with jax.default_matmul_precision("highest"):
        return np.asarray(encode_image(params, pixels)), np.asarray(encode_text(params, tokens_UL))


@functools.cache
def _encoders(config: TwoTowerConfig) -> tuple[Any, Any]:
    """The jitted encoders, shared by SRC and DST of a conversion."""
    model = Model(config)
    return jax.jit(model.encode_image), jax.jit(model.encode_text)


def _opened(images: Sequence[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)) for data in images]


def _transformers(path: Path, config: TwoTowerConfig, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(path, dtype=torch.float32, trust_remote_code=False).eval()
    # Resizing with torchvision, the other backend, differs from Pillow's in the last bit of a pixel.
    processor = transformers.AutoProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    padding = {"padding": "max_length", "truncation": True, "max_length": config.text.context}
    # Siglip2Processor has sizes of its own, whatever its image processor's file says.
    named = (name for name in ("patch_size", "max_num_patches") if config.image.naflex)
    sizes = {name: getattr(processor.image_processor, name) for name in named}
    batch = processor(images=_opened(images), text=list(texts), return_tensors="pt", **padding, **sizes)

    @torch.no_grad()
    def logits(**inputs: torch.Tensor) -> np.ndarray:
        return model(**inputs).logits_per_image.numpy()

    def forward(pixels: Pixels, tokens_UL: np.ndarray) -> np.ndarray:
        return logits(**transformers_images(pixels), input_ids=torch.tensor(tokens_UL, dtype=torch.long))

    if config.image.naflex:
        pixels: Pixels = Patches(batch["pixel_values"].numpy(), batch["spatial_shapes"].numpy())
    else:
        pixels = batch["pixel_values"].permute(0, 2, 3, 1).numpy()
    return Seen(pixels, batch["input_ids"].numpy(), logits(**batch), forward)


def transformers_images(pixels: Pixels) -> dict[str, Any]:
    """The arguments of a transformers model for normalized images."""
    import torch

    if not isinstance(pixels, Patches):
        return {"pixel_values": _channels_first(pixels)}
    mask_IP = np.arange(pixels.patches_IPV.shape[1]) < pixels.lengths_I[:, None]
    return {
        "pixel_values": torch.tensor(pixels.patches_IPV),
        "pixel_attention_mask": torch.tensor(mask_IP.astype(np.int32)),
        "spatial_shapes": torch.tensor(pixels.grid_I2.astype(np.int64)),
    }


def _channels_first(pixels_IHWC: np.ndarray) -> Any:
    import torch

    return torch.tensor(pixels_IHWC).permute(0, 3, 1, 2).contiguous()


def _openclip(path: Path, config: TwoTowerConfig, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    import open_clip

    folder = path if path.is_dir() else path.parent
    if (folder / openclip.CONFIG_FILE).is_file():
        # A folder that has been moved, or is not on the hub yet, may name its image tower's file where it is not.
        tower = openclip.at(f"local-dir:{folder}", processor_files.read_json(folder / openclip.CONFIG_FILE))
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}", **tower)
        return _seen_by_openclip(model, transform, open_clip.get_tokenizer(f"local-dir:{folder}"), images, texts)
    model = openclip_model(config)
    open_clip.load_checkpoint(model, str(path))
    return _seen_by_openai(model, config, images, texts)


def openclip_model(config: TwoTowerConfig) -> Any:
    """OpenCLIP's model of these sizes, with random parameters. Raises UserError if it has none."""
    import open_clip

    with tempfile.TemporaryDirectory() as home:
        fields = openclip.write_config(config, f"local-dir:{home}")
        (Path(home) / openclip.TIMM_FILE).write_text(json.dumps(openclip.write_trunk(config)), "utf-8")
        fields.pop("custom_text", None)  # an argument of OpenCLIP's factory, not of the class
        return getattr(open_clip, family_of(config).openclip_class)(**fields)


def _openai(path: Path, config: TwoTowerConfig, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    """OpenCLIP's model of these tensors. Its own reader of the file, ``torch.jit.load``, would run the file's code."""
    import open_clip.model
    import torch

    tensors = torch_files.open_torch(path)
    keys = tensors.shapes.keys() - openclip.IGNORED
    state = {key: torch.from_numpy(tensors.get(key).astype(np.float32)) for key in keys}
    model = open_clip.model.build_model_from_openai_state_dict(state, cast_dtype=torch.float32).float()
    return _seen_by_openai(model, config, images, texts)


def _seen_by_openai(model: Any, config: TwoTowerConfig, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    """Outputs of a model without a config, with the preprocessing of OpenAI's models."""
    import open_clip

    transform = open_clip.image_transform(config.image.size, is_train=False)
    tokenizer = open_clip.SimpleTokenizer(context_length=config.text.context)
    return _seen_by_openclip(model, transform, tokenizer, images, texts)


def _seen_by_openclip(
    model: Any, transform: Any, tokenizer: Any, images: Sequence[bytes], texts: Sequence[str]
) -> Seen:
    import torch

    model.eval()

    @torch.no_grad()
    def forward(pixels_IHWC: np.ndarray, tokens_UL: np.ndarray) -> np.ndarray:
        zimg_ID = model.encode_image(_channels_first(pixels_IHWC), normalize=True)
        ztxt_UD = model.encode_text(torch.tensor(tokens_UL, dtype=torch.long), normalize=True)
        bias = 0.0 if getattr(model, "logit_bias", None) is None else model.logit_bias
        return (model.logit_scale.exp() * zimg_ID @ ztxt_UD.T + bias).numpy()

    pixels_IHWC = torch.stack([transform(image) for image in _opened(images)]).permute(0, 2, 3, 1).numpy()
    tokens_UL = tokenizer(list(texts)).numpy()
    return Seen(pixels_IHWC, tokens_UL, forward(pixels_IHWC, tokens_UL), forward)


# The library of each form of checkpoint (see ``sources.Foreign``); open_clip_torch brings torch.
PEERS = {
    "hf": Peer("transformers", ("torch", "transformers"), _transformers),
    "openclip": Peer("OpenCLIP", ("torch", "open_clip"), _openclip),
    "openai": Peer("OpenCLIP", ("torch", "open_clip"), _openai),
}
WITHOUT_PEER = {
    "big_vision": "big_vision cannot be installed as a package, so only its own checkout can run this file",
    "run": "a run is our own format, which no other library reads",
    "peft": "PEFT is not a dependency; PeftModel.from_pretrained(BASE, FOLDER) runs this adapter",
}


def require(form: str) -> None:
    """Raises UserError if the library of a form is not installed."""
    if form in PEERS:
        for module in PEERS[form].modules:
            extras.library(module, "torch")
