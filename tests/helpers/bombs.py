"""Files that cost far more than their size, for each kind of file."""

import base64
import bz2
import io
import json
import pickle
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.image_bombs import IMAGE_BOMBS, Bomb

# ---- Text ------------------------------------------------------------------------------------------------------------


def _deep(rng: random.Random, sound: bytes) -> bytes:
    return rng.choice((b"[", b'{"a":')) * rng.choice((10_000, 300_000))


def _small_values(rng: random.Random, sound: bytes) -> bytes:
    return b"[" + b",".join([rng.choice((b"[]", b"{}", b'{"":0}', b"1e9", b'"x"', b"[[]]"))] * 200_000) + b"]"


def _equal_keys(rng: random.Random, sound: bytes) -> bytes:
    keys = [*(str(n) for n in range(100_000)), "99999"]
    return b"{" + b",".join(f'"{key}":{{}}'.encode() for key in keys) + b"}"


def _long_key(rng: random.Random, sound: bytes) -> bytes:
    """A long name above many records: names that are made of it are as long."""
    records = json.loads(sound) if sound[:1] in (b"{", b"[") and b"\n" not in sound[:-1] else {}
    rows = [row for row in (records.values() if isinstance(records, dict) else records) if isinstance(row, dict)]
    return json.dumps({"k" * 300_000: (rows or [{}])[:1] * 2000}).encode()


def _many_rows(rng: random.Random, sound: bytes) -> bytes:
    """The last line, or the last value of a list, again and again."""
    if sound[:1] == b"[":
        rows = json.loads(sound)
        return json.dumps(rows + rows[-1:] * (400_000 // (len(json.dumps(rows[-1])) + 1))).encode()
    lines = sound.rstrip(b"\n").split(b"\n")
    return b"\n".join([*lines, *[lines[-1]] * (400_000 // (len(lines[-1]) + 1))]) + b"\n"


def _wide(rng: random.Random, sound: bytes) -> bytes:
    mark = b"\t" if b"\t" in sound else b","
    return sound.split(b"\n")[0] + b"\n" + rng.choice((b"x", mark, b'"', b"'a',")) * 1_000_000


def _many_columns(rng: random.Random, sound: bytes) -> bytes:
    mark = "\t" if b"\t" in sound else ","
    names = sound.split(b"\n")[0] + "".join(f"{mark}c{n}" for n in range(200_000)).encode()
    return names + b"\n" + b"\n".join([sound.split(b"\n")[-2]] * 20_000) + b"\n"


def _long_names(rng: random.Random, sound: bytes) -> bytes:
    """Rows without what is asked for, under names that a message about each of them could repeat."""
    mark = b"\t" if b"\t" in sound else b","
    names = [letter.encode() * 100_000 for letter in "abcdefgh"[: rng.choice((1, 8))]]
    return mark.join(names) + b"\n" + (mark.join([b"x"] * len(names)) + b"\n") * 5000


def _blank_lines(rng: random.Random, sound: bytes) -> bytes:
    return sound + rng.choice((b"\n", b"x\n", b"{}\n", b"a,\n", b"\r")) * 100_000


def _long_text(rng: random.Random, sound: bytes) -> bytes:
    return sound[: rng.randrange(len(sound) + 1)] + b"a" * 2_000_000


def _prompts(rng: random.Random, sound: bytes) -> bytes:
    return b"{}\n" * 300_000


# ---- Models and tokenizers -------------------------------------------------------------------------------------------


def _large_numbers(rng: random.Random, sound: bytes) -> bytes:
    """Numbers of a config that are the largest a file can have."""

    def grown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: grown(inner) for key, inner in value.items()}
        if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.3:
            return rng.choice((value * 1000, 1 << 14, 1 << 16, 1 << 20, 10**9, 1 << 40))
        return value

    return json.dumps(grown(json.loads(sound))).encode()


def hostile_tokenizer(rng: random.Random, state: dict[str, Any]) -> dict[str, Any]:
    """``state`` with one part that grows without end, in its normalizer, patterns, padding or template."""
    replace = {"type": "Replace", "pattern": {"String": rng.choice("aet")}, "content": rng.choice(("aa", "tt" * 50))}
    alternatives = "(?:[a-z ]|[a-z ]){21}#"
    regex = rng.choice(
        (
            r"((a+))+$",
            alternatives,
            r"\w*\w*\w*\w*#",
            "(?:(?:a{1,30000}b){1,30000}c){1,30000}",
            "[ab]{90000}" * 500,
            "(x*)*y",
        )
    )
    split = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    padding = {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "a", "pad_to_multiple_of": None}
    size = rng.choice((10**8, 3 * 10**8, 10**12))
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "a", "type_id": 0}}] * 20_000,
        "pair": [],
    }
    repeated = {**template, "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 20_000, "special_tokens": {}}
    prefix = {"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": True}
    letters = {"type": "Split", "pattern": {"Regex": "[a-z]"}, "behavior": "Isolated", "invert": False}
    token = {"id": "a", "ids": [1] * 20_000, "tokens": ["a"] * 20_000}
    charsmap = base64.b64encode(struct.pack("<I", 4) + bytes(4) + b"a" * 500_000 + b"\0").decode()
    model = state.get("model", {"vocab": {}})  # a tokenizer's config has none
    largest = model | {"vocab": dict(model["vocab"], a=rng.choice((200_000_000, 4_000_000_000)))}
    deep = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["x" * 2_000_000, -1.0]]}
    change: dict[str, Any] = rng.choice(
        (
            {"normalizer": {"type": "Sequence", "normalizers": [replace] * 40}},
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap}},
            {"pre_tokenizer": split},
            {"padding": {**padding, "strategy": {"Fixed": size}}},
            {"padding": {**padding, "strategy": "BatchLongest", "pad_to_multiple_of": size}},
            {"post_processor": {**template, "special_tokens": {"a": token}}},
            {"post_processor": repeated},
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [letters, prefix] * 10}},
            {"model": deep},
            {"model": largest},
        )
    )
    return state | change


def _large_id(rng: random.Random, sound: bytes) -> bytes:
    """An id of a vocabulary, below which the library lists those that no token has."""
    vocab = json.loads(sound) if sound[:1] == b"{" else {}
    return json.dumps(vocab | {"a": rng.choice((200_000_000, 4_000_000_000))}).encode()


def _tokenizer(rng: random.Random, sound: bytes) -> bytes:
    return json.dumps(hostile_tokenizer(rng, json.loads(sound))).encode()


def _processor(rng: random.Random, sound: bytes) -> bytes:
    fields = json.loads(sound)
    return json.dumps(
        fields | {"tokenizer": json.dumps(hostile_tokenizer(rng, json.loads(fields["tokenizer"])))}
    ).encode()


# ---- Tensors ---------------------------------------------------------------------------------------------------------


def _archive(program: bytes, deflated: bool) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/version", "3")
    return buffer.getvalue()


def _unicode(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _program(rng: random.Random) -> bytes:
    """A pickle that names one thing again and again."""
    pair, many = b"(K\x00K\x00t", rng.choice((100_000, 1_000_000))
    module = b"\x80\x02c__torch__\nM\nq\x01"
    return rng.choice(
        (
            # OrderedDict of one long list, over and over
            b"\x80\x02("
            + pair
            + b"q\x00"
            + b"h\x00" * many
            + b"lq\x02"
            + b"ccollections\nOrderedDict\nq\x03"
            + b"h\x03h\x02\x85R0" * 50_000
            + b".",
            b"\x80\x02]q\x00("
            + b"N" * many
            + b"e"
            + b"ccollections\nOrderedDict\nq\x03"
            + b"h\x03h\x00\x85R0" * 50_000
            + b".",
            # a module of modules with one long name
            module + _unicode("n" * 500_000) + b"q\x02" + b"h\x01)\x81q\x03" + b"h\x01)\x81}(h\x02h\x03ub" * 150 + b".",
            module
            + b"h\x01)\x81q\x02"
            + b"".join(
                b"h\x01)\x81}("
                + b"".join(_unicode(f"{k}") + b"h" + bytes([2 + n]) for k in range(9))
                + b"ubq"
                + bytes([3 + n])
                for n in range(20)
            )
            + b".",
            # numbers that have one hash
            b"\x80\x02}("
            + b"".join(b"\x8a\x0a" + (n * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for n in range(40_000))
            + b"u.",
            b"\x80\x02" + b"}" * many + b".",
            b"\x80\x02" + b"}q\x00" * many + b".",
            b"\x80\x02" + _unicode("a" * 1_000_000) + b"q\x00" + b"h\x00h\x00\x93" * 1000 + b".",
        )
    )


def _pickle(rng: random.Random, sound: bytes) -> bytes:
    return _archive(_program(rng), rng.random() < 0.7)


def _shared_storage(rng: random.Random, sound: bytes) -> bytes:
    """Small tensors on one large storage, each of which is a part of it or reaches over all of it."""
    numel, count = 1_000_000, 8000
    reference = b"(" + _unicode("storage") + b"ctorch\nFloatStorage\n" + _unicode("0") + _unicode("cpu")
    reference += b"J" + struct.pack("<i", numel) + b"tQq\x02"
    sides = rng.choice((b"K\x01\x85K\x01\x85", b"K\x02\x85J" + struct.pack("<i", numel - 1) + b"\x85"))
    rest = b"K\x00" + sides + b"\x89NtR"
    program = b"\x80\x02}(" + _unicode("first") + b"ctorch._utils\n_rebuild_tensor_v2\nq\x01(" + reference + rest
    program += b"".join(_unicode(f"{n}") + b"h\x01(h\x02" + rest for n in range(count)) + b"u."
    buffer = io.BytesIO(_archive(program, False))
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("archive/data/0", bytes(4 * numel))
    return buffer.getvalue()


def _old_pickle(rng: random.Random, sound: bytes) -> bytes:
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + _program(rng)


def _zip_bomb(rng: random.Random, sound: bytes) -> bytes:
    buffer, size = io.BytesIO(), rng.choice((10 << 20, 60 << 20, 200 << 20))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (size // 4,)})
        file.writestr("a.npy", header.getvalue() + bytes(size))
    return buffer.getvalue()


def hidden_size(name: str, start: bytes, method: int, stated: int, size: int) -> bytes:
    """A zip archive of one member, of ``start`` and zeros, that unpacks to ``size`` bytes and is said to have
    ``stated``."""
    packer = bz2.BZ2Compressor() if method == zipfile.ZIP_BZIP2 else zlib.compressobj(wbits=-15)
    packed = packer.compress(start + bytes(size)) + packer.flush()
    checksum, file = zlib.crc32(start.ljust(stated, b"\0")), name.encode()
    fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, checksum, len(packed), stated, len(file), 0)
    member = b"PK\3\4" + fields + file + packed
    entry = b"PK\1\2" + struct.pack("<H", 20) + fields + bytes(14) + file
    return member + entry + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(member), 0)


def _hidden_array(rng: random.Random, sound: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (25,)})
    start, method = header.getvalue(), rng.choice((zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED))
    return hidden_size("a.npy", start, method, len(start) + 100, 200 << 20)


def _hidden_pickle(rng: random.Random, sound: bytes) -> bytes:
    return hidden_size("archive/data.pkl", b"\x80\2}.", zipfile.ZIP_DEFLATED, 1000, 200 << 20)


def _long_headers(rng: random.Random, sound: bytes) -> bytes:
    """Arrays without elements, whose headers Python's parser reads."""
    header = "{'descr':'<f4','fortran_order':False,'shape':(0" + ",1" * rng.choice((90, 4900)) + ")}\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for n in range(1500):
            file.writestr(f"{n}.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode())
    return buffer.getvalue()


def _many_members(rng: random.Random, sound: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for n in range(20_000):
            file.writestr(f"{n}", b"")
    return buffer.getvalue()


# ---- Arrow, Parquet, tar ---------------------------------------------------------------------------------------------


def _tables(rng: random.Random, sound: bytes) -> pa.Table:
    """A table with the columns of the sound file, of values that compress well."""
    schema = pq.read_schema(io.BytesIO(sound)) if sound[:4] == b"PAR1" else pa.ipc.open_stream(io.BytesIO(sound)).schema
    rows, size = rng.choice(((100, 50_000_000), (20_000, 100_000), (3_000_000, 1), (1, 100_000_000), (1000, 1_000_000)))

    def column(kind: pa.DataType) -> pa.Array:
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array(["a" * size], kind))
        if pa.types.is_list(kind):
            many = min(20_000_000 // rows, size)
            return pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1, dtype=np.int32) * many), pa.nulls(rows * many, kind.value_type)
            )
        return pa.nulls(rows, kind)

    return pa.table({field.name: column(field.type) for field in schema}).replace_schema_metadata(schema.metadata)


def _parquet(rng: random.Random, sound: bytes) -> bytes:
    buffer = io.BytesIO()
    codec, version = rng.choice(("zstd", "snappy", "gzip")), rng.choice(("1.0", "2.0"))
    pq.write_table(_tables(rng, sound), buffer, compression=codec, data_page_version=version)
    return buffer.getvalue()


def _equal_rows(rng: random.Random, sound: bytes) -> bytes:
    """The first row, nearly as often as there may be rows."""
    buffer = io.BytesIO()
    row = pq.read_table(io.BytesIO(sound)).slice(0, 1)
    pq.write_table(row.take(np.zeros(35_000, int)), buffer, compression="zstd")
    return buffer.getvalue()


def _no_rows(rng: random.Random, sound: bytes) -> bytes:
    """Many columns and no rows."""
    buffer = io.BytesIO()
    schema = pa.schema([(f"{n:x}", pa.bool_()) for n in range(200_000)])
    pq.ParquetWriter(buffer, schema, store_schema=False).close()
    return buffer.getvalue()


def _arrow(rng: random.Random, sound: bytes) -> bytes:
    table, buffer = _tables(rng, sound), io.BytesIO()
    codec = rng.choice(("zstd", "lz4"))
    with pa.ipc.new_stream(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def _shared_dictionary(rng: random.Random, sound: bytes) -> bytes:
    """Batches of one row, with a dictionary that is checked for each."""
    names, row = pa.array([f"{n:05x}" for n in range(400_000)]), pa.array([0], pa.int32())
    schema, buffer = pa.schema([("image", pa.dictionary(pa.int32(), pa.string()))]), io.BytesIO()
    with pa.ipc.new_stream(buffer, schema) as writer:
        for _ in range(8000):
            writer.write_batch(pa.record_batch([pa.DictionaryArray.from_arrays(row, names)], schema=schema))
    return buffer.getvalue()


def _shared_columns(rng: random.Random, sound: bytes) -> bytes:
    """Columns of strings, all in the place of the first."""
    count = 10_000
    columns, buffer = [pa.array(["é" * 700_000]), *[pa.array(["x"])] * (count - 1)], io.BytesIO()
    batch = pa.record_batch(columns, [f"{n:x}" for n in range(count)])
    with pa.ipc.new_stream(buffer, batch.schema) as writer:
        writer.write_batch(batch)
    data = bytearray(buffer.getvalue())
    start = data.index(struct.pack("<4q", 0, 0, 0, 8))  # where the buffers of the first are: none, offsets, letters
    place = data[start + 16 : start + 48]
    for n in range(1, count):
        data[start + 48 * n + 16 : start + 48 * n + 48] = place
    return bytes(data)


def _tar(rng: random.Random, sound: bytes) -> bytes:
    buffer = io.BytesIO()
    headers = rng.choice(
        (
            {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**12)},
            {"GNU.sparse.map": "0,1," * 100_000 + "0,1", "GNU.sparse.size": str(10**12)},
            {f"k{n}": "v" for n in range(20_000)},
            {"path": "a" * 500_000},
        )
    )
    everywhere = rng.choice(({}, headers))
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers=everywhere) as tar:
        for n in range(rng.choice((20, 6000))):
            member = tarfile.TarInfo(f"{n}.{rng.choice(('jpg', 'txt', 'json'))}")
            member.pax_headers = headers if len(str(headers)) < 1000 or n == 0 else {}
            tar.addfile(member)
    return buffer.getvalue()


def _overlapping_headers(rng: random.Random, sound: bytes) -> bytes:
    """An extended header whose records are all in one place."""
    records = rng.choice((b"2 " * 30_000 + b"=", b"1" * 30_000))
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, len(records)
    return header.tobuf() + records + bytes(-len(records) % 512) + tarfile.TarInfo("a.jpg").tobuf() + bytes(1024)


# Kind of a reader's files -> its bombs.
BOMBS: dict[str, Sequence[Bomb]] = {
    "bytes": (_long_text, lambda rng, sound: bytes(1_000_000), lambda rng, sound: sound * 20),
    "text": (_long_text, _blank_lines, _prompts, _many_rows),
    "table": (_wide, _many_columns, _long_names, _blank_lines, _many_rows, _long_text),
    "lines": (_deep, _small_values, _blank_lines, _many_rows, _long_text),
    "json": (_deep, _small_values, _equal_keys, _long_key, _many_rows, _long_text),
    "vocab": (_large_id, _deep, _small_values, _equal_keys, _long_key, _many_rows, _long_text),
    "config": (_large_numbers, _deep, _small_values),
    "tokenizer": (_tokenizer, _small_values),
    "processor": (_processor, _large_numbers),
    "pickle": (_pickle, _old_pickle, _many_members, _shared_storage, _hidden_pickle),
    "zip": (_zip_bomb, _many_members, _long_headers, _hidden_array),
    "parquet": (_parquet, _no_rows, _equal_rows),
    "arrow": (_arrow, _shared_dictionary, _shared_columns),
    "tar": (_tar, _overlapping_headers, _long_text),
    **{f"image {form}": bombs for form, bombs in IMAGE_BOMBS.items()},
}
