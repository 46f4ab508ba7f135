"""DCI: retrieval by whole descriptions, of which a text tower sees the beginning (Urbanek et al., CVPR 2024, arXiv
2312.08578). Its paper scores summaries only (``sdci``); the rule is that of LoTLIP (Wu et al., NeurIPS 2024,
github.com/wuw2019/LoTLIP, dataloaders/dci_retrieval.py:14-47, b3a369c).
"""

import dataclasses
import re
from pathlib import Path

from naturel_jax.benchmarks import retrieval, sdci
from naturel_jax.benchmarks.benchmark import Benchmark
from naturel_jax.benchmarks.files import (
    BenchmarkError,
    Folder,
    load_json,
    not_found,
    report,
    require_strings,
    safe_name,
)
from tfds_naturel.common.errors import UserError

SOURCE = dataclasses.replace(sdci.SOURCE, needs="sdci/splits.json, sdci/annotations/, sdci/photos/")


def read(folder: Path) -> Benchmark:
    """Reads the files in ``sdci/annotations/`` of all splits in ``sdci/splits.json``, and ``sdci/photos/``."""
    root = folder / "sdci"
    names, photos = sdci.file_names(root), Folder(root / "photos")
    if not (root / "annotations").is_dir():
        raise not_found(root / "annotations")
    found, problems = [], list[str]()
    for name in names:
        try:
            path = root / "annotations" / safe_name(name)
            (row,) = require_strings(path, [load_json(path, dict)], "image", "short_caption", "extra_caption")
            if not (text := description(row["short_caption"], row["extra_caption"])):
                raise BenchmarkError("has no description")
            found.append((name, photos.image(row["image"]), [text]))
        except (UserError, OSError) as error:
            report(problems, f"annotations/{name!a:.80}: {error}")
    return retrieval.benchmark("dci_retrieval", found, 7_805, problems)


def description(short: str, extra: str) -> str:
    """Both captions as one, the sentences of all lines joined by ``. ``."""
    parts = (part.strip() for part in re.split(r"\n|</s>|[.]", f"{short}\n{extra}"))
    return ". ".join(filter(None, parts))
