"""VSR: is this spatial statement true of the picture? (Liu et al., TACL 2023, arXiv 2205.00363)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Outcomes, by_value
from naturel_jax.benchmarks.files import BenchmarkError, Folder, load_json_lines, records

FIELDS = {"image": str, "caption": str, "label": int, "relation": str}


def read(folder: Path) -> Benchmark:
    """From ``vsr/dev.jsonl``, ``vsr/test.jsonl`` (of either published split) and ``vsr/images/``.

    A statement is called true when its cosine is above a threshold: the one that is right most often on the dev
    split, so the test split stays unseen.
    """
    root = folder / "vsr"
    images, problems, items = Folder(root / "images"), [], []
    for split in ("dev", "test"):
        rows = ((str(n), row) for n, row in enumerate(load_json_lines(root / f"{split}.jsonl")))
        for key, row in records(f"{split}.jsonl", rows, FIELDS, problems):
            try:
                if row["label"] not in (0, 1):
                    raise BenchmarkError(f"field 'label' is {row['label']}, expected 0 or 1")
                image = images.image(row["image"])
            except BenchmarkError as error:
                problems.append(f"{split}.jsonl record {key}: {error}")
                continue
            tags = {"split": split, "label": str(row["label"]), "relation": row["relation"]}
            items.append(Item(f"{split}/{key}", (image,), (row["caption"],), tags))
    tested = [item for item in items if item.tags["split"] == "test"]
    metrics = (Metric("vsr/accuracy", "right"), *by_value("vsr/relation", "right", "relation", tested))
    return Benchmark("vsr", tuple(items), outcomes, metrics, problems=tuple(problems))


def outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Right or wrong for items of the test split, NaN for the others."""
    s = np.array([float(matrix[0, 0]) for matrix in cosines])
    label = np.array([item.tags["label"] == "1" for item in items])
    dev = np.array([item.tags["split"] == "dev" for item in items])
    right = ((s > best_threshold(s[dev], label[dev])) == label).astype(float)
    return {"right": np.where(dev, np.nan, right)}


def best_threshold(s: np.ndarray, label: np.ndarray) -> float:
    """The midpoint between neighbouring values of ``s`` that splits true from false with the fewest errors, the
    lowest of several.
    """
    values = np.unique(s)
    between = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    right = [np.mean((s > threshold) == label) for threshold in between]
    return float(between[int(np.argmax(right))]) if len(s) else 0.0
