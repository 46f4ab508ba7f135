"""Every reader of files from elsewhere: what the product's tables have is here, damaged files give one line, and bombs
cost no more than their size allows."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import bombs, costs, readers
from tests.helpers.fuzzing import fuzz
from tests.helpers.readers import READERS
from tfds_naturel.common import arrow_files
from tfds_naturel.common.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),
    pytest.mark.filterwarnings("ignore:Reading `.npy`"),  # of Python 2
    pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning"),  # pickletools, of mutated strings
    pytest.mark.filterwarnings("ignore:.*forkserver:DeprecationWarning"),
]
SLOW = ("source tfds", "source parquet")  # seconds to write or read


def test_every_reader_has_sound_files_and_bombs():
    assert readers.names() - READERS.keys() == set(), "readers without a row in tests/helpers/readers.py"
    assert {reader.kind for reader in READERS.values()} <= bombs.BOMBS.keys()


# Modules that open files and are not run by a reader of the table: why.
ELSEWHERE = {
    "files of the project": """naturel_jax/report/known_scores.py naturel_jax/report/text_alone.py
        tfds_naturel/captions/attributes.py tfds_naturel/captions/lexicon.py tfds_naturel/captions/relations.py
        tfds_naturel/open_images/releases.py tfds_naturel/release/datasheet.py tfds_naturel/release/pages.py
        tfds_naturel/scenes/twins.py naturel_jax/cli/sweeps/grids.py""",
    "state of a run or of a cache, in test_fuzz_files.py and the tests of checkpoints": """
        naturel_jax/checkpoints/finished.py naturel_jax/checkpoints/manifest.py naturel_jax/data/items/index.py
        naturel_jax/data/seen/trained_on.py naturel_jax/evaluators/watch.py naturel_jax/report/published.py
        naturel_jax/reproduce/runner.py naturel_jax/storage/staging.py naturel_jax/storage/state.py
        naturel_jax/training/run_folder.py naturel_jax/training/start.py naturel_jax/training/ready.py
        naturel_jax/storage/leases.py naturel_jax/cli/sweeps/runs.py naturel_jax/cli/sweeps/search.py
        naturel_jax/weights/runs.py naturel_jax/evaluators/examples.py naturel_jax/report/provenance.py
        naturel_jax/evaluators/pool/remining.py""",
    "prepared datasets, in test_benchmarks_tfds.py": "naturel_jax/benchmarks/naturel_exchanged.py",
    "answers of readers, in test_readers.py of tfds_naturel": "tfds_naturel/audit/readers.py",
    "tables and photos of Open Images, in test_fuzz_files.py": """tfds_naturel/open_images/annotations.py
        tfds_naturel/open_images/attribution.py tfds_naturel/open_images/journal.py""",
    "answers of servers, in test_hub.py and test_benchmarks_download.py": """naturel_jax/benchmarks/download.py
        naturel_jax/benchmarks/coco.py naturel_jax/reproduce/coco_train.py naturel_jax/weights/hub.py""",
    "requests to naturel-try, in test_playground.py": """naturel_jax/report/playground/playground.py
        naturel_jax/report/playground/server.py""",
    "releases, in test_release.py": "tfds_naturel/release/files.py",
    "a pool that naturel-embed has written, in test_pool.py": """naturel_jax/evaluators/pool/embedded.py
        naturel_jax/evaluators/pool/files.py naturel_jax/evaluators/pool/index.py
        naturel_jax/evaluators/pool/sharded.py""",
    "images that a run has drawn": "naturel_jax/training/mistakes.py naturel_jax/training/writers.py",
    "files that another reader has opened": """naturel_jax/evaluators/embed.py naturel_jax/evaluators/mistakes.py
        naturel_jax/weights/verify.py tfds_naturel/audit/other_benchmarks.py""",
}


@pytest.mark.slow
def test_every_module_that_opens_files_is_run_by_a_reader(tmp_path):
    run = set()
    for name, reader in READERS.items():
        folder = tmp_path / name.replace("/", " ")
        folder.mkdir()
        reader.write(folder)
        threading.setprofile(lambda frame, *_: run.add(frame.f_code.co_filename))
        sys.setprofile(lambda frame, *_: run.add(frame.f_code.co_filename))
        try:
            reader.read(folder)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    listed = {module for group in ELSEWHERE.values() for module in group.split()}
    left = {module for module in readers.modules() - listed if not any(path.endswith("/" + module) for path in run)}
    assert not left, f"modules that open files, which no row of tests/helpers/readers.py runs: {sorted(left)}"


@pytest.mark.parametrize(
    ("name", "count"),
    [(name, 3) for name in READERS if name not in SLOW]
    + [pytest.param(name, 20, marks=pytest.mark.slow) for name in READERS]
    + [pytest.param(name, 10_000, marks=pytest.mark.proof) for name in READERS],
)
def test_damaged_files_give_one_line(tmp_path, name, count):
    files = READERS[name].write(tmp_path)
    is_table = name.startswith("source ") or name == "benchmark urban1k"  # whose bad records are listed
    fuzz(
        files,
        lambda: READERS[name].read(tmp_path),
        count,
        READERS[name].allowed,
        must_refuse=count > 3 and not is_table,
    )


# Their openers are given files that their callers have looked at.
OPENED = ("tensors ", "image ", "photo ")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in READERS
        if not name.startswith((*OPENED, "pool "))
    ],
)
def test_pipes_are_not_waited_for(tmp_path, name):
    """Nor are devices read without end: they are told from files alike."""

    def stop(*_: object) -> None:
        raise AssertionError("waits for the other end of a pipe")

    for path in READERS[name].write(tmp_path):
        sound = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        before = signal.signal(signal.SIGALRM, stop)
        signal.alarm(20)
        try:
            with contextlib.suppress(UserError, OSError, *READERS[name].allowed):
                READERS[name].read(tmp_path)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        path.unlink()
        path.write_bytes(sound)


FLIPPED = """
import subprocess
import sys
from pathlib import Path
import pyarrow as pa
from tfds_naturel.common import arrow_files
from tfds_naturel.common.errors import UserError
path, kept = Path(sys.argv[1]), 0
whole = path.read_bytes()
begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for bit in range(8 * begin, 8 * len(whole)):
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    path.write_bytes(flipped)
    try:
        kept += sum(batch.num_rows for batch in arrow_files.parquet_batches(path, 8))
    except (pa.ArrowException, OSError, ValueError):
        pass
print(bit - 8 * begin + 1, kept)
"""


@pytest.mark.slow
def test_no_bit_of_a_parquet_footer_ends_the_process(tmp_path):
    """Arrow ends it if it is asked for a column whose statistics contradict the schema."""
    columns = {"a": ["x", "y"], "b": [["x"], []], "c": [1, 2], "d": [0.5, None], "e": [{"f": b"x"}, {"f": b"y"}]}
    pq.write_table(pa.table(columns), tmp_path / "file.parquet")
    done = subprocess.run(
        [sys.executable, "-c", FLIPPED, tmp_path / "file.parquet"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    flips, kept = map(int, done.stdout.split())
    assert 0 < kept < 2 * flips, "some are read, and some are refused"
    print(f"seen: {flips:,} flips")


def number(value: int, size: int) -> bytes:
    """A number in Thrift's compact protocol, in ``size`` bytes."""
    return bytes(2 * value >> 7 * n & 127 | 128 * (n < size - 1) for n in range(size))


@pytest.mark.parametrize("hidden", ["in a number that wraps around", "behind another type"])
def test_arrow_reads_no_other_page_header_than_is_checked(hidden, tmp_path):
    """It would unpack what the file has no right to."""
    path, size = tmp_path / "file.parquet", 1 << 25
    table = pa.table({"a": [b"x" * size]}, pa.schema([pa.field("a", pa.binary(), nullable=False)]))
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **options)  # the checksum makes room in the header
    data = path.read_bytes()
    start = data.index(b"\x1c\x15\x02")  # of field 5, the header of a data page
    end = data.index(b"\0\0\0", start) + 2
    sizes = data[4:start].split(b"\x15")  # before field 5: the type, the sizes, the checksum
    assert sizes[:2] == [b"", b"\0"] and sizes[2] == number(size + 4, 4) and len(sizes[4]) == 5
    if hidden == "behind another type":
        header = b"\x15\x06\x15" + sizes[2] + b"\x15" + sizes[3] + b"\x2c" + data[start + 1 : end] + b"\x3c\0\0"
    else:  # field 65,538, which Arrow takes for a second field 2
        header = b"\x15\x00\x15" + number(100, 2) + b"\x15" + sizes[3] + b"\x2c" + data[start + 1 : end]
        header += b"\x05" + number(65_538, 3) + number(size + 4, 4) + b"\0"
        assert len(header) == end + 1 - 4, "the page begins where it did"
    path.write_bytes(data[:4] + header + data[4 + len(header) :])
    with pytest.raises(pa.ArrowInvalid, match=r"too large for its type|described as one of another type"):
        list(arrow_files.parquet_batches(path, 8))


def struct_of(*fields: tuple[int, int, bytes]) -> bytes:
    """A struct in Thrift's compact protocol, of (field, type, value); type 5 and 6: numbers, 9: lists, 12: structs."""
    numbers = [0, *(number for number, _, _ in fields)]
    heads = [(now - last) << 4 | kind for (now, kind, _), last in zip(fields, numbers, strict=False)]
    return b"".join(bytes([head]) + value for head, (_, _, value) in zip(heads, fields, strict=True)) + b"\0"


def listed(kind: int, values: Sequence[bytes]) -> bytes:
    return bytes([0xF0 | kind, len(values) & 127 | 128, len(values) >> 7]) + b"".join(values)


def test_columns_in_one_place_are_refused(tmp_path):
    """Each column's pages are gone through, and Arrow reads all columns at once."""
    data = struct_of((1, 5, b"\0"), (2, 5, b"\0"), (3, 5, b"\0"), (5, 12, struct_of((1, 5, b"\0"), (2, 5, b"\0"))))
    pages, names = data * 2000, [number(n, 2).hex().encode() for n in range(1000)]
    size = number(len(pages), 3)

    def column(name: bytes) -> bytes:
        path = listed(8, [bytes([len(name)]) + name])
        where = [(5, 6, b"\2"), (6, 6, size), (7, 6, size), (9, 6, b"\x08")]  # a value; bytes; from the fourth on
        described = struct_of((1, 5, b"\2"), (2, 9, listed(5, [])), (3, 9, path), (4, 5, b"\0"), *where)
        return struct_of((2, 6, b"\x08"), (3, 12, described))

    leaves = [struct_of((1, 5, b"\2"), (3, 5, b"\0"), (4, 8, bytes([len(name)]) + name)) for name in names]
    schema = listed(12, [struct_of((4, 8, b"\1m"), (5, 5, number(len(names), 2))), *leaves])
    group = struct_of((1, 9, listed(12, [column(name) for name in names])), (2, 6, size), (3, 6, b"\0"))
    footer = struct_of((1, 5, b"\2"), (2, 9, schema), (3, 6, b"\0"), (4, 9, listed(12, [group])))
    path = tmp_path / "file.parquet"
    path.write_bytes(b"PAR1" + pages + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(UserError, match=r"unpack to 26,000,000 bytes of columns"):
        list(arrow_files.parquet_batches(path, 8))


def each_once() -> Iterator[tuple[str, int]]:
    """(reader, number of a bomb): each bomb of a kind once, for the readers of that kind in turn."""
    for kind, of_kind in bombs.BOMBS.items():
        names = [name for name, reader in READERS.items() if reader.kind == kind]
        yield from ((names[number % len(names)], number) for number in range(len(of_kind)))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [pytest.param(name, [number], marks=pytest.mark.slow, id=f"{name}-{number}") for name, number in each_once()]
    + [pytest.param(name, range(20), marks=pytest.mark.proof, id=name) for name in READERS],
)
def test_bombs_cost_no_more_than_their_size_allows(tmp_path, name, numbers):
    for number in numbers:
        cost, size, what = costs.cost_of(name, number, tmp_path)
        assert not cost.over(size), f"{what}, {size:,} bytes: {cost.over(size)}"
