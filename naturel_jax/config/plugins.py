"""Tables whose rows may also come from other installed packages, through entry points:

    [project.entry-points."naturel_jax.benchmarks"]
    mine = "my_package.mine"                      # a module with SOURCE and read
    [project.entry-points."naturel_jax.recipes"]
    three_pairs = "my_package.recipes:THREE"      # a Recipe
    [project.entry-points."naturel_jax.sources"]
    lmdb = "my_package.lmdb:open_table"           # an Opener
    [project.entry-points."naturel_jax.terms"]
    mine = "my_package.terms:Mine"                # a subclass of Term

A package is imported when one of its rows is used, not before: its names are known without importing it.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import TypeVar

from tfds_naturel.common.errors import UserError

T = TypeVar("T")


@functools.cache
def _entry_points(group: str) -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: (entry.name, _package(entry))):
        found.setdefault(entry.name, []).append(entry)
    return found


def _package(entry: importlib.metadata.EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


class Registry(MutableMapping[str, T]):
    """A table of this package (``rows``) with the rows that other packages add through entry points of ``group``.

    A row that is assigned (``RECIPES["mine"] = ...``, in a config file, say) takes precedence. ``row[name]`` raises
    UserError if several packages have a row of that name, if a package cannot be imported, or if ``is_valid`` rejects
    its row; ``expected`` describes a valid one.
    """

    def __init__(self, group: str, rows: Mapping[str, T], expected: str, is_valid: Callable[[object], bool]):
        self._group, self._rows, self._expected, self._is_valid = group, rows, expected, is_valid
        self._assigned: dict[str, T] = {}
        self._loaded: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._rows, *self._assigned, *_entry_points(self._group)]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:  # Mapping's own would import the package
        return name in list(iter(self))

    def __setitem__(self, name: str, row: T) -> None:
        self._assigned[name] = row

    def __delitem__(self, name: str) -> None:
        del self._assigned[name]

    def __getitem__(self, name: str) -> T:
        if name in self._assigned:
            return self._assigned[name]
        entries = _entry_points(self._group).get(name, [])
        packages = [*(["naturel_jax"] if name in self._rows else []), *map(_package, entries)]
        if len(packages) > 1:
            raise UserError(
                f"{self._group}: {name!r} is registered by {' and by '.join(packages)}; uninstall one of them, or give "
                "its entry point another name"
            )
        if not entries:
            return self._rows[name]
        if name not in self._loaded:
            self._loaded[name] = self._load(entries[0])
        return self._loaded[name]

    def _load(self, entry: importlib.metadata.EntryPoint) -> T:
        what = f"{self._group}: {entry.name!r} of the package {_package(entry)} ({entry.value})"
        try:
            row = entry.load()
        except Exception as error:  # another package's code may raise anything
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(f"{what} cannot be imported: {reason}; update or uninstall that package") from error
        if not self._is_valid(row):
            raise UserError(f"{what} is {row!r:.80}; expected {self._expected}: update or uninstall that package")
        return row
