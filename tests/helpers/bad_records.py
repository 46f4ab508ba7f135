"""Benchmark folders in which most records are bad: those of ``benchmark_files``, and copies of the first record of each
file with every kind of fault."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers import benchmark_files as files

DEEP: list = []
for _ in range(400):
    DEEP = [DEEP]

VALUES = (
    *(None, True, -1, 7, 10**18, 0.5, -1e308, float("nan"), float("inf")),
    *("", " ", ".", "..", "/etc/passwd", "../x.png", "a\0b", "a\nb", "x" * 5000, "\ud83d", "\u202e", "<script>"),
    *("none.png", [], {}, [1], ["a"], ["a", 1], ["\ud83d", "b"], {"a": 1}, {"caption": "x"}, {"bytes": "x"}, DEEP),
)
RECORDS = (*VALUES, {"a": "b"})
FILES = {  # benchmark -> the files with its records; those of Parquet and of images are damaged below
    **{"winoground": "winoground/data/*.jsonl", "vg_relation": "aro/visual_genome_*.json", "vsr": "vsr/*.jsonl"},
    **{"vg_attribution": "aro/visual_genome_*.json", "sugarcrepe": "sugarcrepe/*", "whatsup": "whatsup/*.json"},
    **{"coco_order": "coco/*.json", "coco_retrieval": "coco/*.json", "sugarcrepe_pp": "sugarcrepe_pp/*"},
    **{"cola": "cola/*.json", "imagecode": "imagecode/*.json", "negrefcocog": "negrefcocog/*.json"},
    **{"hard_positives_replace": "hard_positives/*/vl*.json", "vl_checklist": "vl_checklist/data/**/*.json"},
    **dict.fromkeys(("negbench_coco", "negbench_coco_retrieval"), "negbench/COCO_val_[mr]*"),
    **{"crepe_atom": "crepe/*/atom/*_4.csv", "spec_image_to_text": "spec/count/image*.json"},
    **{"bla": "bla/annotations/c*.json", "crossmodal3600_en": "crossmodal3600/*.jsonl"},
    **{"eqben": "eqben/all*.json", "valse": "valse/data/existence.json", "bivlc": "", "urban1k": "", "zeroshot": ""},
    **{"sdci": "", "dci_retrieval": ""},
}


def bad(good: Any) -> Iterator[Any]:
    """Every kind of fault in a record: another type, and for each field a missing or another value. An ``id`` that is
    not the fault is a new one."""
    yield from RECORDS
    numbers = itertools.count(100)
    fields = list(good) if isinstance(good, dict) else range(len(good))
    for field in fields:
        fresh = lambda: {"id": next(numbers)} if isinstance(good, dict) and "id" in good and field != "id" else {}  # noqa: B023, E731
        if isinstance(good, dict):
            yield {name: value for name, value in (good | fresh()).items() if name != field}
        for value in VALUES:
            copy = good | fresh() if isinstance(good, dict) else list(good)
            copy[field] = value
            yield copy


def spoil(path: Path) -> None:
    """Adds the bad records to a file."""
    if path.suffix == ".jsonl":
        rows = list(map(json.loads, path.read_text().splitlines()))
        files.write(path, files.lines([*rows, *bad(rows[0])]))
    elif path.suffix == ".csv":
        text = path.read_text()
        header, first = csv.reader(text.splitlines()[:2])
        faults = [*bad(dict(zip(header, first, strict=True))), {}]
        cells = [row.values() if isinstance(row, dict) else [row] for row in faults]
        with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
            file.write(f"{text}\n")
            csv.writer(file).writerows(cells)
    elif isinstance(records := json.loads(path.read_text()), list):
        files.write(path, [*records, *bad(records[0])])
    else:  # under new keys, of which some cannot be printed
        keyed = {f"bad{n}": row for n, row in enumerate(bad(next(iter(records.values()))))}
        files.write(path, records | keyed | {"\ud83d": 1, "a\nb": 2, "x" * 5000: 3, "": 4})


def eqben(root: Path) -> None:
    """Images that cannot be read, and annotations that are nested too deeply."""
    data = files.array(np.zeros((8, 6, 3), np.uint8))
    for n, content in enumerate((b"", b"\x93NUMPY", data[:100], data[:-5], b"PK\3\4")):
        files.write(root / f"eqben/images/s/{n}.npy", content)
    row = json.loads((root / "eqben/all_select.json").read_text())[0]
    files.write(root / "eqben/unreadable.json", [row | {"image1": f"s/{n}.npy"} for n in range(5)])
    files.write(root / "eqben/nested.json", {"video": {"person": [row, DEEP]}, "\ud83d": [1], "deep": DEEP})


def hub_pairs(root: Path, name: str) -> None:
    """Missing cells, an image that is none, and a string that is not UTF-8, which Parquet stores as it is."""
    files.hub_pairs(root, name, *({k: None} for k in range(4)), {0: {"bytes": b"no", "path": ""}}, {2: "INVALID"})
    path, column = root / name / "test-00000.parquet", files.HUB_COLUMNS[name][2]
    table = pq.read_table(path)
    texts = pa.array([t and (b"\xff\xfe" if t == "INVALID" else t.encode()) for t in table[column].to_pylist()])
    invalid = pa.StringArray.from_buffers(len(texts), texts.buffers()[1], texts.buffers()[2], texts.buffers()[0])
    pq.write_table(table.set_column(2, column, invalid), path)


def make(name: str, root: Path) -> int:
    """Writes the files of a benchmark, and damages them; returns the number of its good items."""
    if name in files.HUB_COLUMNS:
        hub_pairs(root, name)
        return 1
    files.MAKERS[name](root)
    if name == "zeroshot":
        files.write(root / "zeroshot/pets/cat/broken.png", b"no")
    if name in ("sdci", "dci_retrieval"):
        folder = root / "sdci" / ("complete" if name == "sdci" else "annotations")
        good = json.loads((folder / "0.json").read_text())
        names = [f"{n}.json" for n, row in enumerate(bad(good)) if files.write(folder / f"{n}.json", row) is None]
        files.write(root / "sdci/splits.json", {"test": [*names, "../x.json", "none.json"]})
        files.write(folder / "0.json", good)
    if name == "urban1k":
        for n, content in enumerate((b"\xff", b"\nlater", b"no image")):
            files.write(root / f"urban1k/caption/bad{n}.txt", content)
    for path in root.glob(FILES[name]) if FILES[name] else ():
        spoil(path)
    if name == "eqben":
        eqben(root)
    return {
        "crepe_atom": 18,
        "spec_image_to_text": 12,
        "bla": 6,
        "sugarcrepe": 21,
        "sugarcrepe_pp": 5,
        "whatsup": 12,
        "vsr": 4,
        "vl_checklist": 6,
    }.get(name, 2)
