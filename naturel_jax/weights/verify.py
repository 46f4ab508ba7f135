"""Compares our outputs for a checkpoint with those of its own library, tokenizer and image processor, on many kinds of
images and captions."""

import functools
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from naturel_jax.models.families import family_of
from naturel_jax.models.two_tower import Model, Params, TwoTowerConfig, normalize
from naturel_jax.weights import openclip, torch_files
from naturel_jax.weights.sources import Loaded
from tfds_naturel.common import extras
from tfds_naturel.common.errors import UserError

TOLERANCE = 1e-5  # difference between cosines
_SAME_PIXELS = 1e-4  # difference between normalized values; two libraries that both follow Pillow differ by less


class Seen(NamedTuple):
    """A library's outputs for images and captions: normalized pixels [I, H, W, 3], token ids [U, L], and logits
    [I, U]."""

    pixels_IHWC: np.ndarray
    tokens_UL: np.ndarray
    logits_IU: np.ndarray


Run = Callable[[Path, TwoTowerConfig, Sequence[bytes], Sequence[str]], Seen]


class Peer(NamedTuple):
    """A library: its name, the modules that it needs, and ``run(path, config, images, captions)``."""

    name: str
    modules: tuple[str, ...]
    run: Run


class Comparison(NamedTuple):
    """``difference``: the largest logit difference (``scale`` times a cosine) over images and captions that both
    libraries preprocess alike. ``images`` and ``captions``: how many there were; ``other_images`` and
    ``other_captions``: those preprocessed differently; ``other_difference``: the same with these."""

    library: str
    images: int
    captions: int
    difference: float
    scale: float
    other_images: tuple[str, ...]
    other_captions: tuple[str, ...]
    other_difference: float

    @property
    def same_model(self) -> bool:
        """Whether the model is the same, up to float32 arithmetic."""
        return self.difference <= TOLERANCE * max(1.0, self.scale)

    @property
    def same_processor(self) -> bool:
        """Whether most images and captions are preprocessed alike. Libraries differ for some of them: in odd margins
        of a centre crop, transparency, mojibake."""
        return len(self.other_images) <= self.images / 2 and len(self.other_captions) <= self.captions / 2

    def __str__(self) -> str:
        text = (
            f"logits within {self.difference:.2e} of those of {self.library} with its own image processor and "
            f"tokenizer ({self.images} images, {self.captions} captions; scale {self.scale:.3g})"
        )
        kinds = ((self.other_images, self.images, "images"), (self.other_captions, self.captions, "captions"))
        parts = [f"{len(names)} of {count} {kind} ({', '.join(names[:3])})" for names, count, kind in kinds if names]
        if parts:
            text += (
                f"; it preprocesses {' and '.join(parts)} differently, logits up to {self.other_difference:.2g} apart"
            )
        return text


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
    """Captions of the kinds that users have: short, long, empty, and with capitals, punctuation and other scripts."""
    things, relations = ("cat", "person", "old red car"), ("on", "under", "to the left of")
    plain = [f"a {a} {on} the {b}" for on, (a, b) in itertools.product(relations, itertools.permutations(things, 2))]
    odd = ["", "A Photo, taken in 1987: isn't it?", "café naïve", "кошка под столом", "犬と猫", "a 😀 dog"]
    return [*plain, *odd, "fish &amp; chips", "the cat is under the table and " * 30]


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
    same_I = np.abs(our.pixels_IHWC - theirs.pixels_IHWC).max(axis=(1, 2, 3)) < _SAME_PIXELS
    end = loaded.config.text.eos_id
    same_U = (_until(our.tokens_UL, end) == _until(theirs.tokens_UL, end)).all(axis=1)
    difference_IU = np.abs(our.logits_IU - theirs.logits_IU)
    alike_IU = same_I[:, None] & same_U[None]
    return Comparison(
        library=library,
        images=len(images),
        captions=len(texts),
        difference=float(difference_IU[alike_IU].max(initial=0)),
        scale=float(np.exp(loaded.params["logit_scale"])),
        other_images=tuple(name for name, same in zip(images, same_I, strict=True) if not same),
        other_captions=tuple(repr(text[:30]) for text, same in zip(texts, same_U, strict=True) if not same),
        other_difference=float(difference_IU[~alike_IU].max(initial=0)),
    )


def _until(tokens_UL: np.ndarray, end: int | None) -> np.ndarray:
    """The ids with zeros after the first ``end``, which a causal tower does not see: OpenCLIP pads with 0."""
    if end is None:
        return tokens_UL
    after = np.cumsum(tokens_UL == end, axis=1) - (tokens_UL == end) > 0
    return np.where(after, 0, tokens_UL)


def ours(loaded: Loaded, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    """Our outputs for images and captions."""
    config, params, processor = loaded
    uint8_IHWC = jnp.stack([processor.image(data) for data in images])
    pixels_IHWC = normalize(uint8_IHWC, processor.mean, processor.std)
    tokens_UL = processor.tokenize(texts)
    zimg_ID, ztxt_UD = embeddings(config, params, pixels_IHWC, tokens_UL)
    logits_IU = np.exp(params["logit_scale"]) * zimg_ID @ ztxt_UD.T + params.get("logit_bias", 0.0)
    return Seen(np.asarray(pixels_IHWC), tokens_UL, np.asarray(logits_IU))


def embeddings(
    config: TwoTowerConfig, params: Params, pixels_IHWC: np.ndarray | jax.Array, tokens_UL: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Our unit embeddings [I, D] and [U, D] of normalized pixels and token ids."""
    encode_image, encode_text = _encoders(config)
    with jax.default_matmul_precision("highest"):
        return np.asarray(encode_image(params, pixels_IHWC)), np.asarray(encode_text(params, tokens_UL))


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
    batch = processor(images=_opened(images), text=list(texts), return_tensors="pt", **padding)
    with torch.no_grad():
        logits = model(**batch).logits_per_image
    return Seen(batch["pixel_values"].permute(0, 2, 3, 1).numpy(), batch["input_ids"].numpy(), logits.numpy())


def _openclip(path: Path, config: TwoTowerConfig, images: Sequence[bytes], texts: Sequence[str]) -> Seen:
    import open_clip

    folder = path if path.is_dir() else path.parent
    if (folder / openclip.CONFIG_FILE).is_file():
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
        return _seen_by_openclip(model, transform, open_clip.get_tokenizer(f"local-dir:{folder}"), images, texts)
    fields = openclip.write_config(config)
    fields.pop("custom_text", None)  # an argument of OpenCLIP's factory, not of the class
    model = getattr(open_clip, family_of(config).openclip_class)(**fields)
    open_clip.load_checkpoint(model, str(path))
    return _seen_by_openai(model, config, images, texts)


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

    pixels_ICHW, tokens_UL = torch.stack([transform(image) for image in _opened(images)]), tokenizer(list(texts))
    model.eval()
    with torch.no_grad():
        zimg_ID = model.encode_image(pixels_ICHW, normalize=True)
        ztxt_UD = model.encode_text(tokens_UL, normalize=True)
        bias = 0.0 if getattr(model, "logit_bias", None) is None else model.logit_bias
        logits_IU = model.logit_scale.exp() * zimg_ID @ ztxt_UD.T + bias
    return Seen(pixels_ICHW.permute(0, 2, 3, 1).numpy(), tokens_UL.numpy(), logits_IU.numpy())


# The library of each form of checkpoint (see ``sources.Foreign``); open_clip_torch brings torch.
PEERS = {
    "hf": Peer("transformers", ("torch", "transformers"), _transformers),
    "openclip": Peer("OpenCLIP", ("torch", "open_clip"), _openclip),
    "openai": Peer("OpenCLIP", ("torch", "open_clip"), _openai),
}
WITHOUT_PEER = {
    "big_vision": "big_vision cannot be installed as a package, so only its own checkout can run this file",
    "run": "a run is our own format, which no other library reads",
    "naflex": "Siglip2Model keeps the aspect ratio of images, which is not supported here",
}


def require(form: str) -> None:
    """Raises UserError if the library of a form is not installed."""
    if form in PEERS:
        for module in PEERS[form].modules:
            extras.library(module, "torch")
