"""All benchmarks by name. A new one is one file and one line here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from naturel_jax.benchmarks import (
    bivlc,
    coco_order,
    coco_retrieval,
    colorswap,
    eqben,
    flickr30k_order,
    flickr30k_retrieval,
    naturel,
    naturel_contrast,
    naturel_unseen,
    sugarcrepe,
    sugarcrepe_pp,
    valse,
    vg_attribution,
    vg_relation,
    vsr,
    whatsup,
    winoground,
    zeroshot,
)
from naturel_jax.benchmarks.benchmark import Benchmark, Source
from tfds_naturel.errors import UserError


class Reader(Protocol):
    """The interface of a benchmark's module."""

    SOURCE: Source

    def read(self, folder: Path) -> Benchmark:
        """The benchmark. Raises FileNotFoundError for missing files and UserError for broken ones."""
        ...


BENCHMARKS: dict[str, Reader] = {
    "naturel": naturel,
    "naturel_unseen": naturel_unseen,
    "naturel_contrast": naturel_contrast,
    "winoground": winoground,
    "vg_relation": vg_relation,
    "vg_attribution": vg_attribution,
    "sugarcrepe": sugarcrepe,
    "coco_order": coco_order,
    "flickr30k_order": flickr30k_order,
    "whatsup": whatsup,
    "sugarcrepe_pp": sugarcrepe_pp,
    "bivlc": bivlc,
    "colorswap": colorswap,
    "eqben": eqben,
    "valse": valse,
    "vsr": vsr,
    "coco_retrieval": coco_retrieval,
    "flickr30k_retrieval": flickr30k_retrieval,
    "zeroshot": zeroshot,
}


def reads_dataset(name: str) -> bool:
    """Whether the benchmark reads a prepared TFDS folder, not the folder of official files."""
    return name in BENCHMARKS and BENCHMARKS[name].SOURCE.prepared


def read(names: Sequence[str], *, files: Path | None = None, naturel: Path | None = None) -> list[Benchmark]:
    """The benchmarks called ``names``; ``all`` means every one that can be read, and prints why the others cannot.

    ``files`` is the folder with the official files, ``naturel`` a prepared TFDS folder of NatuRel. Raises UserError for
    an unknown name, and FileNotFoundError or UserError for a requested benchmark that cannot be read.
    """
    if unknown := [name for name in names if name not in (*BENCHMARKS, "all")]:
        raise UserError(f"unknown benchmarks {unknown}; expected all, or any of: {', '.join(BENCHMARKS)}")
    every = "all" in names
    benchmarks = []
    for name in BENCHMARKS if every else names:
        try:
            benchmarks.append(_read(name, files, naturel))
        except (FileNotFoundError, UserError) as error:
            if not every:
                raise
            print(f"skipped {name}: {error}", flush=True)
    return benchmarks


def _read(name: str, files: Path | None, naturel: Path | None) -> Benchmark:
    reader = BENCHMARKS[name]
    folder = naturel if reads_dataset(name) else files
    if folder is None:
        flag = "--naturel" if reads_dataset(name) else "--benchmarks_dir"
        raise UserError(f"{name} needs {flag}, which is not set")
    return reader.read(folder)
