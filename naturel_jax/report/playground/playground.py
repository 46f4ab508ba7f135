"""What the page of ``naturel-try`` asks for: photos, their scores, and items of one's own benchmark.

Shape letters: U captions, D embedding.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from etils import epath

from naturel_jax import storage
from naturel_jax.benchmarks import naturel_pairs
from naturel_jax.data.images.decode import decoded
from naturel_jax.data.images.thumbnail import Thumbnail, thumbnail
from naturel_jax.data.items import prepared
from naturel_jax.evaluators.embedding_model import EmbeddingModel
from naturel_jax.storage.locks import locked
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import is_unicode

EXAMPLES = 12  # of each prepared dataset
MOST_CAPTIONS, MOST_LETTERS = 32, 1000  # captions of a request, characters of each
_SHOWN = 640  # pixels of the longer side
_KEPT_BYTES, _KEPT = 256 << 20, 4096  # photos; embeddings of either kind


class Photo(NamedTuple):
    """A photo as it came, its format, and what the page shows: the pixels that models see, encoded anew."""

    data: bytes
    form: str
    shown: Thumbnail


class Playground:
    """Photos in memory, ``models`` by name, and the file ``items`` of a benchmark ``pairs:ITEMS``."""

    def __init__(self, models: Mapping[str, EmbeddingModel], items: Path):
        self._models, self._items = models, items
        self._photos: dict[str, Photo] = {}
        self._image = functools.lru_cache(_KEPT)(lambda name, key: models[name].encode_image([self.photo(key).data])[0])
        self._text = functools.lru_cache(_KEPT)(lambda name, caption: models[name].encode_text([caption])[0])

    def add(self, data: bytes) -> str:
        """Keeps a photo, and returns its key. The oldest are dropped where all have more than ``_KEPT_BYTES``. Raises
        UserError for what is not an image, and for one with more pixels than its bytes allow (``decode.decoded``)."""
        key = f"photo_{hashlib.sha256(data).hexdigest()[:16]}"
        with decoded(data) as image:
            form = (image.format or "").lower()
        self._photos[key] = Photo(data, form, thumbnail(data, _SHOWN))
        while sum(len(photo.data) + len(photo.shown.data) for photo in self._photos.values()) > _KEPT_BYTES:
            del self._photos[next(iter(self._photos))]
        return key

    def photo(self, key: object) -> Photo:
        """The photo that ``add`` called ``key``. Raises UserError if it is not there."""
        if not isinstance(key, str) or key not in self._photos:
            raise UserError(f"photo {key!r:.80} is not here, or no longer; choose it again")
        return self._photos[key]

    def scores(self, key: object, captions: object) -> list[dict[str, Any]]:
        """For each model in order, of the photo with each caption: ``cosine``, its ``softmax`` over the captions, and
        ``sigmoid``, the probability of each, or None for a model without a bias. Raises UserError for a photo that is
        not there, and for captions that ``check_captions`` refuses."""
        self.photo(key)
        texts, found = check_captions("captions", captions), []
        for name, model in self._models.items():
            ztxt_UD = np.stack([self._text(name, text) for text in texts])
            cosine_U = np.einsum("d,ud->u", self._image(name, key), ztxt_UD)
            logits_U = cosine_U * np.exp(model.params["logit_scale"]) + model.params.get("logit_bias", 0.0)
            sigmoid = scipy.special.expit(logits_U).tolist() if "logit_bias" in model.params else None
            softmax = scipy.special.softmax(logits_U).tolist()
            found.append({"cosine": cosine_U.tolist(), "softmax": softmax, "sigmoid": sigmoid})
        return found

    def save(self, key: object, true: object, false: object) -> int:
        """Adds an item to the file, with its photo in ``<stem>_images/`` beside it, unless it is there; returns the
        number of items. The file is replaced as a whole, one process at a time. Raises what ``scores`` raises."""
        photo, name = self.photo(key), f"{self._items.stem}_images/{key}.{self.photo(key).form}"
        row = {"image": name, "caption": check_captions("true", true), "negatives": check_captions("false", false)}
        line, image = json.dumps(row, ensure_ascii=False).encode(), self._items.parent / name
        image.parent.mkdir(parents=True, exist_ok=True)
        with locked(image.parent / ".lock"):
            lines = self._items.read_bytes().splitlines() if self._items.exists() else []
            if line not in lines:
                storage.write(epath.Path(image), photo.data)
                lines.append(line)
                storage.write(epath.Path(self._items), b"".join(line + b"\n" for line in lines))
        return sum(bool(line.strip()) for line in lines)


def check_captions(name: str, texts: object) -> list[str]:
    """``texts``, if they are captions. Raises UserError that calls them ``name``."""
    if (
        not isinstance(texts, list)
        or not 0 < len(texts) <= MOST_CAPTIONS
        or not all(isinstance(text, str) and text.strip() and len(text) <= MOST_LETTERS for text in texts)
        or not is_unicode(texts)
    ):
        expected = f"a list of 1 to {MOST_CAPTIONS} captions of 1 to {MOST_LETTERS:,} characters"
        raise UserError(f"{name} is {texts!a:.80}; expected {expected}")
    return texts


def examples(data_dir: Path) -> Iterator[tuple[bytes, Sequence[str]]]:
    """Photos of the test split of each NatuRel dataset that is prepared in ``data_dir``, in its newest version, with a
    true caption and a false one. Raises what ``prepared.open_split`` raises."""
    for config in sorted((data_dir / "naturel").glob("*/")):
        for info in sorted(config.glob("*/dataset_info.json"))[-1:]:
            records = prepared.open_split(info.parent, "test").records
            for n in range(0, len(records), -(-len(records) // EXAMPLES) or 1):
                if pairs := list(naturel_pairs.caption_pairs(records[n], [])):
                    yield prepared.read_image(records, n), pairs[-1].texts
