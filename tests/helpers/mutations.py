"""Mutated files: bytes flipped, cut, repeated and swapped; JSON, zip archives and safetensors changed from within."""

import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

_NUMBERS = [struct.pack(code, value) for code in ("<I", ">I", "<q", ">H") for value in (0, 1, 255, 1 << 15)]
_BYTES = [
    *(b"", b"\0", b"\xff" * 8, b"\x80\x02", b'"', b"{", b"[" * 5000, b"\n", b",", b"\t", b"../", b"\xed\xa0\x80"),
    *_NUMBERS,
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 77, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *("", "x", "x" * 5000, "\ud83d", "a\nb", "\0", "../../x", "/etc/passwd", "1", "mean"),
    *([], {}, [[]], [None], {"": None}),
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """``data`` after one to three changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = [change for test, change in _FORMATS if test(data)]
        data = rng.choice([_bytes, *known])(rng, data)
    return data


def _bytes(rng: random.Random, data: bytes) -> bytes:
    return rng.choice((_flip, _flip, _cut, _remove, _repeat, _swap, _insert, _overwrite))(rng, data)


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 8, 16, 64, 1000)))


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]


def _swap(rng: random.Random, data: bytes) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    start, _ = _span(rng, data)
    return data[:start] + rng.choice(_BYTES) + data[start:]


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start, new = rng.randrange(len(data) + 1), rng.choice(_BYTES)
    return data[:start] + new + data[start + len(new) :]


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _is_json(data: bytes) -> bool:
    return isinstance(_parsed(data), dict | list)


def _json(rng: random.Random, data: bytes) -> bytes:
    """Replaces, removes, renames, repeats or moves a value at any depth."""
    value = _parsed(data)
    places: list[tuple[Any, Any]] = []  # (container, key)
    remaining = [value]
    while remaining:
        container = remaining.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        places += [(container, key) for key in keys]
        remaining += [container[key] for key in keys if isinstance(container[key], dict | list)]
    if not places:
        return json.dumps(rng.choice(_VALUES)).encode()
    (container, key), (other, other_key) = rng.choice(places), rng.choice(places)
    action = rng.randrange(7)
    if action < 3:
        container[key] = rng.choice(_VALUES)
    elif action == 3:
        del container[key]
    elif action == 4:
        container[key] = json.loads(json.dumps(other[other_key]))
    elif action == 5 and isinstance(container, dict):
        container[rng.choice(("", "x", "../x", "\ud83d", "0", key + "x"))] = container.pop(key)
    elif isinstance(container, list):
        container.append(json.loads(json.dumps(container[key])))
    else:
        container[key] = [container[key]]
    return json.dumps(value).encode()


def _is_lines(data: bytes) -> bool:
    return not _is_json(data) and data.count(b"\n") > 1 and _is_json(data.split(b"\n")[0])


def _lines(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = _json(rng, lines[number]) if _is_json(lines[number]) else _bytes(rng, lines[number])
    return b"\n".join(lines)


def _is_table(data: bytes) -> bool:
    lines = data.split(b"\n")[:2]
    return any(len(lines) == 2 and 0 < lines[0].count(mark) == lines[1].count(mark) for mark in (b"\t", b","))


def _table(rng: random.Random, data: bytes) -> bytes:
    """Changes a cell, or repeats or removes a line."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    mark = b"\t" if b"\t" in data else b","
    match rng.randrange(4):
        case 0:
            lines.insert(number, rng.choice(lines))
        case 1:
            del lines[number]
        case _:
            cells = lines[number].split(mark)
            cells[rng.randrange(len(cells))] = rng.choice(
                (*_BYTES, b"-1", b"nan", b"1e400", b"x" * 200_000, b"0", b"a|b|c")
            )
            lines[number] = mark.join(cells)
    return b"\n".join(lines)


def _is_zip(data: bytes) -> bool:
    return data.startswith(b"PK\x03\x04")  # zipfile.is_zipfile raises for some damaged files


def _zip(rng: random.Random, data: bytes) -> bytes:
    """Changes, renames, removes, repeats or compresses a member, with correct sums."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = [(name, file.read(name)) for name in file.namelist()]
    except Exception:
        return _bytes(rng, data)
    kind = zipfile.ZIP_STORED
    if members:
        number = rng.randrange(len(members))
        name, content = members[number]
        match rng.randrange(8):
            case 0:
                members[number] = (rng.choice(("../x", "/x", "x", name + "x", "..")), content)
            case 1:
                del members[number]
            case 2:
                members.append((name, content))
            case 3:
                kind = zipfile.ZIP_DEFLATED
            case _:
                members[number] = (name, mutate(rng, content))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names, on purpose
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def _header_size(data: bytes) -> int:
    return struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0


def _is_safetensors(data: bytes) -> bool:
    return 0 < _header_size(data) <= len(data) - 8 and _is_json(data[8 : 8 + _header_size(data)])


def _safetensors(rng: random.Random, data: bytes) -> bytes:
    size = _header_size(data)
    header = _json(rng, data[8 : 8 + size])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


_FORMATS: list[tuple[Callable[[bytes], bool], Callable[[random.Random, bytes], bytes]]] = [
    (_is_json, _json),
    (_is_lines, _lines),
    (_is_table, _table),
    (_is_zip, _zip),
    (_is_safetensors, _safetensors),
]
