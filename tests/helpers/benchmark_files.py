"""Small benchmark folders in the official file formats, with generated images."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from naturel_jax.benchmarks.sugarcrepe import SUBSETS
from naturel_jax.benchmarks.valse import IMAGES


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


def karpathy(root: Path, file: str, images: str) -> None:
    """Karpathy's test split in ``root/file``: three images with two captions each, in the folder ``images``."""
    rows = [{"image": f"{images}/{n}.png", "caption": [f"a cat on box {n} {k}" for k in "ab"]} for n in range(3)]
    write(root / file, rows)
    for n in range(3):
        write((root / file).parent / images / f"{n}.png", png(n))


def whatsup(root: Path) -> None:
    """What'sUp's controlled images and its questions about COCO and Visual Genome."""
    options = ["a mug on a table", "a mug under a table", "a mug left of a table", "a mug right of a table"]
    for name in ("images", "clevr"):
        paths = [f"data/controlled_{name}/mug_{relation}_table.png" for relation in ("left_of", "right_of", "on")]
        rows = [{"image_path": path, "caption_options": options} for path in paths]
        write(root / f"whatsup/controlled_{name}_dataset.json", rows)
        for path in paths:
            write(root / "whatsup" / path.removeprefix("data/"), png(1))
    for source in ("coco", "vg"):
        for number in ("one", "two"):
            write(root / f"whatsup/{source}_qa_{number}_obj.json", [[785, "a cat left", "a cat right"]])
    write(root / "coco/val2017/000000000785.jpg", png(1))
    write(root / "whatsup/vg_images/785.jpg", png(2))


def sugarcrepe_pp(root: Path) -> None:
    """SugarCrepe++'s five files, with one record each."""
    row = {"id": 7, "filename": "a.png", "caption": "p1", "caption2": "p2", "negative_caption": "n"}
    for name in ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel"):
        write(root / f"sugarcrepe_pp/{name}.json", [row])
    write(root / "coco/val2017/a.png", png(1))


def hub_pairs(root: Path, name: str, columns: tuple[str, ...]) -> None:
    """A Parquet file of two rows: two images, two captions, two tags."""
    cells = [{"bytes": png(k), "path": None} for k in (1, 2)]
    row = dict(zip(columns, [*cells, "red cat", "blue cat", "swap", "swap_att"], strict=True))
    (root / name).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row, row]), root / name / "test-00000.parquet")


def eqben(root: Path) -> None:
    """EqBen's two kinds of annotation files, with an image stored as an array."""
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((8, 6, 3), np.uint8))
    write(root / "eqben/images/eqbenag/0.npy", buffer.getvalue())
    write(root / "eqben/images/eqbenyoucook2/1.png", png(1))
    row = {"image0": "eqbenyoucook2/1.png", "image1": "eqbenyoucook2/1.png", "caption0": "a", "caption1": "b"}
    listed = {"image0": "eqbenag/0.npy", "image1": "eqbenag/0.npy", "caption0": ["first", "2nd"], "caption1": ["b"]}
    write(root / "eqben/all_select.json", [row])
    write(root / "eqben/ann_ag.json", {"video": {"person": [listed]}})


def valse(root: Path) -> None:
    """VALSE's files, all but one empty."""
    for name in IMAGES:
        write(root / f"valse/data/{name}.json", {})
    row = {"image_file": "a.png", "caption": "there are cats", "foil": "there are no cats"}
    votes = {str(n): row | {"mturk": {"caption": n, "foil": 3 - n, "other": 0}} for n in range(4)}
    write(root / "valse/data/existence.json", votes)
    write(root / "valse/images/visual7w/a.png", png(1))


def vsr(root: Path) -> None:
    """VSR's two splits, two records each."""
    rows = [{"image": "a.png", "caption": "The cat is left of the dog.", "label": n, "relation": "on"} for n in (0, 1)]
    for split in ("dev", "test"):
        write(root / f"vsr/{split}.jsonl", "\n".join(json.dumps(row) for row in rows).encode())
    write(root / "vsr/images/a.png", png(1))


def zeroshot(root: Path) -> None:
    """A folder of two classes, with prompts."""
    for label in ("cat", "dog"):
        write(root / f"zeroshot/pets/{label}/0.png", png(1))
    write(root / "zeroshot/pets/templates.txt", b"a photo of a {}.\na drawing of a {}.\n")
