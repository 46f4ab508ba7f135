"""Frozen dataclasses as config sections: each field states its default, meaning and allowed values once.

``setting`` declares a field, ``to_config_dict`` makes the ``ml_collections.ConfigDict`` that users edit, and ``parse``
checks one and turns it into the dataclass.
"""

import dataclasses
import difflib
import math
import pkgutil
import re
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ml_collections import ConfigDict

from tfds_naturel.common.errors import UserError

T = TypeVar("T")

_OPTIONAL = "~"  # stands for a question mark that makes a part optional, in no path
_ALIKE = 0.9  # share of the letters of two names that are the same, in order: one is a mistyped form of the other
_MOST_REPETITIONS = 5  # in a pattern for parameters, whose paths have less than 100 characters


class Allowed(NamedTuple):
    """The values that a field accepts: in words, for messages, and as a predicate. ``extended``: users' modules may add
    names to them."""

    expected: Callable[[], str]
    test: Callable[[Any], bool]
    extended: bool = False


NAME = Allowed(lambda: "a name", bool)
TITLE = Allowed(
    lambda: "a name of at most 100 printable characters, without / \\ < >",
    lambda text: re.fullmatch(r"[^/\\<>]{1,100}", text) is not None and text.isprintable() and text.strip(". ") != "",
)
ON_DISK = Allowed(lambda: "a folder on a disk", lambda path: "://" not in path)
SIZE = Allowed(lambda: "-1 or a whole number of at least 1", lambda x: x == -1 or x >= 1)
AREA = Allowed(lambda: "two numbers (low, high) with 0 < low <= high <= 1", lambda x: 0 < x[0] <= x[1] <= 1)


def are_patterns(rules: Iterable[tuple[str, float]], most: int = _MOST_REPETITIONS) -> bool:
    """Whether ``rules`` are pairs of a regular expression that is fast to match, with at most ``most`` repetitions in a
    row, and a number of at least 0."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of "[[", which a later version of Python may read otherwise
            return all(
                re.compile(pattern) and not _may_take_forever(pattern, most) and 0 <= factor < math.inf
                for pattern, factor in rules
            )
    except (re.error, OverflowError, RecursionError):
        return False


def _may_take_forever(pattern: str, most: int) -> bool:
    """Whether a pattern repeats a group that has a repetition or alternatives itself, or has more than ``most``
    repetitions, optional parts and groups of alternatives in a row: Python's ``re`` may try exponentially many ways to
    match it, or a number of them that grows as a high power."""
    rest = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern, flags=re.DOTALL)  # escapes and character classes
    rest = re.sub(r"(?<!\()\?", _OPTIONAL, re.sub(r"([*+?}])[?+]", r"\1", rest))  # no lazy and possessive ones

    def repetitions(text: str) -> int:
        return max(len(re.findall(rf"[*+{{{_OPTIONAL}]", branch)) for branch in text.split("|"))

    while group := re.search(r"\(([^()]*)\)([*+{]?)", rest):
        count = max(repetitions(group[1]), "|" in group[1])
        if (count and group[2]) or count > most:
            return True
        rest = rest[: group.start()] + "x" + count * "+" + rest[group.end() - len(group[2]) :]
    return repetitions(rest) > most


def above(low: float) -> Allowed:
    """Finite numbers above ``low``."""
    return Allowed(lambda: f"a number above {low:g}", lambda x: low < x < math.inf)


def at_least(low: float) -> Allowed:
    """Finite numbers of at least ``low``."""
    return Allowed(lambda: f"a number of at least {low:g}", lambda x: low <= x < math.inf)


def between(low: int, high: int) -> Allowed:
    """Numbers from ``low`` to ``high``."""
    return Allowed(lambda: f"a number from {low:,} to {high:,}", lambda x: low <= x <= high)


def fraction() -> Allowed:
    """Numbers in [0, 1)."""
    return Allowed(lambda: "a number from 0 to less than 1", lambda x: 0 <= x < 1)


def one_of(*names: str) -> Allowed:
    """One of ``names``."""
    return Allowed(lambda: f"one of {', '.join(map(repr, names))}", lambda x: x in names)


def key_of(table: str, *others: str) -> Allowed:
    """A key of the table ``module:NAME``, including keys added by users' modules, or one of ``others``."""

    def keys() -> list[str]:
        return [*pkgutil.resolve_name(table), *others]

    return Allowed(lambda: f"one of: {', '.join(map(repr, keys()))}", lambda x: x in keys(), extended=True)


def setting(
    default: T, meaning: str, allowed: Allowed | None = None, *, may_change: bool = False, kinds: str = ""
) -> T:
    """A dataclass field. If ``may_change``, a run may continue with another value; if not, it would be another run.
    ``kinds``: the field is a mapping to sections, each of the dataclass that the table ``module:NAME`` has under its
    key; the table is not imported for an empty one."""
    metadata = {"meaning": meaning, "allowed": allowed, "may_change": may_change, "kinds": kinds}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def section(kind: type[T], *, may_change: bool = False) -> T:
    """A dataclass field that is itself a section. ``may_change`` applies to all of its fields."""
    return dataclasses.field(default_factory=kind, metadata={"may_change": may_change})


def to_config_dict(settings: Any) -> ConfigDict:
    """The fields of a section, including nested sections, for users to edit."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return ConfigDict({key: convert(inner) for key, inner in value.items()}, sort_keys=False)
        return to_config_dict(value) if dataclasses.is_dataclass(value) else value

    return ConfigDict({field.name: convert(getattr(settings, field.name)) for field in dataclasses.fields(settings)})


def parse(kind: type[T], raw: Mapping[str, Any], path: str = "config", *, saved: bool = False) -> T:
    """The section ``kind`` with the values ``raw``; omitted fields keep their defaults. ``saved``: names that a table
    does not have are accepted, since a module that this process has not imported may have added them.

    Raises UserError naming the field, its value and what is expected.
    """
    hints = typing.get_type_hints(kind)
    if unknown := sorted(raw.keys() - hints.keys()):
        raise UserError(f"{path} has no field {unknown[0]!r}; {nearest(unknown[0], dict(meanings(kind)))}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(
        **{key: _parse_field(fields[key], hints[key], value, f"{path}.{key}", saved) for key, value in raw.items()}
    )


def _parse_field(field: dataclasses.Field, hint: Any, value: Any, path: str, saved: bool) -> Any:
    if dataclasses.is_dataclass(hint):
        return parse(typing.cast(type, hint), _mapping(value, path), path, saved=saved)
    if table := field.metadata.get("kinds"):
        return {key: _parse_kind(table, key, inner, path, saved) for key, inner in _mapping(value, path).items()}
    if typing.get_origin(hint) is typing.get_origin(Mapping[str, Any]):
        inner = typing.get_args(hint)[1]
        return {key: _parse_field(field, inner, v, f"{path}.{key}", saved) for key, v in _mapping(value, path).items()}
    allowed: Allowed | None = field.metadata.get("allowed")
    try:
        converted = _convert(value, hint)
        if allowed is None or allowed.test(converted) or (saved and allowed.extended):
            return converted
    except (TypeError, OverflowError):  # a whole number that is no float
        pass
    expected = allowed.expected() if allowed else _in_words(hint)
    raise UserError(f"{path} is {value!r}; expected {expected} ({field.metadata['meaning']})")


def _parse_kind(table: str, key: str, value: Any, path: str, saved: bool) -> Any:
    """The section ``value`` as the dataclass that ``table`` has under ``key``."""
    if not (allowed := key_of(table)).test(key):
        if saved:
            return _mapping(value, f"{path}.{key}")
        raise UserError(f"{path} has {key!r}; expected {allowed.expected()}")
    return parse(pkgutil.resolve_name(table)[key], _mapping(value, f"{path}.{key}"), f"{path}.{key}", saved=saved)


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping | ConfigDict):
        raise UserError(f"{path} is {value!r}; expected a section with fields")
    if others := [key for key in value if not isinstance(key, str)]:
        raise UserError(f"{path} has the name {others[0]!r:.80}; expected a string")
    return dict(value.items())


def _convert(value: Any, hint: Any) -> Any:
    """``value`` as ``hint``. Raises TypeError."""
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            raise TypeError
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        if len(kinds) != len(value):
            raise TypeError
        return tuple(map(_convert, value, kinds))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TypeError
    return value


def _in_words(hint: Any) -> str:
    names = {str: "a string", int: "a whole number", float: "a number", bool: "True or False"}
    return names.get(hint, str(hint).replace("typing.", ""))


def meanings(kind: type, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, meaning) of every field of a section, including nested sections."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hint := hints[field.name]):
            yield from meanings(typing.cast(type, hint), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, field.metadata["meaning"]


def joined(words: Sequence[str]) -> list[str]:
    """A command line with each ``--config VALUE`` and ``--config.x VALUE`` as one word, ``--config.x=VALUE``. VALUE may
    be a negative number, which absl takes for a flag."""
    result: list[str] = []
    for word in words:
        if result and re.fullmatch(r"--?config(\.[^=]*)?", result[-1]) and not re.match(r"-(?![\d.])", word):
            result[-1] += f"={word}"
        else:
            result.append(word)
    return result


def closest(name: str, known: Sequence[str]) -> str:
    """'did you mean ...?' with the one of ``known`` spelled most like ``name``."""
    close = difflib.get_close_matches(name, known, 1, cutoff=0.0)
    return f"did you mean {close[0]!r}?" if close else "there is none"


def nearest(name: str, known: Mapping[str, str]) -> str:
    """'did you mean ...?' with the field spelled most like ``name`` or, if none is like it, whose meaning contains its
    words; of equals, the first."""
    words = set(re.split(r"[._]", name.rpartition(".")[2].lower()))

    def spelled(candidate: str) -> float:
        return max(difflib.SequenceMatcher(None, name, c).ratio() for c in (candidate, candidate.rpartition(".")[2]))

    def described(candidate: str) -> float:
        meaning = set(re.findall(r"[a-z]+", f"{candidate} {known[candidate]}".lower()))
        return max(spelled(candidate), 0.99 * len(words & meaning) / len(words))

    likeliest = max(known, key=spelled)
    return f"did you mean {likeliest if spelled(likeliest) > _ALIKE else max(known, key=described)!r}?"


def fixed(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of the fields that must not change within a run."""
    result: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if field.metadata.get("may_change"):
            continue
        values = value if isinstance(value, Mapping) else {"": value}
        for key, inner in values.items():
            path = f"{name}.{key}" if key else name
            result |= fixed(inner, f"{path}.") if dataclasses.is_dataclass(inner) else {path: inner}
    return result


def flat(settings: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted name -> (default, value) of every field; a field that has none has the default ""."""
    result: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if dataclasses.is_dataclass(value):
            result |= flat(value, f"{name}.")
        elif isinstance(value, Mapping) and any(map(dataclasses.is_dataclass, value.values())):
            for key, inner in value.items():
                result |= flat(inner, f"{name}.{key}.")
        else:
            result[name] = "" if default is dataclasses.MISSING else default, value
    return result
