"""ImageCoDe: which of ten similar images, most of them frames of one video, a description means (Krojer et al.,
ACL 2022, arXiv 2203.15867). The validation split; the labels of the test split are not public.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Item, Metric, Origin, Overlap, Source, Verified
from naturel_jax.benchmarks.files import MAX_ID, BenchmarkError, Folder, Record, load_json, read_items, safe_name

FILE = "imagecode/valid_data.json"
SETS = "imagecode/image-sets"
CANDIDATES = 10
_FILES = "https://raw.githubusercontent.com/McGill-NLP/imagecode/609f07611aed2599f946c30d730f40a41af1079b/data"
_PAPER = "https://arxiv.org/abs/2203.15867"


def read(folder: Path) -> Benchmark:
    """Reads ``FILE`` and ``imagecode/image-sets/<set>/img<number>.jpg``, in the order of their numbers."""
    images = Folder(folder / SETS)
    candidates_of = functools.cache(functools.partial(_candidates, images.root))

    def item(key: str, row: Record) -> Item:
        names = candidates_of(row["set"])
        if not re.fullmatch("[0-9]", row["answer"]):
            raise BenchmarkError(f"image {row['answer']!r:.80} is described; expected a number below {CANDIDATES}")
        candidates = rules.true_first([images.image(name) for name in names], int(row["answer"]))
        tags = {"answer": row["answer"], "kind": "static" if "open-images" in row["set"] else "video"}
        return Item(key, candidates, (row["caption"].strip(),), tags)

    problems: list[str] = []
    fields = {"set": str, "answer": str, "caption": str}
    items = read_items("valid_data.json", _rows(load_json(folder / FILE, dict)), fields, item, problems)
    metrics = (
        Metric("imagecode/accuracy", "right"),
        *(Metric(f"imagecode/{kind}", "right", where=("kind", kind)) for kind in ("static", "video")),
    )
    return Benchmark("imagecode", items, rules.first_of_many, metrics, 2_302, problems, chance=rules.FIRST)


def _rows(sets: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(id, record) of every description: the file maps sets to image numbers to descriptions."""
    for name, described in sets.items():
        if not isinstance(described, dict) or len(name) > MAX_ID:
            yield name, described
            continue
        for answer, caption in described.items():
            yield f"{name}/{answer}", {"set": name, "answer": answer, "caption": caption}


def _candidates(root: Path, name: str) -> list[str]:
    """Paths of a set's images. Raises BenchmarkError unless there are ten."""
    folder = root / safe_name(name)
    try:
        numbered = {
            int(m[1]): path.name for path in folder.iterdir() if (m := re.fullmatch(r"img(\d+)\.jpg", path.name))
        }
    except OSError as error:
        raise BenchmarkError(f"image set {name!r:.80} is not in {root} ({error.strerror})") from error
    if len(numbered) != CANDIDATES:
        raise BenchmarkError(
            f"image set {name!r:.80} has {len(numbered)} images img<number>.jpg, expected {CANDIDATES}"
        )
    return [f"{name}/{numbered[number]}" for number in sorted(numbered)]


SOURCE = Source(
    "MIT; images under the licences of their datasets",
    "https://github.com/McGill-NLP/imagecode; image-sets.zip from https://zenodo.org/record/6518944",
    f"{FILE}, {SETS}/",
    {FILE: f"{_FILES}/valid_data.json"},
    origins=(
        Origin("Open Images", _PAPER, (Overlap("Open Images", "the same images; the split is not stated"),)),
        Origin("MSR-VTT, Video Storytelling, YouCook", _PAPER),
    ),
    verified=Verified("cb4b8482354ba9bac62b6e101f145f9e59722dcf3b3fd42583f5b6de12bc698a", 2_302, "2026-11-29"),
)
