"""What'sUp: household objects in four spatial relations, and COCO and Visual Genome questions about left, right,
above, below (arXiv 2310.19785).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from naturel_jax.benchmarks import coco, rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric, Origin, Outcomes, Source, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Folder, Record, load_json, numbered, read_items, unusable

_PAPER = "https://arxiv.org/abs/2310.19785"
SOURCE = Source(
    "MIT; COCO and Visual Genome images under their own licences",
    "https://github.com/amitakamath/whatsup_vlms (see its Google Drive links)",
    "whatsup/*.json (six), whatsup/{controlled_images,controlled_clevr,vg_images}/, coco/val2017/",
    origins=(
        Origin("photos of its own (A, B)", _PAPER),
        Origin("COCO (val2017)", _PAPER, coco.VAL_2017),
        Origin("Visual Genome", _PAPER, coco.VISUAL_GENOME),
    ),
    together="set",  # without one of its images, a set would count as wrong
)
CONTROLLED = {  # subset -> its file, and its pairs of opposite relations
    "A": ("controlled_images_dataset.json", (("left_of", "right_of"), ("on", "under"))),
    "B": ("controlled_clevr_dataset.json", (("left_of", "right_of"), ("in-front_of", "behind"))),
}
QUESTIONS = ("coco_qa_one_obj", "coco_qa_two_obj", "vg_qa_one_obj", "vg_qa_two_obj")
_LONGEST_NAME = 255  # of a file; the time of the pattern grows with the square of the length
IMAGE_NAME = re.compile(r"(?P<first>.+)_(?P<relation>left_of|right_of|on|under|in-front_of|behind)_(?P<second>.+)\.\w+")


def read(folder: Path) -> Benchmark:
    """Reads ``whatsup/*.json``, ``whatsup/controlled_images/``, ``whatsup/controlled_clevr/``,
    ``whatsup/vg_images/`` and ``coco/val2017/``.
    """
    problems: list[str] = []
    items = [item for subset in CONTROLLED for item in _controlled(folder / "whatsup", subset, problems)]
    items += [item for file in QUESTIONS for item in _questions(folder, file, problems)]
    metrics = [Metric(f"whatsup/{subset}", "right", where=("subset", subset)) for subset in (*CONTROLLED, *QUESTIONS)]
    for subset in CONTROLLED:
        metrics += [Metric(f"whatsup/{subset}/{size}", size, where=("subset", subset)) for size in ("pair", "set")]
    metrics += by_value("whatsup/relation", "right", "relation", items)
    return Benchmark(
        "whatsup",
        items,
        outcomes,
        metrics,
        4_958,
        problems,
        true_captions=1,
        together=SOURCE.together,
        chance={**rules.FIRST, "pair": 1 / 4**2, "set": 1 / 4**4},
    )


def _controlled(root: Path, subset: str, problems: list[str]) -> list[Item]:
    file, pairs = CONTROLLED[subset]
    images = Folder(root)

    def item(key: str, row: Record) -> Item:
        path = PurePosixPath(row["image_path"])
        name = IMAGE_NAME.fullmatch(path.name) if len(path.name) <= _LONGEST_NAME else None
        options = tuple(row["caption_options"])
        if name is None or len(options) != 4 or not all(isinstance(option, str) for option in options):
            raise BenchmarkError("expected image_path .../<object>_<relation>_<object>.jpeg and four caption_options")
        image = images.image("/".join(path.parts[-2:]))  # official paths start with the authors' data folder
        relation, scene = name["relation"], f"{subset}/{name['first']}/{name['second']}"
        pair = next((n for n, pair in enumerate(pairs) if relation in pair), None)
        tags = {"subset": subset, "relation": relation, "set": scene, "pair": f"{scene}/{pair}"}
        return Item(f"{subset}/{key}", (image,), options, tags)

    fields = {"image_path": str, "caption_options": list}
    return read_items(file, numbered(load_json(root / file, list)), fields, item, problems)


def _questions(folder: Path, file: str, problems: list[str]) -> Iterator[Item]:
    image = _question_image(folder, file)
    for n, row in enumerate(load_json(folder / "whatsup" / f"{file}.json", list)):
        try:
            valid = isinstance(row, list) and len(row) == 3 and all(isinstance(caption, str) for caption in row[1:])
            if not valid or unusable(row):
                raise BenchmarkError(f"is {row!a:.80}, expected [image_id, true caption, false caption]")
            yield Item(f"{file}/{n}", (image(str(row[0])),), tuple(row[1:]), {"subset": file})
        except BenchmarkError as error:
            problems.append(f"{file}.json record {n}: {error}")


def _question_image(folder: Path, file: str) -> Callable[[str], Image]:
    if file.startswith("coco"):
        coco = Folder(folder / "coco" / "val2017")
        return lambda image_id: coco.image(f"{image_id.zfill(12)}.jpg")
    visual_genome = Folder(folder / "whatsup" / "vg_images", "visual_genome")
    return lambda image_id: visual_genome.image(f"{image_id}.jpg")


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """``pair`` and ``set``: the whole pair (left and right of the same objects) and the whole set of four are right.

    As published, a pair or set with a missing image is wrong, and the share is over the number of images.
    """
    judged = rules.first_of_many(items, cosines)
    for tag, size in (("pair", 2), ("set", 4)):
        right: dict[str, list[bool]] = {}
        for item, correct in zip(items, judged["right"], strict=True):
            if tag in item.tags:
                right.setdefault(str(item.tags[tag]), []).append(bool(correct))
        whole = {key: float(all(correct) and len(correct) == size) for key, correct in right.items()}
        judged[tag] = np.array([whole[str(item.tags[tag])] if tag in item.tags else np.nan for item in items])
    return judged
