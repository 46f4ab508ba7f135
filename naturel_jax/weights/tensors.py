"""Tensor files: names, shapes and one tensor at a time, from untrusted safetensors and NumPy files (``torch_files``
reads PyTorch's). Archives are checked for size before they are unpacked, and nothing in a file is executed."""

import contextlib
import dataclasses
import lzma
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors

from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import open_zip, parse_json

Shape = tuple[int, ...]
_FLOATS = {"F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}  # float32 holds each of them exactly
# Bytes that an archive may unpack to beyond twice its size: TorchScript compresses its code, and nothing compresses
# tensors.
_SLACK = 16 << 20
_NPY_HEADER = 256  # most bytes of the header of an array, which Python's parser reads; NumPy's have 118


# What the readers of zip archives, NumPy's and safetensors' files raise for a damaged file.
_DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    SyntaxError,
    tokenize.TokenError,
    safetensors.SafetensorError,
)


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint. ``get`` reads one, in a dtype that float32 holds exactly; ``script`` is true for
    TorchScript archives."""

    name: str
    shapes: Mapping[str, Shape]
    get: Callable[[str], np.ndarray]
    script: bool = False

    def renamed(self, names: Mapping[str, str]) -> "Tensors":
        """The same tensors under new names; ``names``: new -> current name. Others are left out."""
        return dataclasses.replace(
            self,
            shapes={new: self.shapes[old] for new, old in names.items()},
            get=lambda key: self.get(names[key]),
        )


@contextlib.contextmanager
def explained(path: Path, kind: str) -> Iterator[None]:
    """Turns a library's error about a bad file into one that names the file and what is wrong."""
    try:
        yield
    except (UserError, FileNotFoundError, PermissionError):
        raise
    except _DAMAGE as error:
        raise UserError(f"{path}: truncated or not a {kind} file ({error})") from error


def open_safetensors(path: Path) -> Tensors:
    """One safetensors file; needs no torch. Raises UserError for a broken file or a dtype that is not float32,
    float16 or bfloat16."""
    with explained(path, "safetensors"), safetensors.safe_open(path, "numpy") as file:  # which checks the places
        slices = {key: file.get_slice(key) for key in sorted(file.keys())}
        shapes = {key: tuple(one.get_shape()) for key, one in slices.items()}
        dtypes = {key: one.get_dtype() for key, one in slices.items()}
    with explained(path, "safetensors"), path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header, data = parse_json(file.read(size)), 8 + size
        first = {key: data + header[key]["data_offsets"][0] for key in shapes}

    # Not with safe_open, which reads the header again for each, and maps the file: its pages would count as memory.
    def get(key: str) -> np.ndarray:
        tensor = np.empty(shapes[key], float_dtype(path, key, dtypes[key]))
        with path.open("rb") as file:
            file.seek(first[key])
            if file.readinto(tensor.reshape(-1).view(np.uint8).data) < tensor.nbytes:
                raise UserError(f"{path}: {key} ends too early; copy or download the file again")
        return tensor

    return Tensors(str(path), shapes, get)


def float_dtype(path: Path, key: str, dtype: str) -> np.dtype:
    if dtype not in _FLOATS:
        raise UserError(f"{path}: {key} has dtype {dtype}; expected one of {', '.join(_FLOATS)}")
    return np.dtype(_FLOATS[dtype])


def open_sharded(index: Path, open_one: Callable[[Path], Tensors]) -> Tensors:
    """The files of a ``*.index.json``. Raises UserError if the index and its files disagree or a file is
    outside the folder."""
    try:
        weight_map: dict[str, str] = parse_json(index.read_text("utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: not an index with a 'weight_map' of names to files ({error!r})") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise UserError(f"{index}: file {name!r} is not in the folder of the index")
        if not (index.parent / name).is_file():
            raise UserError(f"{index}: file {name!r} is missing; download it again")
    files = {name: open_one(index.parent / name) for name in names}
    held = {key: name for name, tensors in files.items() for key in tensors.shapes}
    if held != weight_map:
        different = sorted(key for key in held.keys() | weight_map.keys() if held.get(key) != weight_map.get(key))
        raise UserError(f"{index}: index and files disagree about {', '.join(different[:5])}")
    shapes = {key: files[name].shapes[key] for key, name in weight_map.items()}
    return Tensors(str(index), shapes, lambda key: files[weight_map[key]].get(key))


def check_archive(path: Path) -> zipfile.ZipFile:
    """The zip archive at ``path``. Raises UserError for a zip bomb, which unpacks to far more than its size, and for
    two members with one name, which readers resolve differently."""
    archive = open_zip(path)
    if len(archive.NameToInfo) < len(archive.infolist()):
        raise UserError(f"{path}: has two members with the same name; refused")
    size, declared = path.stat().st_size, sum(info.file_size for info in archive.infolist())
    if declared > 2 * size + _SLACK:
        raise UserError(
            f"{path}: {size:,} bytes that unpack to {declared:,}; tensors are stored uncompressed, so this is refused"
        )
    return archive


def open_npz(path: Path) -> Tensors:
    """A NumPy ``.npz`` file; bfloat16 as big_vision writes it (two bytes without a type). Raises UserError for a
    broken file."""
    with explained(path, "npz"):
        archive = check_archive(path)
        headers = {info.filename.removesuffix(".npy"): _npy_header(path, archive, info) for info in archive.infolist()}

    def get(key: str) -> np.ndarray:
        with explained(path, "npz"), archive.open(key + ".npy") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
        dtype = {np.dtype("V2"): "BF16", np.dtype("<f4"): "F32", np.dtype("<f2"): "F16"}.get(
            array.dtype, str(array.dtype)
        )
        return array.view(float_dtype(path, key, dtype))

    return Tensors(str(path), {key: shape for key, (shape, _) in headers.items()}, get)


def _npy_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[Shape, np.dtype]:
    """Shape and dtype of a member. Raises UserError if they do not match its size."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(info) as file:
        try:
            shape, _, dtype = readers[np.lib.format.read_magic(file)](file, max_header_size=_NPY_HEADER)
        except _DAMAGE as error:
            what = f"an array with a header of up to {_NPY_HEADER} bytes"
            raise UserError(f"{path}: {info.filename!r} is not {what} ({escape.line(str(error)):.80})") from error
        expected = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
    if dtype.hasobject:
        raise UserError(f"{path}: {info.filename!r} holds pickled objects; refused")
    if info.file_size != expected:
        raise UserError(f"{path}: {info.filename!r} has {info.file_size:,} bytes, but its header says {expected:,}")
    return shape, dtype
