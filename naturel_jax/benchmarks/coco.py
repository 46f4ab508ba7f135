"""Shared by the benchmarks on COCO images."""

from collections.abc import Iterable

from naturel_jax.benchmarks.files import Record, safe_name

SERVER = "http://images.cocodataset.org"
LICENCE = "COCO images under their Flickr licences"


def val2017_images(rows: Iterable[Record]) -> dict[str, str]:
    """Path -> URL of the images that the ``filename`` fields of ``rows`` refer to."""
    names = sorted({safe_name(row["filename"]) for row in rows})
    return {f"coco/val2017/{name}": f"{SERVER}/val2017/{name}" for name in names}
