"""Code shared by the benchmarks on COCO and Visual Genome images; the two collections have images in common."""

from collections.abc import Iterable
from pathlib import Path

from naturel_jax.benchmarks.benchmark import Overlap
from naturel_jax.benchmarks.files import load_json, require_strings, safe_name

SERVER = "http://images.cocodataset.org"
LICENCE = "COCO images under their Flickr licences"

_SPLITS = "https://github.com/rmokady/CLIP_prefix_caption/issues/15"
_VG_COCO = "https://github.com/amazon-science/polygon-transformer/issues/11"
_KARPATHY_TRAIN = Overlap(
    "COCO (Karpathy train)",
    "has 30,504 of the 40,504 images of val2014, of which val2017 is a part",
    _SPLITS,
)
IN_VISUAL_GENOME = Overlap("Visual Genome", "51,208 of its 108,077 images are COCO's", _VG_COCO)
# Other collections with the images of a part of COCO, or of Visual Genome.
KARPATHY_TEST = (
    Overlap("COCO (train2014, Karpathy train)", "none: the splits are disjoint"),
    Overlap("COCO (train2017)", "has all images of train2014 and val2014 but the 5,000 of val2017"),
    IN_VISUAL_GENOME,
)
VAL_2017 = (_KARPATHY_TRAIN, Overlap("COCO (train2017)", "none: the splits are disjoint"), IN_VISUAL_GENOME)
VISUAL_GENOME = (
    Overlap("Visual Genome", "the same images"),
    Overlap("COCO", "51,208 of the 108,077 images of Visual Genome are COCO's", _VG_COCO),
)


def urls(split: str, names: Iterable[str]) -> dict[str, str]:
    """Path -> URL of the images of a split that have these file names."""
    paths = sorted({f"{split}/{safe_name(name)}" for name in names})
    return {f"coco/{path}": f"{SERVER}/{path}" for path in paths}


def val2017_images(files: Iterable[Path], kind: type) -> dict[str, str]:
    """Path -> URL of the images that the records of JSON ``files``, each a ``kind``, have in the field ``filename``."""
    rows = (row for file in files for row in require_strings(file, load_json(file, kind), "filename"))
    return urls("val2017", (row["filename"] for row in rows))
