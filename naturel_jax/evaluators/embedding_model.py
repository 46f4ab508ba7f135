"""The public API: embeds images and captions with any model, scores them, evaluates on benchmarks. See docs/api.md.

Shape letters: I images, D embedding.
"""

import contextlib
import functools
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
import tqdm
from etils import epath

from naturel_jax import weights
from naturel_jax.benchmarks import registry
from naturel_jax.benchmarks.benchmark import Image
from naturel_jax.data.items.index import read_file
from naturel_jax.data.items.records import ADDRESS
from naturel_jax.data.seen.trained_on import TrainedOn
from naturel_jax.data.text.processor import Processor
from naturel_jax.devices.sharding import make_mesh, param_sharding
from naturel_jax.evaluators.embed import Advance, Encoder
from naturel_jax.evaluators.evaluator import Evaluator
from naturel_jax.evaluators.held_out import hold_out
from naturel_jax.models.transformer import Compute
from naturel_jax.models.two_tower import Model, Params
from naturel_jax.storage import object_folders, staging
from naturel_jax.weights import export, model_card
from tfds_naturel.common.errors import UserError

T = TypeVar("T")
ImageInput = str | os.PathLike[str] | bytes | PIL.Image.Image | np.ndarray
_IMAGE_TYPES = (str, os.PathLike, bytes, PIL.Image.Image, np.ndarray)
PROGRESS = 1000  # with this many inputs or more, a progress bar is shown by default

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # modes that PNG keeps exactly, with palette and transparency


class EmbeddingModel:
    """A two-tower model with its parameters and processor, over all devices. Made by ``load``.

    ``model``, ``params`` and ``processor`` are for those who need more than embeddings: pure functions, the parameter
    tree, the preprocessing. ``trained_on`` has the images that ``source`` was trained on, if it is a run or an
    export of one.
    """

    def __init__(
        self,
        source: str,
        model: Model,
        params: Params,
        processor: Processor,
        *,
        batch_size: int = 256,
        trained_on: TrainedOn | None = None,
    ):
        self.source, self.model, self.params, self.processor = source, model, params, processor
        self.batch_size, self.trained_on = batch_size, trained_on or TrainedOn()
        self.mesh = make_mesh({"data": -1})
        self._encoder = functools.cache(self._make_encoder)

    def encode_image(self, images: Sequence[ImageInput], *, progress: bool | None = None) -> np.ndarray:
        """Unit embeddings [I, D], float32, of paths, encoded bytes, PIL images or uint8 arrays ([H, W], [H, W, 3] or
        [H, W, 4]).

        ``progress``: whether to show a progress bar; by default for 1,000 images or more, on a terminal. Raises
        FileNotFoundError for a path without a file, UserError (a ValueError) if images cannot be read, and TypeError
        for anything but a list of images.
        """
        if isinstance(images, np.ndarray) and images.ndim == 4:  # [N, H, W, 3]
            images = list(images)
        images = _sequence("images", images, _IMAGE_TYPES)
        first: dict[int, int] = {}  # an object that occurs several times is embedded once
        for n, image in enumerate(images):
            first.setdefault(id(image), n)
        readers = [_reader(n, images[n]) for n in first.values()]
        with _progress("images", len(readers), progress) as advance:
            zimg_ID, faults = self._encoder(self._size(len(readers))).images(self.params, readers, advance)
        if faults:
            _, reason = min(faults.items())
            raise UserError(f"{len(faults):,} of {len(readers):,} images cannot be read; the first: {reason}")
        row = {identity: n for n, identity in enumerate(first)}
        return zimg_ID[[row[id(image)] for image in images]]

    def encode_text(self, texts: Sequence[str], *, progress: bool | None = None) -> np.ndarray:
        """Unit embeddings [U, D], float32. Texts longer than the model's context are truncated, as in training.

        ``progress`` as in ``encode_image``. Raises TypeError for anything but a list of str.
        """
        texts = _sequence("texts", texts, (str,))
        with _progress("texts", len(texts), progress) as advance:
            return self._encoder(self._size(len(texts))).captions(self.params, texts, advance)

    def score(self, images: Sequence[ImageInput], captions: Sequence[str]) -> np.ndarray:
        """Cosines [I, U], float32, of every image with every caption. Raises what the two encoders raise."""
        # As in embed.cosines: einsum sums each cell in the same order, so equal captions tie exactly.
        return np.einsum("id,ud->iu", self.encode_image(images), self.encode_text(captions))

    def logits(self, images: Sequence[ImageInput], captions: Sequence[str]) -> np.ndarray:
        """Logits [I, U], float32: the cosines times the model's scale, plus its bias if it has one.

        The probability of a pair is their sigmoid for SigLIP, and their softmax over captions for CLIP.
        """
        scale, bias = np.exp(self.params["logit_scale"]), self.params.get("logit_bias", 0.0)
        return np.asarray(self.score(images, captions) * scale + bias, np.float32)

    def save(self, folder: str | os.PathLike[str], to: str = "hf", *, dtype: str = "float32") -> None:
        """Writes a new folder in the format ``to``: ``hf`` (transformers), ``openclip``, ``big_vision`` or ``run``
        (ours), with weights in ``dtype`` (``float32``, ``bfloat16`` or ``float16``), processor and model card.

        Raises FileExistsError if the folder exists, and UserError for an unknown format or one without an equivalent
        model.
        """
        for name, value, known in (("to", to, export.FORMS), ("dtype", dtype, export.DTYPES)):
            if value not in known:
                raise UserError(f"{name} is {value!r}; expected one of: {', '.join(known)}")
        parts = (self.model.config, self.params, self.processor)
        about = model_card.about(self.source)
        target = epath.Path(folder)
        export.check_new(target)
        with object_folders.made_locally(target) as local:
            export.save(local, *parts, form=to, dtype=dtype, about=about, trained_on=self.trained_on)
            object_folders.publish(local, target, last=export.FORMS[to].last)

    def _size(self, number: int) -> int:
        """The batch size for ``number`` inputs: a power of two, so that few inputs are not padded to a full batch and
        few shapes are compiled."""
        return min(self.batch_size, 1 << max(number - 1, 0).bit_length())

    def _make_encoder(self, batch_size: int) -> Encoder:
        return Encoder(self.model, self.processor, mesh=self.mesh, batch_size=batch_size, pixel_cache_bytes=0)

    def __repr__(self) -> str:
        return f"EmbeddingModel({self.source!r}, embed_dim={self.model.config.embed_dim})"


def load(source: str | os.PathLike[str], *, dtype: str = "float32", batch_size: int = 256) -> EmbeddingModel:
    """The model at ``source``, with its parameters over all devices: ``hf:owner/name``, ``open_clip:owner/name``,
    ``run:workdir``, a folder or a file (see ``weights.load``).

    ``dtype`` is that of the towers' arithmetic: ``float32``, as for published scores, or ``bfloat16``. ``batch_size``:
    most images or texts in a batch. Raises UserError naming what is wrong with a checkpoint, and FileNotFoundError.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected 1 or more")
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype is {dtype!r}; expected 'float32' or 'bfloat16'")
    name = os.fspath(source)
    loaded = weights.load(name, sharding_for=param_sharding(make_mesh({"data": -1})))
    trained_on = weights.trained_on(name)
    model = Model(loaded.config, Compute(dtype=dtype))
    return EmbeddingModel(name, model, loaded.params, loaded.processor, batch_size=batch_size, trained_on=trained_on)


def evaluate(model: EmbeddingModel, benchmark: str, folder: str | os.PathLike[str] = ".") -> dict[str, float]:
    """Metric -> score, in [0, 1], of ``benchmark`` (``python -m naturel_jax.benchmarks`` lists them), or of ``all``
    that can be read, or of your own, such as ``pairs:my.jsonl``.

    ``folder`` has the official files; for the NatuRel benchmarks, it is a prepared dataset, such as
    ``data/naturel/full/4.1.0``. Items whose images its run was trained on are left out; images that
    cannot be read are left out and logged. Raises UserError for an unknown benchmark, and UserError or
    FileNotFoundError for files that are broken or missing.
    """
    path = staging.stage(folder)
    benchmarks = registry.read([benchmark], files=path, naturel=path)
    kept = [hold_out(whole, model.trained_on) for whole in benchmarks]
    evaluator = Evaluator(model.model, model.processor, kept, mesh=model.mesh, batch_size=model.batch_size)
    return evaluator.scores(model.params)


def _sequence(name: str, values: Sequence[T], kinds: tuple[type, ...]) -> list[T]:
    """``values`` as a list. Raises TypeError for one value in place of a list, and for elements of another type."""
    if isinstance(values, (str, *kinds)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list, found {_describe(values)}; write [x] for one x")
    elements = list(values)
    for n, value in enumerate(elements):
        if not isinstance(value, kinds):
            expected = "str" if kinds == (str,) else "a path, bytes, a PIL image or a uint8 array"
            raise TypeError(f"{name}[{n}]: expected {expected}, found {_describe(value)}")
    return elements


def _describe(value: object) -> str:
    return f"{value.dtype} array {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _reader(n: int, image: ImageInput) -> Image:
    """``images[n]`` as the encoder reads it. Raises FileNotFoundError, and TypeError for an array that is no image."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
            expected = "a uint8 array [H, W], [H, W, 3] or [H, W, 4]"
            raise TypeError(f"images[{n}]: expected {expected}, found {_describe(image)}")
        if not image.size:
            raise UserError(f"images[{n}]: an array without pixels, {_describe(image)}")
        image = PIL.Image.fromarray(image)
    if isinstance(image, PIL.Image.Image):
        return Image(str(n), functools.partial(_encoded, image))
    if isinstance(image, bytes):
        return Image(str(n), functools.partial(bytes, image))
    path = Path(image).expanduser()
    if not path.is_file():
        missing = "an address: download it" if ADDRESS.match(str(image)) else "no such file"
        what = "a folder: pass the images in it" if path.is_dir() else missing
        raise FileNotFoundError(f"images[{n}]: {image}: {what}")
    return Image(f"{n} ({path})", functools.partial(read_file, str(path)))


def _encoded(image: PIL.Image.Image) -> bytes:
    """The image, losslessly and in its mode, so that the processor treats it like the file that it came from."""
    if 0 in image.size:
        raise UserError(f"an image without pixels, {image.width} x {image.height}")
    buffer = io.BytesIO()
    try:
        if image.mode in _PNG_MODES:
            image.save(buffer, "PNG", compress_level=0)
        else:
            image.save(buffer, "TIFF")
    except SyntaxError as error:  # PIL's error for a broken PNG, which it finds when pixels are first needed
        raise UserError(f"not a readable image: {error}") from error
    return buffer.getvalue()


@contextlib.contextmanager
def _progress(unit: str, number: int, shown: bool | None) -> Iterator[Advance]:
    """The ``advance`` of a progress bar over ``number`` inputs; by default shown only for many, and on a terminal."""
    disable = (None if number >= PROGRESS else True) if shown is None else not shown
    with tqdm.tqdm(total=number, desc=unit, disable=disable) as bar:
        yield bar.update
