"""Files of the user: tables, and folders that are there whole or not at all."""

import csv
import errno
import fcntl
import tracemalloc
import zipfile

import pytest

from tests.helpers.bombs import hidden_size
from tfds_naturel.common.files import dict_rows, new_folder, open_zip, python_strings, unzip


def test_file_system_without_locks_is_an_error_that_leaves_nothing(tmp_path, monkeypatch):
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="No locks available"), new_folder(tmp_path / "out"):
        pass
    assert not list(tmp_path.iterdir())


def test_short_rows_under_a_long_header_stay_short():
    names, rows = dict_rows(["a,b,c\n", "1\n", "\n", "1,2,3\n", "1,2,3,4\n"])
    assert (names, next(rows), next(rows)) == (["a", "b", "c"], {"a": "1"}, {"a": "1", "b": "2", "c": "3"})
    with pytest.raises(csv.Error, match="line 5 has 4 cells; the header has 3"):
        next(rows)


@pytest.mark.parametrize("lines", [['"zoo,1,2', "b,3,4", 'c",5,6'], ['"zoo,1,2', "", "b,3", "d,3,4", "", 'c",5,6']])
def test_rows_in_a_cell_are_an_error(lines):
    _, rows = dict_rows(["a,b,c\n", "x,1,2\n", *[f"{line}\n" for line in lines], "y,1,2\n"])
    assert next(rows)["a"] == "x"
    with pytest.raises(
        csv.Error, match=f"lines 3 to {2 + len(lines)} are one record, since a cell begins with a quote"
    ):
        next(rows)


def test_lines_of_a_text_are_no_rows():
    _, rows = dict_rows(["a,b,c\n", '"One, two,\n', "three.\n", "\n", 'Four, and five.",1,2\n'])
    assert list(rows) == [{"a": "One, two,\nthree.\n\nFour, and five.", "b": "1", "c": "2"}]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("['a', \"b's\"]", ["a", "b's"]),
        (" ['b\\n', 'a',]", ["b\n", "a"]),
        ("{'b', 'a', 'a'}", ["a", "b"]),
        ("[]", []),
        ("['a' 'b']", None),
        ("['a'\n 'b', 'c']", None),
        ("'a mat'", None),
        ("[1]", None),
        ("['a', b]", None),
    ],
)
def test_strings_of_a_list_in_a_cell(text, expected):
    assert python_strings(text) == expected


def test_no_more_is_unpacked_of_a_zip_file_than_the_size_that_it_states(tmp_path):
    path = tmp_path / "images.zip"
    path.write_bytes(hidden_size("a.png", b"start", zipfile.ZIP_DEFLATED, 1000, 20_000_000))
    archive = open_zip(path)
    tracemalloc.start()
    try:
        assert unzip(archive, archive.infolist()[0]) == b"start".ljust(1000, b"\0")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_zip_files_that_python_unpacks_whole_are_refused(tmp_path):
    (tmp_path / "images.zip").write_bytes(hidden_size("a.png", b"start", zipfile.ZIP_BZIP2, 1000, 20_000_000))
    with pytest.raises(zipfile.BadZipFile, match=r"'a\.png' is packed by another method than deflate"):
        open_zip(tmp_path / "images.zip")
