"""Untrusted PyTorch files (``torch.save``'s two formats, TorchScript archives), read as data and without torch."""

import collections
import io
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from naturel_jax.weights import pickled
from naturel_jax.weights.pickled import Module, Storage, Tensor
from naturel_jax.weights.tensors import Tensors, check_archive, explained, float_dtype
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import unzip

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file from before PyTorch 1.6
_MAX_NAMES = 100_000  # modules and tensors of one TorchScript archive; a module under several names counts for each
_MAX_CHARACTERS = 8_000_000  # of those names
# Elements of all tensors, and between their first and last ones, over those of all storages: tied weights are two
# tensors on one storage, and columns of a matrix reach over all of it.
_MAX_SHARED = 4
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_LOCAL_HEADER = 30  # bytes before the name of a member of a zip archive
_CHUNK = 1 << 20

Read = Callable[[Storage, int, int], bytes]  # the bytes of a storage from one to before another


def open_torch(path: Path) -> Tensors:
    """A PyTorch file: a state dict (possibly inside ``state_dict`` or ``model_state_dict``, possibly with keys prefixed
    by ``module.``) or a TorchScript archive, whose keys are the paths of its modules' attributes.

    Nothing in the file is executed. Raises UserError for a broken file, for pickled code, and for values that are not
    tensors.
    """
    with explained(path, "PyTorch"):
        try:
            loaded, read = (_open_zip if zipfile.is_zipfile(path) else _open_old)(path)
        except pickled.Refused as error:
            raise UserError(
                f"{path}: holds pickled objects other than tensors, which could run code; refused ({error})"
            ) from error
        except pickled.Malformed as error:
            raise UserError(f"{path}: truncated or not a PyTorch file ({error})") from error
    script = isinstance(loaded, Module)
    tensors = dict(_attributes(path, loaded)) if isinstance(loaded, Module) else _state_dict(path, loaded)
    stored = sum({tensor.storage.key: tensor.storage.numel for tensor in tensors.values()}.values())
    spans = {key: _span(tensor) for key, tensor in tensors.items()}
    elements = sum(max(math.prod(tensors[key].shape), stop - start) for key, (start, stop) in spans.items())
    if elements > _MAX_SHARED * stored:
        raise UserError(
            f"{path}: tensors of {elements:,} elements on storages of {stored:,}; tied weights take twice theirs, so "
            "this is refused"
        )

    def get(key: str) -> np.ndarray:
        tensor, (start, stop) = tensors[key], spans[key]
        dtype = float_dtype(path, key, tensor.storage.dtype)
        with explained(path, "PyTorch"):
            data = read(tensor.storage, start * dtype.itemsize, stop * dtype.itemsize)
            array = np.frombuffer(data, dtype, stop - start)
        strides = [step * dtype.itemsize for step in tensor.strides]
        if not array.size:
            return array.reshape(tensor.shape)
        return np.lib.stride_tricks.as_strided(array, tensor.shape, strides)

    return Tensors(str(path), {key: tensor.shape for key, tensor in tensors.items()}, get, script)


def _span(tensor: Tensor) -> tuple[int, int]:
    """Where the elements of a tensor begin in its storage, and where they end."""
    steps = [(side - 1) * step for side, step in zip(tensor.shape, tensor.strides, strict=True)]
    return tensor.offset, tensor.offset + (1 + sum(steps) if math.prod(tensor.shape) else 0)


def _state_dict(path: Path, loaded: Any) -> Mapping[str, Tensor]:
    for inside in ("state_dict", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(inside), dict):
            loaded = loaded[inside]
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    ):
        raise UserError(f"{path}: holds {type(loaded).__name__}, expected a mapping of names to tensors")
    if loaded and all(key.startswith("module.") for key in loaded):
        loaded = {key.removeprefix("module."): value for key, value in loaded.items()}
    return loaded


def _attributes(path: Path, root: Module) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of a module and its submodules. Raises UserError if they are nested without end."""
    remaining, count, characters = [("", root)], 0, 0
    while remaining:
        prefix, module = remaining.pop()
        for name, value in module.attributes.items():
            count += 1  # numbers and strings, too: a module under many names is gone through for each
            if not isinstance(value, Module | Tensor):
                continue
            characters += len(prefix) + len(str(name))
            if count > _MAX_NAMES or characters > _MAX_CHARACTERS:
                raise UserError(
                    f"{path}: has modules within modules with more than {_MAX_NAMES:,} names or {_MAX_CHARACTERS:,} "
                    "characters in them; refused"
                )
            if isinstance(value, Module):
                remaining.append((f"{prefix}{name}.", value))
            else:
                yield f"{prefix}{name}", value


def _open_zip(path: Path) -> tuple[Any, Read]:
    """The value in a zip archive, and the reader of its storages: ``<name>/data.pkl`` and ``<name>/data/<key>``."""
    archive = check_archive(path)
    members = archive.NameToInfo
    pickles = [name for name in members if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise pickled.Malformed(f"has {len(pickles)} members called data.pkl, expected one")
    folder = pickles[0].removesuffix("data.pkl")
    if (order := folder + "byteorder") in members and unzip(archive, members[order]) != b"little":
        raise pickled.Malformed("its byte order is not little-endian")
    if members[pickles[0]].file_size > path.stat().st_size:
        raise pickled.Malformed(f"its {pickles[0]!r:.80} is compressed, which PyTorch does not do")
    loaded, storages = pickled.load(io.BytesIO(unzip(archive, members[pickles[0]])))
    for storage in storages.values():
        member = members.get(f"{folder}data/{storage.key}")
        if member is not None and member.compress_type != zipfile.ZIP_STORED:
            raise pickled.Malformed(f"storage {storage.key!r:.80} is compressed, which PyTorch does not do")
        if member is None or member.file_size != _size(storage):
            found = "is missing" if member is None else f"has {member.file_size:,} bytes"
            raise pickled.Malformed(f"storage {storage.key!r:.80} {found}, expected {_size(storage):,} bytes")
    checked = set[str]()

    def read(storage: Storage, start: int, stop: int) -> bytes:
        member = members[f"{folder}data/{storage.key}"]
        if (start, stop) == (0, _size(storage)):
            return archive.read(member)  # checks the CRC
        if storage.key not in checked:
            with archive.open(member) as whole:
                collections.deque(iter(lambda: whole.read(_CHUNK), b""), 0)
            checked.add(storage.key)
        with path.open("rb") as file:
            file.seek(member.header_offset + _LOCAL_HEADER - 4)
            lengths = struct.unpack("<HH", file.read(4))  # of the name and the fields between header and data
            file.seek(sum(lengths) + start, os.SEEK_CUR)
            return file.read(stop - start)

    return loaded, read


def _open_old(path: Path) -> tuple[Any, Read]:
    """The value in a file from before PyTorch 1.6, and the reader of its storages: five pickles, then each storage
    after its number of elements."""
    with path.open("rb") as file:
        (magic, _), (_version, _), (system, _), (loaded, storages), (keys, _) = (pickled.load(file) for _ in range(5))
        if magic != _MAGIC or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise pickled.Malformed("not a little-endian file of torch.save")
        if not isinstance(keys, list) or sorted(keys) != sorted(storages):
            raise pickled.Malformed("the list of storages does not have those of the tensors")
        starts, end = {}, path.stat().st_size
        for key in keys:
            (numel,) = struct.unpack("<q", file.read(8))
            starts[key] = file.tell()
            if numel != storages[key].numel or file.seek(_size(storages[key]), os.SEEK_CUR) > end:
                raise pickled.Malformed(f"storage {key!r:.80} has {numel:,} elements, or the file ends in it")

    def read(storage: Storage, start: int, stop: int) -> bytes:
        with path.open("rb") as file:
            file.seek(starts[storage.key] + start)
            return file.read(stop - start)

    return loaded, read


def _size(storage: Storage) -> int:
    return storage.numel * _ITEM_BYTES[storage.dtype]
