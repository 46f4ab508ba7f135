"""How user-defined benchmarks are named, on the command line and in ``config.eval``: ``KIND:PATH`` or
``NAME=KIND:PATH``, such as ``pairs:my.jsonl``. Their files are read in ``own.py``."""

import argparse
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from naturel_jax.config.settings import Allowed, parse, setting
from tfds_naturel.common.errors import UserError

KINDS = {  # kind -> what it reads, for messages
    "pairs": "pairs:FILE",
    "groups": "groups:FILE",
    "retrieval": "retrieval:FILE",
    "classes": "classes:FOLDER",
}
FIELDS = {  # kind -> the fields of its records
    "pairs": ("image", "positives", "negatives", "tags"),
    "groups": ("image_0", "image_1", "caption_0", "caption_1", "tags"),
    "retrieval": ("image", "positives"),
    "classes": (),
}


class Own(NamedTuple):
    """A user-defined benchmark. Results, reports and ``config.eval.during`` call it ``name``."""

    name: str
    kind: str
    path: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.path}"


@dataclasses.dataclass(frozen=True)
class BenchmarkFields:
    """The fields of a benchmark's records, as in ``config.data.mixture``: a name, or several separated by commas, whose
    values are joined; ``a.b`` is field b of a. Empty: the usual names."""

    image: str = setting("", "the image (pairs, retrieval): a path relative to the file")
    positives: str = setting("", "true captions (pairs, retrieval): a string or several")
    negatives: str = setting("", "false captions (pairs)")
    image_0: str = setting("", "the first image (groups)")
    image_1: str = setting("", "the second image (groups)")
    caption_0: str = setting("", "the caption of the first image (groups)")
    caption_1: str = setting("", "the caption of the second image (groups)")
    tags: str = setting("", "fields, separated by commas, whose values are scored separately (pairs, groups)")


def parse_name(text: str) -> Own | None:
    """The user-defined benchmark that ``text`` names; None if it has no such form. Without ``NAME=``, it is named
    after its file, without the suffix, or its folder. Raises UserError for a name that is not one word, and for
    ``train``, which is what a run calls the numbers of its training steps."""
    match = re.fullmatch(rf"(?:([^=:]*)=)?({'|'.join(KINDS)}):(.+)", text, re.DOTALL)
    if not match:
        return None
    name = Path(match[3]).stem if match[1] is None else match[1]
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name) or name == "train":
        expected = "another name than that of a run's training steps" if name == "train" else "letters, digits, _ and -"
        raise UserError(
            f"benchmark {text!r} would be called {name!r}; expected {expected}: write mine={match[2]}:{match[3]}"
        )
    return Own(name, match[2], match[3])


def or_user_defined(known: Allowed) -> Allowed:
    """Several benchmarks, each ``known`` or user-defined."""
    return Allowed(
        lambda: f"any of{known.expected().removeprefix('one of')}; or your own: {', '.join(KINDS.values())}",
        lambda names: all(known.test(name) or parse_name(name) for name in names),
        known.extended,
    )


def name_of(text: str) -> str:
    """What a benchmark is called, user-defined or one of the package's. Raises what ``parse_name`` raises."""
    own = parse_name(text)
    return own.name if own else text


def check_names(texts: Sequence[str], fields: Mapping[str, BenchmarkFields], where: str) -> None:
    """Raises UserError if a benchmark occurs twice, if two share a name, or if ``fields`` names one that is not
    user-defined, or a field that its kind does not have. ``where``: the flag or config field of ``fields``."""
    named: dict[str, str] = {}
    own = {benchmark.name: benchmark for text in texts if (benchmark := parse_name(text))}
    for text in texts:
        name = name_of(text)
        if named.get(name) == text:
            raise UserError(f"benchmark {text!r} is named twice; name it once")
        if name in own and name in named:
            raise UserError(f"benchmarks {named[name]!r} and {text!r} are both called {name!r}; write NAME={text}")
        named[name] = text
    if unknown := sorted(fields.keys() - own):
        kinds = ", ".join(KINDS.values())
        raise UserError(f"{where} has {unknown[0]!r}, which is not one of your own benchmarks ({kinds}) in this list")
    for name, given in fields.items():
        has = FIELDS[own[name].kind]
        if unread := [part for part, value in vars(given).items() if value and part not in has]:
            expected = f"only {', '.join(has)}" if has else "no fields: its folders are the classes"
            raise UserError(f"{where} has {name}.{unread[0]}, but {own[name]} has {expected}")


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Adds the flag ``--fields``, which ``parse_fields`` reads."""
    meaning = f"fields of your own benchmarks: {', '.join(field.name for field in dataclasses.fields(BenchmarkFields))}"
    parser.add_argument("--fields", nargs="+", default=[], metavar="NAME.PART=FIELD", help=meaning)


def parse_fields(arguments: Iterable[str]) -> dict[str, BenchmarkFields]:
    """Name of a benchmark -> its fields, from ``NAME.PART=FIELD`` on the command line. Raises UserError."""
    values: dict[str, dict[str, str]] = {}
    for argument in arguments:
        match = re.fullmatch(r"([^.=]+)\.([^.=]+)=(.+)", argument)
        if not match:
            raise UserError(f"--fields {argument}: expected NAME.PART=FIELD, such as my.image=photo")
        values.setdefault(match[1], {})[match[2]] = match[3]
    return {name: parse(BenchmarkFields, parts, f"--fields {name}") for name, parts in values.items()}
