"""Benchmark folders in which most records are bad: each good record, and copies of it with every kind of fault."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from naturel_jax.benchmarks import valse
from naturel_jax.benchmarks.sugarcrepe_pp import SUBSETS
from tests.helpers import benchmark_files as files

DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]

VALUES = (
    *(None, True, -1, 7, 10**18, 0.5, -1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        ".",
        "..",
        "/etc/passwd",
        "../x.png",
        "a\0b",
        "a\nb",
        "x" * 5000,
        "\ud83d",
        "\u202e",
        "<script>",
        "none.png",
    ),
    *([], {}, [1], ["a"], ["a", 1], ["\ud83d", "b"], {"a": 1}, {"caption": "x"}, {"bytes": "x"}, DEEP),
)
RECORDS = (*VALUES, {"a": "b"})


def bad(good: Any) -> Iterator[Any]:
    """Every kind of fault in a record: another type, and for each field a missing or another value."""
    yield from RECORDS
    fields = list(good) if isinstance(good, dict) else range(len(good))
    for field in fields:
        if isinstance(good, dict):
            yield {name: value for name, value in good.items() if name != field}
        for value in VALUES:
            copy = dict(good) if isinstance(good, dict) else list(good)
            copy[field] = value
            yield copy


def _lines(rows: list[Any]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _keyed(good: dict[str, Any]) -> dict[str, Any]:
    """A JSON object of records, with the bad ones under new keys, and some keys that cannot be printed."""
    faults = dict(enumerate(bad(next(iter(good.values())))))
    odd = {"\ud83d": 1, "a\nb": 2, "x" * 5000: 3, "": 4}
    return good | {f"bad{n}": row for n, row in faults.items()} | odd


def winoground(root: Path) -> int:
    rows = files.winoground(root, items=3)
    numbered = [
        row | {"id": 100 + n} if isinstance(row, dict) and row.get("id") == 0 else row
        for n, row in enumerate(bad(rows[0]))
    ]
    files.write(root / "winoground/data/examples.jsonl", _lines([*rows, *numbered]))
    return 3


def aro(root: Path) -> int:
    for name, rows in zip(("relation", "attribution"), files.visual_genome(root, items=3), strict=True):
        files.write(root / f"aro/visual_genome_{name}.json", [*rows, *bad(rows[0])])
    return 3


def sugarcrepe(root: Path) -> int:
    files.sugarcrepe(root, items=2)
    for path in (root / "sugarcrepe").iterdir():
        files.write(path, _keyed(json.loads(path.read_text())))
    return 14


def sugarcrepe_pp(root: Path) -> int:
    row = {"id": 7, "filename": "a.png", "caption": "p1", "caption2": "p2", "negative_caption": "n"}
    faults = [r | {"id": f"bad{n}"} if isinstance(r, dict) and r.get("id") == 7 else r for n, r in enumerate(bad(row))]
    for name in SUBSETS:
        files.write(root / f"sugarcrepe_pp/{name}.json", [row, *faults])
    files.write(root / "coco/val2017/a.png", files.png(1))
    return len(SUBSETS)


def vsr(root: Path) -> int:
    row = {"image": "a.png", "caption": "The cat is left of the dog.", "label": 1, "relation": "left of"}
    for split in ("dev", "test"):
        files.write(root / f"vsr/{split}.jsonl", _lines([row, row | {"label": 0}, *bad(row)]))
    files.write(root / "vsr/images/a.png", files.png(1))
    return 4


def valse_(root: Path) -> int:
    row = {"image_file": "a.png", "caption": "a", "foil": "b", "mturk": {"caption": 3}}
    for name in valse.IMAGES:
        files.write(root / f"valse/data/{name}.json", _keyed({"good": row}))
        files.write(root / valse.image_path(name, "a.png"), files.png(1))
    return len(valse.IMAGES)


def whatsup(root: Path) -> int:
    for file in ("controlled_images", "controlled_clevr"):
        name = f"data/{file}/mug_left_of_table.jpeg"
        row = {"image_path": name, "caption_options": ["a", "b", "c", "d"]}
        files.write(root / f"whatsup/{file}_dataset.json", [row, *bad(row)])
        files.write(root / "whatsup" / name.removeprefix("data/"), files.png(1))
    for file in ("coco_qa_one_obj", "coco_qa_two_obj", "vg_qa_one_obj", "vg_qa_two_obj"):
        question = [785, "a cat left", "a cat right"]
        files.write(root / f"whatsup/{file}.json", [question, *bad(question)])
    files.write(root / "coco/val2017/000000000785.jpg", files.png(1))
    files.write(root / "whatsup/vg_images/785.jpg", files.png(2))
    return 6


def eqben(root: Path) -> int:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((8, 6, 3), np.uint8))
    for n, content in enumerate((b"", b"\x93NUMPY", buffer.getvalue()[:100], buffer.getvalue()[:-5], b"PK\3\4")):
        files.write(root / f"eqben/images/s/{n}.npy", content)
    files.write(root / "eqben/images/s/a.png", files.png(1))
    row = {"image0": "s/a.png", "image1": "s/a.png", "caption0": "a", "caption1": "b"}
    unreadable = [row | {"image1": f"s/{n}.npy"} for n in range(5)]
    files.write(root / "eqben/all.json", [row, *bad(row), *unreadable])
    files.write(root / "eqben/nested.json", {"video": {"person": [row, DEEP]}, "\ud83d": [1], "deep": DEEP})
    return 2


def karpathy(root: Path) -> int:
    row = {"image": "val2014/a.png", "caption": ["A big dog sees the cats.", "Two cats"]}
    files.write(root / "coco/coco_karpathy_test.json", [row, *bad(row)])
    files.write(root / "coco/val2014/a.png", files.png(1))
    return 1


def hub_pairs(root: Path) -> int:
    cell = {"bytes": files.png(1), "path": None}
    for name, columns in {
        "bivlc": ("image", "negative_image", "caption", "negative_caption", "type", "subtype"),
        "colorswap": ("image_1", "image_2", "caption_1", "caption_2", "image_source", "caption_source"),
    }.items():
        row = dict(zip(columns, [cell, cell, "red cat", "blue cat", "swap", "swap_att"], strict=True))
        rows = [
            row,
            *(row | {column: None} for column in columns[:4]),
            row | {columns[0]: {"bytes": b"no", "path": ""}},
        ]
        table = pa.Table.from_pylist([*rows, row | {columns[2]: "INVALID"}])
        # A string that is not UTF-8, which Parquet stores as it is.
        texts = pa.array([t and (b"\xff\xfe" if t == "INVALID" else t.encode()) for t in table[columns[2]].to_pylist()])
        invalid = pa.StringArray.from_buffers(len(texts), texts.buffers()[1], texts.buffers()[2], texts.buffers()[0])
        (root / name).mkdir(parents=True)
        pq.write_table(table.set_column(2, columns[2], invalid), root / name / "test-0.parquet")
    return 1


def zeroshot(root: Path) -> int:
    for n, name in enumerate(("cat", "dog")):
        files.write(root / f"zeroshot/mine/{name}/{n}.png", files.png(n))
        files.write(root / f"zeroshot/mine/{name}/broken.png", b"no")
    return 2


MADE: dict[str, Callable[[Path], int]] = {  # benchmark -> makes its files; returns the number of good items
    "winoground": winoground,
    "vg_relation": aro,
    "vg_attribution": aro,
    "sugarcrepe": sugarcrepe,
    "coco_order": karpathy,
    "whatsup": whatsup,
    "sugarcrepe_pp": sugarcrepe_pp,
    "bivlc": hub_pairs,
    "colorswap": hub_pairs,
    "eqben": eqben,
    "valse": valse_,
    "vsr": vsr,
    "coco_retrieval": karpathy,
    "zeroshot": zeroshot,
}
