"""SugarCrepe++: two captions that say the same and one that does not, with and without the image (Dumpala et al.,
arXiv 2406.11171).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Outcomes
from naturel_jax.benchmarks.files import BenchmarkError, Folder, load_json, records

FIELDS = {"id": (int, str), "filename": str, "caption": str, "caption2": str, "negative_caption": str}
SUBSETS = ("swap_obj", "swap_att", "replace_obj", "replace_att", "replace_rel")


def read(folder: Path) -> Benchmark:
    """From the five ``sugarcrepe_pp/<subset>.json`` and ``coco/val2017/``."""
    images, problems, items = Folder(folder / "coco" / "val2017"), [], []
    for subset in SUBSETS:
        rows = load_json(folder / "sugarcrepe_pp" / f"{subset}.json", list)
        keyed = ((row.get("id", n) if isinstance(row, dict) else n, row) for n, row in enumerate(rows))
        for key, row in records(f"{subset}.json", keyed, FIELDS, problems):
            try:
                image = images.image(row["filename"])
            except BenchmarkError as error:
                problems.append(f"{subset}.json record {key}: {error}")
                continue
            captions = (row["caption"], row["caption2"], row["negative_caption"])
            items.append(Item(f"{subset}/{key}", (image,), captions, {"subset": subset}, caption_rows=True))
    metrics = [
        Metric(f"sugarcrepe_pp/{task}/{subset}", task, where=("subset", subset))
        for task in ("image_to_text", "text_only")
        for subset in SUBSETS
    ]
    return Benchmark(
        "sugarcrepe_pp",
        tuple(items),
        _outcomes,
        tuple(metrics),
        published=4_757,
        problems=tuple(problems),
        true_captions=2,
    )


def _outcomes(items: Sequence[Item], cosines: Sequence[np.ndarray]) -> Outcomes:
    """Rows are image, first, second, negative caption; columns the three captions. All strict."""
    s = np.stack(cosines)
    image = (s[:, 0, 0] > s[:, 0, 2]) & (s[:, 0, 1] > s[:, 0, 2])
    text = (s[:, 1, 1] > s[:, 1, 2]) & (s[:, 1, 1] > s[:, 2, 2])
    return {"image_to_text": image.astype(float), "text_only": text.astype(float)}
