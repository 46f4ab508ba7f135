"""Decodes 3,000 images of a few pixels into a folder: ``python decoding.py FOLDER``. Image 1500, which is in the second
block and not in the sample that is read first, waits for the process to be killed."""

import sys
import threading
from pathlib import Path

from naturel_jax.data.images.augment import Crops
from naturel_jax.data.items import decoded_writer
from naturel_jax.data.items.items import Source
from tests.helpers.caption_groups import items, jpeg

STOP_AT = 1500


def decode(folder: Path, stop: bool) -> Source:
    """With their decoded images."""
    files = [jpeg(n, 12, 10) for n in range(10)]

    def read(n: int) -> bytes:
        if stop and n == STOP_AT:
            print("reading", flush=True)
            threading.Event().wait()
        return files[n % 10]

    return decoded_writer.decode(Source(items(3000), read), Crops(8, (0.9, 1.0)), folder, workers=1)


if __name__ == "__main__":
    decode(Path(sys.argv[1]), stop=True)
