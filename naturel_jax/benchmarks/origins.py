"""Where the images of each benchmark come from, and which training data may hold the same images.

``naturel_jax.data.trained_on`` finds these where a run has a record of its images. This table is for the models that
have none, and says what to look at before a run starts.
"""

from typing import NamedTuple


class Overlap(NamedTuple):
    """``training``: a collection that models are trained on. ``known``: how much of it is the same images; ``source``
    of that, if it is not stated by the collections themselves."""

    training: str
    known: str
    source: str = ""


class Origin(NamedTuple):
    """``images``: the collection, and the part of it. ``source``: where the benchmark says so."""

    images: str
    source: str
    overlaps: tuple[Overlap, ...] = ()


def _arxiv(number: str) -> str:
    return f"https://arxiv.org/abs/{number}"


_SPLITS = "https://github.com/rmokady/CLIP_prefix_caption/issues/15"
_VG_COCO = "https://github.com/amazon-science/polygon-transformer/issues/11"

_KARPATHY_TRAIN = Overlap(
    "COCO (Karpathy train)",
    "has 30,504 of the 40,504 images of val2014, of which val2017 is a part",
    _SPLITS,
)
_TRAIN_2017 = Overlap("COCO (train2017)", "has all images of train2014 and val2014 but the 5,000 of val2017")
_VISUAL_GENOME = Overlap("Visual Genome", "51,208 of its 108,077 images are COCO's", _VG_COCO)
_IN_COCO = Overlap("COCO", "51,208 of the 108,077 images of Visual Genome are COCO's", _VG_COCO)
_FLICKR = Overlap("COCO, Visual Genome, Open Images", "are photos from Flickr too; no count is known")
_OTHERS = Overlap("COCO, Visual Genome, Flickr30k", "are photos from Flickr too; no count is known")
_ITSELF = Overlap("Visual Genome", "the same images")

_COCO_TEST = (Overlap("COCO (train2014, Karpathy train)", "none: the splits are disjoint"), _TRAIN_2017, _VISUAL_GENOME)
_VAL_2017 = (_KARPATHY_TRAIN, Overlap("COCO (train2017)", "none: the splits are disjoint"), _VISUAL_GENOME)
_NATUREL = Origin(
    "Open Images (train), split by this builder",
    _arxiv("1811.00982"),
    (Overlap("Open Images (train)", "the same images"), _OTHERS),
)
_KARPATHY = _arxiv("1412.2306")

ORIGINS: dict[str, tuple[Origin, ...]] = {
    "naturel": (_NATUREL,),
    "naturel_unseen": (_NATUREL,),
    "naturel_contrast": (_NATUREL,),
    "naturel_reworded": (_NATUREL,),
    "winoground": (
        Origin(
            "Getty Images",
            "https://huggingface.co/datasets/facebook/winoground",
            (Overlap("half of Winoground", "NegCLIP-AP's recipe trains on one; the other half is scored"),),
        ),
    ),
    "vg_relation": (Origin("Visual Genome", _arxiv("2210.01936"), (_ITSELF, _IN_COCO)),),
    "vg_attribution": (Origin("Visual Genome", _arxiv("2210.01936"), (_ITSELF, _IN_COCO)),),
    "sugarcrepe": (Origin("COCO (val2017)", _arxiv("2306.14610"), _VAL_2017),),
    "coco_order": (Origin("COCO (Karpathy test, of val2014)", _KARPATHY, _COCO_TEST),),
    "flickr30k_order": (Origin("Flickr30k (Karpathy test)", _KARPATHY, (_FLICKR,)),),
    "whatsup": (
        Origin("photos of its own (A, B)", _arxiv("2310.19785")),
        Origin("COCO (val2017)", _arxiv("2310.19785"), _VAL_2017),
        Origin("Visual Genome", _arxiv("2310.19785"), (_ITSELF, _IN_COCO)),
    ),
    "sugarcrepe_pp": (Origin("COCO (val2017)", _arxiv("2406.11171"), _VAL_2017),),
    "bivlc": (
        Origin("COCO (val2017)", _arxiv("2406.09952"), _VAL_2017),
        Origin("generated images", _arxiv("2406.09952")),
    ),
    "colorswap": (Origin("generated images", _arxiv("2402.04492")),),
    "eqben": (Origin("frames of videos, renderings, generated images", _arxiv("2303.14465")),),
    "valse": (
        Origin("COCO", _arxiv("2112.07566"), (Overlap("COCO", "the same images, of several splits"), _VISUAL_GENOME)),
        Origin("Visual7W, of Visual Genome", _arxiv("2112.07566"), (_ITSELF, _IN_COCO)),
        Origin("SWiG, VisDial", _arxiv("2112.07566")),
    ),
    "vsr": (
        Origin(
            "COCO (train2017 and val2017)",
            _arxiv("2205.00363"),
            (Overlap("COCO", "the same images, also of training splits"), _VISUAL_GENOME),
        ),
    ),
    "coco_retrieval": (Origin("COCO (Karpathy test, of val2014)", _KARPATHY, _COCO_TEST),),
    "flickr30k_retrieval": (Origin("Flickr30k (Karpathy test)", _KARPATHY, (_FLICKR,)),),
    "zeroshot": (),
}
