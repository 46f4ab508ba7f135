"""What the benchmarks on COCO's images share."""

from collections.abc import Iterable

from naturel_jax.benchmarks.files import Record, safe_name

SERVER = "http://images.cocodataset.org"
LICENCE = "images of COCO under their Flickr licences"


def val2017_images(rows: Iterable[Record]) -> dict[str, str]:
    """Path -> address of the images that ``filename`` names in ``rows``."""
    names = sorted({safe_name(row["filename"]) for row in rows})
    return {f"coco/val2017/{name}": f"{SERVER}/val2017/{name}" for name in names}
