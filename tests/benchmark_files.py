"""Small benchmark folders in the official file formats, with generated images."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from naturel_jax.benchmarks.sugarcrepe import SUBSETS


def png(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """A PNG of ``size`` (width, height) with smooth noise that depends on ``seed``."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(buffer, "png")
    return buffer.getvalue()


def write(path: Path, data) -> None:
    """Writes bytes unchanged and anything else as JSON; creates parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def winoground(root: Path, items: int = 4, **changes) -> list[dict]:
    """Writes ``items`` items; ``changes`` override fields of the first one. Returns the rows."""
    objects = ("cat", "dog", "cup", "tree")
    rows = [
        {
            "id": n,
            "image_0": f"ex_{n}_img_0",
            "image_1": f"ex_{n}_img_1",
            "caption_0": f"a {objects[n % 4]} on a box {n}",
            "caption_1": f"a box on a {objects[n % 4]} {n}",
            "tag": "Noun",
            "secondary_tag": "",
            "num_main_preds": 1,
            "collapsed_tag": ("Object", "Relation", "Both")[n % 3],
        }
        for n in range(items)
    ]
    if changes:
        rows[0] |= changes
    write(root / "winoground/data/examples.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    with zipfile.ZipFile(root / "winoground/images.zip", "w") as archive:
        for n in range(items):
            for k in (0, 1):
                archive.writestr(f"images/ex_{n}_img_{k}.png", png(2 * n + k))
    return rows


def visual_genome(root: Path, items: int = 6) -> tuple[list[dict], list[dict]]:
    """VG-Relation (including the excluded relation ``near``) and VG-Attribution, over three images."""
    box = {"bbox_x": 4, "bbox_y": 2, "bbox_w": 40, "bbox_h": 30}
    relation, attribution = [], []
    for n in range(items):
        name = ("on", "under", "near")[n % 3]
        pair = {"image_id": str(n % 3), "image_path": f"{n % 3}.png"} | box
        relation.append(
            pair
            | {
                "true_caption": f"the cat is {name} the box {n}",
                "false_caption": f"the box is {name} the cat {n}",
                "relation_name": name,
                "relation_info": {"object": "2", "name": name},
                "primary_object_id": "1",
                "primary_object_name": "cat",
            }
        )
        attribution.append(
            pair
            | {
                "true_caption": f"the red cat and the small box {n}",
                "false_caption": f"the small cat and the red box {n}",
                "attributes": ["red", "small"],
            }
        )
    write(root / "aro/visual_genome_relation.json", relation)
    write(root / "aro/visual_genome_attribution.json", attribution)
    write(root / "aro/vgr_excluded_relations.json", ["near"])
    for n in range(3):
        write(root / f"aro/images/{n}.png", png(100 + n))
    return relation, attribution


def sugarcrepe(root: Path, items: int = 3) -> None:
    """SugarCrepe's seven files, with ``items`` records each, over five images."""
    for k, name in enumerate(SUBSETS):
        rows = {
            str(n): {
                "filename": f"{(k + n) % 5:012d}.png",
                "caption": f"a cat with a hat {name} {n}",
                "negative_caption": f"a hat with a cat {name} {n}",
            }
            for n in range(items)
        }
        write(root / f"sugarcrepe/{name}.json", rows)
    for n in range(5):
        write(root / f"coco/val2017/{n:012d}.png", png(200 + n))
