"""Opens a prepared TFDS dataset that someone else may have written."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath

from tfds_naturel.common import escape
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import check_regular, load_json

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

_FEATURES = re.compile(r"tensorflow_datasets\.core\.features(\.\w+)+")
_LARGEST = 16 << 20  # bytes of features.json


def open_builder(folder: epath.PathLike) -> "tfds.core.DatasetBuilder":
    """The builder of the dataset in ``folder`` (``<data_dir>/<name>/<config>/<version>``).

    Raises UserError if there is none, or a broken one, for a feature that is not TFDS's own (TFDS would import the
    module that features.json names), and for records outside of the folder.
    """
    import tensorflow_datasets as tfds  # slow to import; only processes that read datasets need it

    folder = epath.Path(folder)
    if not (folder / "dataset_info.json").exists():
        raise UserError(f"{folder} is not a prepared dataset: dataset_info.json is missing; build it first")
    for path in folder.iterdir():  # TFDS reads any of them, a pipe or device too
        check_regular(Path(path))
    if (path := folder / "features.json").exists():
        if os.stat(path).st_size > _LARGEST:
            raise UserError(f"{path}: larger than {_LARGEST >> 20} MB; expected the features of a dataset")
        for name in _classes(load_json(path, path.read_bytes(), "prepare the dataset again")):
            if not isinstance(name, str) or not _FEATURES.fullmatch(name):
                raise UserError(f"{path}: a feature is of the class {name!r:.200}; expected one of TFDS's own")
    try:
        builder = tfds.builder_from_directory(str(folder))
        paths = [path for split in builder.info.splits.values() for path in split.filepaths]
        _ = builder.info.features
    except Exception as error:  # what TFDS and protobuf raise depends on what is wrong
        reason = escape.line(" ".join(str(error).split()))
        raise UserError(f"{folder}: not a readable TFDS dataset ({reason:.300}); prepare it again") from error
    if outside := next((str(path) for path in paths if path.parent != folder or path.name == ".."), ""):
        raise UserError(f"{folder / 'dataset_info.json'}: records are in {outside!r:.200}, which is not a file there")
    return builder


def _classes(value: Any) -> Iterator[Any]:
    """The names of classes in ``features.json``, in its form and in that before TFDS 4.5."""
    if isinstance(value, dict):
        yield from (value[key] for key in ("pythonClassName", "python_class_name") if key in value)
        if isinstance(value.get("type"), str) and "content" in value:
            yield value["type"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _classes(inner)
