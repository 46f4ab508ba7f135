"""Records: an image with true and false captions, from a row of any table. Config says which field of the row is which
part of the record (``record_fields.Fields``)."""

import ast
import dataclasses
import functools
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from naturel_jax.config.record_fields import Fields
from tfds_naturel.common.errors import UserError
from tfds_naturel.common.files import LONGEST_TEXT, check_regular, parse_json

LARGEST_TEXT = 1 << 24  # bytes of a file or member with captions
_MOST_FACTS = 1 << 20  # characters of the facts of a record's captions, where all assert one

# The usual names of each part's field, tried in this order if config names none.
USUAL: dict[str, tuple[str, ...]] = {
    "image": ("image", "filepath", "file_name", "filename", "image_path", "jpg", "jpeg", "png", "webp"),
    "positives": ("positives", "txt", "caption", "captions", "text", "title"),
    "negatives": ("negatives", "negative", "negative_caption", "neg_caption"),
    "asserts": ("asserts",),
    "negative_asserts": ("negative_asserts",),
    "shows": ("shows",),
    "name": ("name", "id", "image_id", "__key__"),
}


_LOG = logging.getLogger(__name__)
_LISTED = 20  # names of fields in the message about a bad record, of which a file may have a million
ADDRESS = re.compile(r"(https?|ftp):/", re.IGNORECASE)  # Path makes one / of two

# A cell that begins like a list of strings, and what Python writes for one: nothing else is evaluated. Two strings
# without a comma, as of a numpy array, would be read as one.
_BEGINS = re.compile(r"""\s*+\[\s*+["'\]]""")
_STRING = r"""(?:'(?:[^'\\\n]|\\[\\'"nrtxuU])*+'|"(?:[^"\\\n]|\\[\\'"nrtxuU])*+")"""
_STRINGS = re.compile(rf"\[\s*+{_STRING}(?:\s*+,\s*+{_STRING})*+\s*+\]")
_LONGEST = 1 << 17  # characters of a list in Python's syntax, as of a CSV file's cell: each takes 300 bytes for a while


class BadRecord(ValueError):
    """A record that cannot be trained on; the message says why. ``row``: what it has, if only its captions are
    missing."""

    def __init__(self, reason: str, row: "Mapping[str, Any] | None" = None):
        super().__init__(reason)
        self.row = row


class Span(NamedTuple):
    """Place of an encoded image within the shard's file, in bytes."""

    offset: int
    size: int


Row = Mapping[str, Any] | BadRecord  # a row that cannot even be parsed is a BadRecord


class Shard(NamedTuple):
    """Rows that are read together, in order. ``file``: what spans refer to. ``rows`` is picklable: shards are read by
    several processes. ``folder``: the folder in the table's root that image paths are relative to, and must stay in."""

    file: str
    rows: Callable[[], Iterable[Row]]
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of records, in shards.

    ``root``: folder that image paths are relative to, and must stay in, but for ``Shard.folder``. ``files``: those that
    the rows come from; if one changes, all are read again. ``read_image``, if the images are not files or parts of
    files: (number of the record, ``field``: names of fields that may hold it) -> encoded image; picklable.
    """

    name: str
    root: str
    files: Sequence[Path]
    shards: Sequence[Shard]
    read_image: Callable[..., bytes] | None = None


def rooted(table: Table, fields: Fields) -> Table:
    """``table`` with its images in the folder that ``fields`` names, if any: where links to it lead now."""
    if not fields.folder:
        return table
    shards = [shard._replace(folder="") for shard in table.shards]
    return dataclasses.replace(table, root=os.path.realpath(os.path.expanduser(fields.folder)), shards=shards)


class Record(NamedTuple):
    """``image``: a path, encoded bytes, or a part of the shard's file. ``asserts`` and ``negative_asserts`` have one
    fact for each caption, "" where it is not known."""

    name: str
    image: str | bytes | Span
    positives: list[str]
    negatives: list[str]
    asserts: list[str]
    negative_asserts: list[str]
    shows: list[str]


class Names(NamedTuple):
    """The fields that may hold a part of a record. ``every``: all are read; else the first that is not empty."""

    fields: tuple[str, ...]
    every: bool


Chosen = Mapping[str, Names]  # for each part in ``USUAL``


def choose(fields: Fields) -> Chosen:
    """The fields that config names, else the usual ones."""
    named = {part: value for part, value in dataclasses.asdict(fields).items() if value}
    return {
        part: Names(tuple(map(str.strip, named[part].split(","))), True) if part in named else Names(usual, False)
        for part, usual in USUAL.items()
    }


def to_record(row: Row, chosen: Chosen, name: str) -> Record:
    """The record in ``row``. ``name``: what to call it if its image has no path and no field names it. Raises
    BadRecord."""
    if isinstance(row, BadRecord):
        raise row
    image, path = _image(_first(row, chosen, "image"))
    positives = _texts(row, chosen, "positives")
    if not positives:
        raise _missing(row, chosen, "positives")
    negatives = _texts(row, chosen, "negatives")
    return Record(
        _encodable(path or str(_first(row, chosen, "name", name))),
        image,
        positives,
        negatives,
        _facts(row, chosen, "asserts", len(positives)),
        _facts(row, chosen, "negative_asserts", len(negatives)),
        _texts(row, chosen, "shows"),
    )


def to_image(row: Row, chosen: Chosen, name: str) -> tuple[str, str | bytes | Span, str]:
    """The name, the image and the first true caption of a row, "" if it has none. Raises BadRecord."""
    if isinstance(row, BadRecord):
        if row.row is None:
            raise row
        row = row.row
    image, path = _image(_first(row, chosen, "image"))
    called = path or _first(row, chosen, "name", name)
    captions = _texts(row, chosen, "positives")
    return _text(called if isinstance(called, bytes) else str(called), "name"), image, captions[0] if captions else ""


def _first(row: Mapping[str, Any], chosen: Chosen, part: str, default: Any = None) -> Any:
    """The first value that is not empty. Raises BadRecord if there is none and no default."""
    for value in _values(row, chosen, part):
        return value
    if default is None:
        raise _missing(row, chosen, part)
    return default


def _values(row: Mapping[str, Any], chosen: Chosen, part: str) -> list[Any]:
    names, every = chosen[part]
    found = []
    for name in names:
        value = row[name] if name in row else _nested(row, name) if "." in name else None
        if value is not None and not _is_blank(value):
            found.append(value)
            if not every:
                break
    return found


def _lists(row: Mapping[str, Any], chosen: Chosen, part: str) -> list[Any]:
    """The values of ``part``, with a list for a string that holds one. Raises BadRecord."""
    return [_listed(value, part) if isinstance(value, str) else value for value in _values(row, chosen, part)]


def _listed(text: str, part: str) -> str | list[str]:
    """The strings of a list in JSON or Python, as pandas writes it into a cell; any other text as it is."""
    if not _BEGINS.match(text) or not (cell := text.strip()).endswith("]"):
        return text
    try:
        found = parse_json(cell)
    except ValueError:
        found = _evaluated(cell)
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise BadRecord(f"{part} has {text!r:.60}, not a list of strings; expected JSON, or Python as ['a', 'b']")
    return found


def _evaluated(cell: str) -> Any:
    """The strings of a list in Python's syntax; None for anything else."""
    if len(cell) > _LONGEST or not _STRINGS.fullmatch(cell):
        return None
    try:
        return ast.literal_eval(cell)
    except (ValueError, SyntaxError):  # such as half an escape
        return None


def _is_blank(value: Any) -> bool:
    return isinstance(value, str | bytes) and not value.strip()


def _nested(row: Mapping[str, Any], name: str) -> Any:
    """The value of ``a.b``: field b of a, or of each row of a. None if missing."""
    head, dot, rest = name.partition(".")
    if not dot or head not in row:
        return None
    inner = row[head]
    if isinstance(inner, Mapping):
        return inner[rest] if rest in inner else _nested(inner, rest)
    if isinstance(inner, list):
        return [each.get(rest) if isinstance(each, Mapping) else None for each in inner]
    return None


def _missing(row: Mapping[str, Any], chosen: Chosen, part: str) -> BadRecord:
    names = chosen[part].fields
    blank = [name for name in names if name in row]
    if blank:
        return BadRecord(f"field {blank[0]!r} ({part}) is empty")
    listed = ", ".join(repr(str(name)[:40]) for name in itertools.islice(row, _LISTED))
    more = f" and {len(row) - _LISTED:,} more" if len(row) > _LISTED else ""
    return BadRecord(f"no field {_either(names)} ({part}); it has {listed}{more}")


@functools.cache  # a file may have a million bad records
def _either(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))


def _image(value: Any) -> tuple[str | bytes | Span, str]:
    """The image, and its path if it has one. Hugging Face's images are a mapping of bytes and path."""
    if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():
        data, path = value["bytes"], value["path"] or ""
        if isinstance(data, bytes | Span):
            return data, path
        value = path
    if isinstance(value, str) and value:
        if ADDRESS.match(value):
            raise BadRecord(f"the image is {value!r:.80}; expected a path: images are read from disk, so download it")
        return value, value
    if isinstance(value, bytes | Span):
        return value, ""
    raise BadRecord(f"the image is {value!r:.60}; expected a path or bytes")


def _encodable(name: str) -> str:
    try:
        name.encode()
    except UnicodeError as error:
        raise BadRecord(f"the path or name is {name!r:.60}: not UTF-8") from error
    return name


def _texts(row: Mapping[str, Any], chosen: Chosen, part: str) -> list[str]:
    """The strings of ``part``. Raises BadRecord."""
    found: list[str] = []
    for value in _lists(row, chosen, part):
        for text in [value] if isinstance(value, str | bytes) or not isinstance(value, Iterable) else value:
            found.append(_text(text, part))
    return found


def _text(value: Any, part: str) -> str:
    try:
        text = value.decode("utf-8-sig") if isinstance(value, bytes) else value
        if not isinstance(text, str):
            raise BadRecord(f"{part} has {value!r:.60}; expected a string")
        text.encode()  # JSON can hold halves of characters
    except UnicodeError as error:
        raise BadRecord(f"{part} has {value!r:.60}: not UTF-8") from error
    if not (text := text.strip()):
        raise BadRecord(f"{part} has an empty string")
    if len(text) > LONGEST_TEXT:
        raise BadRecord(f"{part} has {text!r:.60}, of {len(text):,} characters; the limit is {LONGEST_TEXT:,}")
    return text


def _facts(row: Mapping[str, Any], chosen: Chosen, part: str, captions: int) -> list[str]:
    """One fact for each caption. A single string is asserted by all."""
    facts: list[str] = []
    for value in _lists(row, chosen, part):
        if isinstance(value, str | bytes):
            fact = _text(value, part)
            if captions * len(fact) > _MOST_FACTS:
                raise BadRecord(f"{part} has {len(fact):,} characters for each of {captions:,} captions; shorten it")
            facts += [fact] * captions
        else:
            facts += ["" if fact in (None, "", b"") else _text(fact, part) for fact in value]
    if facts and len(facts) != captions:
        raise BadRecord(f"{part} has {len(facts)} facts; expected one for each of its {captions} captions")
    return facts or [""] * captions


def place_of(shard: Shard, root: str, path: str) -> str:
    """The path in ``root`` of an image that a row of ``shard`` names. Raises what ``check_inside`` raises."""
    check_inside(os.path.join(root, shard.folder) if shard.folder else root, path)
    return os.path.join(shard.folder, path)


def check_inside(folder: str, path: str) -> None:
    """Raises BadRecord for a path that leaves ``folder``. Links are followed: they are the user's, not the table's. A
    link to a folder elsewhere may also have come with the table, so it is named in the log."""
    place = os.path.join(folder, path)
    inside = os.path.normpath(place).startswith(os.path.join(folder, ""))
    if ".." in Path(path).parts:  # behind a link, it leads to elsewhere than normpath says
        inside &= os.path.realpath(place).startswith(os.path.join(os.path.realpath(folder), ""))
    if not inside:
        raise BadRecord(
            f"the image {path!r:.80} is outside {folder}; if it may be read, set `folder` in the part's fields to a "
            "folder that holds it"
        )
    _name_link(folder, os.path.dirname(path))


@functools.lru_cache(maxsize=1024)
def _name_link(folder: str, within: str) -> None:
    """Warns once if ``within`` is, through links, not in ``folder``."""
    if "\0" in within:  # no path, which reading the image says
        return
    leads_to, root = os.path.realpath(os.path.join(folder, within)), os.path.realpath(folder)
    if not os.path.join(leads_to, "").startswith(os.path.join(root, "")):
        _LOG.warning("%s is a link: images are read from %s", os.path.join(folder, within), leads_to)


def check_split(kind: str, split: str) -> None:
    """Raises UserError for a split other than ``train``: a file has no splits."""
    if split != "train":
        raise UserError(f"split {split!r}: {kind} has no splits; name the split's own files in `dataset`")


def existing(path: str, kind: str) -> Path:
    """``path``, if there is such a file or folder. Raises UserError."""
    if ADDRESS.match(path):
        raise UserError(f"{kind}:{path}: an address; files are read from disk or from gs:// and s3://: download it")
    if not (found := Path(path).expanduser()).exists():
        raise UserError(
            f"{kind}:{path}: no such file or folder ({found.absolute()}); paths are relative to where you start"
        )
    check_regular(found)
    return found
