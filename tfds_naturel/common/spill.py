"""Lets TFDS build splits of more than 1 GB without TensorFlow.

TFDS shuffles a split in memory up to ``shuffle.MAX_MEM_BUFFER_SIZE`` bytes, and through 1,000 temporary files beyond
that. It opens them with TensorFlow's file API, the only use of TensorFlow when building ArrayRecord.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from tensorflow_datasets.core import shuffle

from tfds_naturel.common import files

# The part of TensorFlow that `shuffle` uses. Too many open files is an OSError of `open`, before anything is written.
_LOCAL = SimpleNamespace(
    io=SimpleNamespace(gfile=SimpleNamespace(GFile=open, exists=lambda path: Path(path).exists(), remove=os.remove)),
    errors=SimpleNamespace(ResourceExhaustedError=()),
)


@contextlib.contextmanager
def local_files() -> Iterator[None]:
    """Inside this context, TFDS's temporary files are plain local files if TensorFlow is not installed."""
    if importlib.util.find_spec("tensorflow"):
        yield
        return
    files.allow_open_files(shuffle.BUCKETS_NUMBER)
    tensorflow = shuffle.tf
    shuffle.tf = _LOCAL
    try:
        yield
    finally:
        shuffle.tf = tensorflow
