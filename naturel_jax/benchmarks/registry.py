"""All benchmarks by name. A new one is one file and one line here, or an entry point of another package
(``plugins.py``); user-defined ones need no code (``own.py``).
"""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from naturel_jax.benchmarks import (
    dci,
    eqben,
    hard_positives,
    hub_pairs,
    imagecode,
    naturel_contrast,
    naturel_exchanged,
    naturel_pairs,
    naturel_reworded,
    negbench,
    negrefcocog,
    order,
    own,
    retrieval,
    sdci,
    sugarcrepe,
    sugarcrepe_pp,
    suites,
    urban1k,
    valse,
    vg_attribution,
    vg_relation,
    vl_checklist,
    vsr,
    whatsup,
    winoground,
    zeroshot,
)
from naturel_jax.benchmarks.benchmark import Benchmark, Source
from naturel_jax.config import own_benchmarks
from naturel_jax.config.own_benchmarks import BenchmarkFields
from naturel_jax.config.plugins import Registry
from naturel_jax.data.items import prepared
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import version_of
from tfds_naturel.scenes.scene import CONFIGS as WORLDS


class Reader(Protocol):
    """The interface of a benchmark's module, or of an ``Entry`` where several share one."""

    @property
    def SOURCE(self) -> Source:
        """The benchmark's origin."""
        ...

    @property
    def read(self) -> Callable[[Path], Benchmark]:
        """The benchmark in a folder. Raises FileNotFoundError for missing files and UserError for broken ones."""
        ...


_ROWS: dict[str, Reader] = {
    "naturel": naturel_pairs.TEST,
    "naturel_unseen": naturel_pairs.UNSEEN,
    "naturel_contrast": naturel_contrast,
    "naturel_reworded": naturel_reworded,
    "naturel_bindings": naturel_exchanged.BINDINGS,
    "naturel_positions": naturel_exchanged.POSITIONS,
    "winoground": winoground,
    "vg_relation": vg_relation,
    "vg_attribution": vg_attribution,
    "sugarcrepe": sugarcrepe,
    "coco_order": order.COCO,
    "flickr30k_order": order.FLICKR30K,
    "whatsup": whatsup,
    "sugarcrepe_pp": sugarcrepe_pp,
    "bivlc": hub_pairs.BIVLC,
    "colorswap": hub_pairs.COLORSWAP,
    "eqben": eqben,
    "valse": valse,
    "vsr": vsr,
    "vismin": hub_pairs.VISMIN,
    "imagecode": imagecode,
    "vl_checklist": vl_checklist,
    "hard_positives_replace": hard_positives.REPLACE,
    "hard_positives_swap": hard_positives.SWAP,
    "negrefcocog": negrefcocog,
    **negbench.ENTRIES,
    **suites.ENTRIES,
    "sdci": sdci,
    "dci_retrieval": dci,
    "urban1k": urban1k,
    "coco_retrieval": retrieval.COCO,
    "flickr30k_retrieval": retrieval.FLICKR30K,
    "zeroshot": zeroshot,
    "zeroshot_siglip": zeroshot.SIGLIP,
}


def _is_reader(row: object) -> bool:
    return isinstance(getattr(row, "SOURCE", None), Source) and callable(getattr(row, "read", None))


BENCHMARKS: Registry[Reader] = Registry(
    "naturel_jax.benchmarks", _ROWS, "a module with SOURCE and read (docs/extending.md)", _is_reader
)


def reads_dataset(name: str) -> bool:
    """Whether the benchmark reads a prepared TFDS folder, not the folder of official files."""
    return name in BENCHMARKS and BENCHMARKS[name].SOURCE.prepared


def together(name: str) -> str:
    """The tag that items share which are scored together (``Benchmark.together``), of the benchmark that results call
    ``name``; "" if there is none."""
    return BENCHMARKS[name].SOURCE.together if name in BENCHMARKS else ""


def is_drawn(name: str, naturel: str, benchmarks_dir: str) -> bool:
    """Whether a run with these fields of ``config.eval`` evaluates the benchmark on a drawn world: that world's
    NatuRel, or the benchmark's twin there."""
    world = naturel.removeprefix("naturel/")
    return name in BENCHMARKS and world in WORLDS and (reads_dataset(name) or not benchmarks_dir)


def read(
    names: Sequence[str],
    *,
    files: Path | None = None,
    naturel: Path | None = None,
    fields: Mapping[str, BenchmarkFields] | None = None,
    cache_dir: str = "",
) -> list[Benchmark]:
    """The benchmarks called ``names``, or named as in ``own_benchmarks``; ``all`` means every one that can be read,
    besides user-defined ones, and prints why the others cannot be.

    ``files`` is the folder with the official files, ``naturel`` a prepared TFDS folder of NatuRel; ``fields``: name of
    a user-defined benchmark -> the fields of its records; ``cache_dir``: where user-defined ones in an object store are
    copied to (see ``staging``). Raises UserError for an unknown name, and FileNotFoundError or UserError for a
    requested benchmark that cannot be read.
    """
    fields = fields or {}
    every = "all" in names
    texts = [*BENCHMARKS, *filter(own_benchmarks.parse_name, names)] if every else names
    for text in names:
        if text not in (*BENCHMARKS, "all") and not own_benchmarks.parse_name(text):
            expected = f"{', '.join(BENCHMARKS)}; or your own: {', '.join(own_benchmarks.KINDS.values())}"
            near = difflib.get_close_matches(text, BENCHMARKS, 1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"unknown benchmarks {[text]}{meant}; expected all, or any of: {expected}")
    own_benchmarks.check_names(texts, fields, "--fields")
    if taken := [text for text in texts if text not in BENCHMARKS and own_benchmarks.name_of(text) in BENCHMARKS]:
        raise UserError(f"benchmark {taken[0]!r} has the name of another benchmark; write NAME=KIND:PATH")
    benchmarks, skipped = [], dict[str, list[str]]()  # reason -> names
    for text in texts:
        try:
            benchmarks.append(_read(text, files, naturel, fields, cache_dir))
        except (FileNotFoundError, UserError) as error:
            if not every or text in names:
                raise
            skipped.setdefault(str(error).removeprefix(f"{text} "), []).append(text)
    for reason, some in skipped.items():
        print(f"skipped {', '.join(some)}: {reason}", flush=True)
    return benchmarks


def _read(
    text: str, files: Path | None, naturel: Path | None, fields: Mapping[str, BenchmarkFields], cache_dir: str
) -> Benchmark:
    if mine := own_benchmarks.parse_name(text):
        return own.read(mine, fields.get(mine.name, BenchmarkFields()), cache_dir)
    folder = naturel if reads_dataset(text) else files
    if folder is None:
        flag = "--naturel" if reads_dataset(text) else "--benchmarks_dir"
        raise UserError(f"{text} needs {flag}, which is not set")
    if not reads_dataset(text):
        return BENCHMARKS[text].read(folder)
    version = version_of(*prepared.files(folder)) if folder.is_dir() else ""  # without a folder, reading raises
    return _read_dataset(text, folder, version)


@functools.lru_cache(maxsize=4)
def _read_dataset(name: str, folder: Path, version: str) -> Benchmark:
    """The benchmark of a prepared dataset, read once in a process: TFDS decodes whole records, which takes 3 s for the
    drawn world. ``version`` tells its files from others in their place."""
    return BENCHMARKS[name].read(folder)
