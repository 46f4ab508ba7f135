"""Reads prepared TFDS datasets with the features of ``tfds_naturel.common.schema``."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from naturel_jax.data.items.items import Caption, Group, Items, Source, collect
from naturel_jax.data.items.items_on_disk import digest, load_or_collect
from tfds_naturel.common import escape
from tfds_naturel.common.builders import open_builder
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import version_of
from tfds_naturel.common.schema import KINDS, POLARITIES, TRIPLET_KINDS, Kind, Triplet
from tfds_naturel.hard_images.survey import Survey

Example = Mapping[str, Any]

# Of captions, that we read.
_COLUMNS = ("text", "group", "kind", "polarity", "pair", "paraphrase", "triplet", "asserts")


@contextlib.contextmanager
def _reading(name: object) -> Iterator[None]:
    """Turns whatever TFDS, ArrayRecord and TensorFlow raise for a damaged file into a UserError with ``name``."""
    try:
        yield
    except (UserError, FileNotFoundError, IndexError, NotImplementedError):  # the last two are a caller's
        raise
    except Exception as error:
        reason = escape.line(str(error)) or type(error).__name__
        raise UserError(f"{name}: a record cannot be read ({reason:.200}); prepare the dataset again") from error


class Records(Sequence[Example]):
    """The decoded examples of a split, except for their images, which stay encoded. ``source``: TFDS's; ``paths``: the
    split's files."""

    def __init__(self, source: Any, name: str, paths: Sequence[os.PathLike[str]]):
        self._source, self._name, self._paths = source, name, paths
        self._some: dict[tuple[str, ...], Any] = {}  # names -> features with these only

    def __len__(self) -> int:
        with _reading(self._name):
            return len(self._source)

    def __getitem__(self, n: Any) -> Any:
        with _reading(self._name):
            return self._source[n]

    @functools.cached_property
    def version(self) -> str:
        """Identifies the split's files as they are now (``version_of``)."""
        return version_of(*self._paths)

    @property
    def features(self) -> Mapping[str, Any]:
        """The dataset's features by name."""
        return self._source.dataset_info.features

    def value(self, n: int, name: str) -> Any:
        """``self[n][name]``, decoding no other feature: captions take several times as long as an image."""
        return self.values(n, name)[name]

    def values(self, n: int, *names: str) -> dict[str, Any]:
        """The features of ``self[n]`` with these ``names``, decoding no other."""
        if names not in self._some:
            import tensorflow_datasets as tfds

            self._some[names] = tfds.features.FeaturesDict({name: self.features[name] for name in names})
        decoders = {key: decoder for key, decoder in self._source.decoders.items() if key in names}
        with _reading(self._name):
            record = self._source.data_source[n]
            return self._some[names].deserialize_example_np(record, decoders=decoders)


class Split(NamedTuple):
    """A split; ``name`` is for messages."""

    name: str
    records: Records


def files(directory: str | os.PathLike[str]) -> list[Path]:
    """The files of the dataset prepared in ``directory``, records and descriptions, by name, without the card: nothing
    is read from it, and a later version may word it differently."""
    return sorted(path for path in Path(directory).iterdir() if path.is_file() and path.name != "README.md")


def open_split(directory: str | os.PathLike[str], split: str) -> Split:
    """Opens ``split`` of the dataset prepared in ``directory`` (``<data_dir>/<name>/<config>/<version>``).

    Raises what ``open_builder`` raises, and UserError for an unknown split, and for captions with other columns or
    labels than NatuRel's.
    """
    import tensorflow_datasets as tfds  # slow to import; only processes that read datasets need it

    builder = open_builder(directory)
    if split not in builder.info.splits:
        raise UserError(
            f"{directory} has no split {split!r}; expected one of: {', '.join(sorted(builder.info.splits))}"
        )
    _check_captions(directory, builder.info)
    images = [name for name, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    with _reading(directory):
        if builder.info.file_format == tfds.core.FileFormat.TFRECORD:
            from naturel_jax.data.items.tfrecord import TfRecordDataSource

            records = TfRecordDataSource(builder.info, split, decoders)
        elif builder.info.file_format in tfds.core.FileFormat.with_random_access():
            records = builder.as_data_source(split, decoders=decoders)  # pyright: ignore[reportCallIssue]  # untyped
        else:
            raise UserError(
                f"{directory} has files of the format {builder.info.file_format.value!r}, which has no random access; "
                "expected 'array_record' or 'tfrecord': prepare it again with file_format='array_record'"
            )
    paths = builder.info.splits[split].filepaths
    return Split(f"{builder.info.full_name}:{split}", Records(records, os.fspath(directory), paths))


def _check_captions(directory: str | os.PathLike[str], info: Any) -> None:
    """Raises UserError for true and false captions, of the dataset with TFDS's ``info``, that are not in the format of
    ``schema.features``. Were the labels in another order, true ones would be taken for false."""
    inner: Any = getattr(info.features["captions"], "feature", None) if "captions" in info.features else None
    columns = dict(inner.items()) if hasattr(inner, "items") else {}
    if "polarity" not in columns:  # captions of another dataset, all true
        return
    labels = {"polarity": POLARITIES, "kind": KINDS}
    found = {name: tuple(getattr(columns.get(name), "names", ())) for name in labels}
    wrong = [f"no captions.{name}" for name in _COLUMNS if name not in columns]
    wrong += [f"the labels {found[name]!r:.80} of captions.{name}" for name in labels if found[name] != labels[name]]
    if wrong:
        from tfds_naturel import naturel  # a builder, which no other reader needs

        raise UserError(
            f"{directory}: version {info.version} of the dataset has {wrong[0]}; expected NatuRel's format of version "
            f"{naturel.Naturel.VERSION}, or {naturel.VERSION} of a drawn world: build it again"
        )


def open_source(directory: str | os.PathLike[str], split: str, cache: Path, kind: Kind | None = None) -> Source:
    """``split`` of the dataset in ``directory`` as training data; its items are kept in the folder ``cache``.

    With a ``kind`` of ``EXCHANGED_KINDS``, its caption groups are those of this kind; otherwise, those of triplets.
    Images that have only others are left out. Raises what ``open_split``, ``caption_groups`` and ``collect`` raise, and
    UserError if all are left out.
    """
    kinds = (kind,) if kind else TRIPLET_KINDS
    name, records = open_split(directory, split)

    def groups(example: Example) -> tuple[str, list[Group]]:
        try:
            return to_str(example["image_id"]), caption_groups(example, kinds)
        except UserError as error:
            raise UserError(f"{name}, {error}") from None

    def read() -> Items:
        return collect(name, (groups(records[n]) for n in range(len(records))))

    items = load_or_collect(cache, name, read)
    items = dataclasses.replace(items, left_out=np.flatnonzero(np.diff(items.groups_N1) == 0))
    if not len(items):
        raise no_captions(name, kinds)
    return Source(items, functools.partial(read_image, records), content=f"{name} {digest(items, cache)}")


def no_captions(name: str, kinds: Iterable[Kind]) -> UserError:
    """The error for a dataset of which no image has captions of these kinds."""
    return UserError(
        f"{name}: no image has captions of kind {' or '.join(map(repr, kinds))}; bindings and positions need images "
        "that show the opposite of each other: use another dataset, or another recipe"
    )


def caption_groups(example: Example, kinds: Collection[Kind] = TRIPLET_KINDS) -> list[Group]:
    """The caption groups of a decoded example that have these kinds of captions, in the order of their first captions.

    Raises UserError for an image without captions of any kind, or if a paraphrase does not follow the one before it.
    """
    rows, image_id = example["captions"], to_str(example["image_id"])
    if not len(rows["text"]):
        raise UserError(f"image {image_id!r}: no captions; every image of a training set needs at least one")
    groups: dict[Any, Group] = {}
    places: dict[Any, tuple[list[Caption], int]] = {}  # (group, polarity, pair) -> where its caption is
    columns = (rows[name] for name in _COLUMNS)
    for text, key, kind, polarity, pair, paraphrase, triplet, asserts in zip(*columns, strict=True):
        if KINDS[kind] not in kinds:
            continue
        slot = (key, polarity, pair)
        if paraphrase:
            captions, at = places.get(slot, ([], -1))
            if not captions or len(captions[at].paraphrases) != paraphrase - 1:
                raise UserError(
                    f"image {image_id!r}: paraphrase {paraphrase} ({to_str(text)!r}) does not "
                    f"follow paraphrase {paraphrase - 1} of its pair; number them 0, 1, ... in the order of the rows"
                )
            captions[at] = captions[at]._replace(paraphrases=(*captions[at].paraphrases, to_str(text)))
            continue
        group = groups.setdefault(key, Group([], [], _is_attribute(to_str(triplet))))
        side = group.negatives if POLARITIES[polarity] == "negative" else group.positives
        assert isinstance(side, list)
        places[slot] = (side, len(side))
        side.append(Caption(to_str(text), to_str(asserts), int(pair), KINDS[kind]))
    return list(groups.values())


def survey(records: Records) -> Survey:
    """Survey of which image shows which triplets."""
    examples = (records.values(n, "image_id", "relations") for n in range(len(records)))
    return Survey.from_images((to_str(example["image_id"]), _triplets(example)) for example in examples)


def true_captions(records: Records, shown: Survey) -> list[list[str]]:
    """The true captions of each triplet of the survey of ``records``, in all their wordings, as the first image that
    shows it has them. Raises UserError if no image has any."""
    found: list[list[str]] = []
    for triplet, images in zip(shown.triplets, shown.images_of(), strict=True):
        groups = (group for n in images.tolist() for group in caption_groups(records[n]))
        true = ([c for c in group.positives if c.asserts == str(triplet)] for group in groups)
        found.append([text for c in next(filter(None, true), []) for text in (c.text, *c.paraphrases)])
        if not found[-1]:
            raise UserError(
                f"no image has a true caption of {str(triplet)!r}, which image {shown.image_ids[images[0]]!r} shows; "
                "expected one of each triplet: build the dataset again"
            )
    return found


def _triplets(example: Example) -> list[Triplet]:
    columns = [map(to_str, example["relations"][name]) for name in ("subject", "relation", "object")]
    return list(dict.fromkeys(map(Triplet, *columns)))


@functools.lru_cache(maxsize=100_000)
def _is_attribute(triplet: str) -> bool:
    return bool(triplet) and Triplet.parse(triplet).relation == "is"


def to_str(value: bytes | str) -> str:
    """Decodes text as TFDS returns it."""
    return value.decode() if isinstance(value, bytes) else value


def read_image(records: Records, n: int) -> bytes:
    """The encoded image of record ``n``."""
    return records.value(n, "image")
