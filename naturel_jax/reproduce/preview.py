"""The plan of a reproduction in Markdown: downloads, disk, commands."""

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import constants, get_token

from naturel_jax.reproduce import costs
from naturel_jax.reproduce.costs import GB
from naturel_jax.reproduce.runner import command_line
from naturel_jax.reproduce.stages import STAGES, Work
from tfds_naturel.common import pages
from tfds_naturel.common.errors import UserError


def downloads_text(work: Work) -> str:
    """Two tables: what is downloaded, and what must be provided by hand."""
    rows = costs.downloads(work)
    fetched = [row for row in rows if row.stage != "by hand"]
    lines = [(row.stage, row.what, _size(row.bytes), row.licence, row.where) for row in fetched]
    total = ("", "in all", _size(sum(row.bytes for row in fetched)), "", "")
    by_hand = [(row.what, row.licence, row.where) for row in rows if row.stage == "by hand"]
    tables = [
        *pages.table(("stage", "download", "size", "licence", "from"), [*lines, total]),
        "\nBy hand; the tables leave out what is missing:\n",
        *pages.table(("file", "licence", "from"), by_hand),
    ]
    return "\n".join(tables) + "\n"


def stages_text(work: Work) -> str:
    """A table of the stages and the disk space that each needs."""
    found = costs.disks(work)
    lines = [(name, stage.does, _size(found[name])) for name, stage in STAGES.items()]
    total = ("", "in all", _size(sum(found.values())))
    return "\n".join(pages.table(("stage", "what it does", "disk"), [*lines, total])) + "\n"


FROM_HUB = {"benchmarks", "known", "train"}  # stages


class Disk(NamedTuple):
    """A disk that is written to: a folder on it, bytes still needed, bytes free."""

    folder: Path
    needed: float
    free: float

    def __str__(self) -> str:
        return f"{self.folder}: {_size(self.free)} free, about {_size(self.needed) or 'nothing more'} needed"


def disks(work: Work, names: Sequence[str]) -> list[Disk]:
    """The disks of the workdir and of the hub's cache, with what the stages ``names`` still need on them."""
    totals: dict[str, float] = defaultdict(float)
    for name, size in costs.disks(work).items():
        totals[STAGES[name].folder] += size
    folders = {STAGES[name].folder for name in names}
    cache = Path(constants.HF_HUB_CACHE)
    needed = {work.root: sum(max(0.0, totals[folder] - _used(work.root / folder)) for folder in folders)}
    if FROM_HUB & set(names):
        needed[cache] = sum(size for name, size in costs.from_hub(work).items() if not (cache / name).exists())
    found: dict[int, Disk] = {}
    for folder, size in needed.items():
        there = next(part for part in (folder, *folder.absolute().parents) if part.exists())
        device = there.stat().st_dev
        first, before, _ = found.get(device, (folder, 0.0, 0.0))
        found[device] = Disk(first, before + size, shutil.disk_usage(there).free)
    return list(found.values())


def _used(folder: Path) -> int:
    return sum((Path(root) / name).lstat().st_size for root, _, names in os.walk(folder) for name in names)


def announce(work: Work, names: Sequence[str]) -> None:
    """Prints the plan of the stages ``names``."""
    print(f"Reproduction in {work.root}, budget {work.budget}; to do: {', '.join(names)}\n")
    print(downloads_text(work))
    for disk in disks(work, names):
        print(disk)
    print(f"The hub's files go to its own cache, {constants.HF_HUB_CACHE} (HF_HOME).")
    if get_token() is None:
        print("Not logged in to the hub: Winoground, and NegCLIP-AP with it, will be missing. Run `hf auth login`.")
    print()
    print(stages_text(work), flush=True)


def print_commands(work: Work, names: Sequence[str]) -> None:
    """Prints the commands of the stages ``names``."""
    for name in names:
        print(f"\n# {name}", *map(command_line, STAGES[name].tasks(work)), sep="\n")


def check_disks(work: Work, names: Sequence[str]) -> None:
    """Raises UserError if a disk is too small for the stages ``names``."""
    for disk in disks(work, names):
        if disk.needed > disk.free:
            raise UserError(f"{disk}; free some space, or choose another --workdir, HF_HOME or a smaller --budget")


def _size(number: float) -> str:
    if number < 1e5:
        return f"{number / 1e3:.1f} kB" if number else ""
    return f"{number / GB:.1f} GB" if number >= 0.1 * GB else f"{number / 1e6:.1f} MB"
