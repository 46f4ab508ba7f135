"""Lets TFDS build splits of more than 1 GB without TensorFlow.

TFDS sorts a split in memory up to ``shuffle.MAX_MEM_BUFFER_SIZE`` and through 1,000 temporary files beyond. It opens
them with TensorFlow's file layer, its only use of TensorFlow in a build to ArrayRecord.
"""

import contextlib
import importlib.util
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from tensorflow_datasets.core import shuffle

# What `shuffle` uses of TensorFlow. Python's own "too many open files" comes from `open`, before anything is written.
_LOCAL = SimpleNamespace(
    io=SimpleNamespace(gfile=SimpleNamespace(GFile=open, exists=lambda path: Path(path).exists(), remove=os.remove)),
    errors=SimpleNamespace(ResourceExhaustedError=()),
)


@contextlib.contextmanager
def local_files() -> Iterator[None]:
    """While open, TFDS's temporary files are plain local files if TensorFlow is not installed."""
    if importlib.util.find_spec("tensorflow"):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = shuffle.BUCKETS_NUMBER + 1024
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard >= 0 else wanted, hard))
    tensorflow = shuffle.tf
    shuffle.tf = _LOCAL
    try:
        yield
    finally:
        shuffle.tf = tensorflow
