"""Files of the user: tables, and folders that are there whole or not at all."""

import csv
import errno
import fcntl
import tracemalloc
import zipfile

import pytest

from tests.helpers.bombs import hidden_size
from tfds_naturel.common.files import dict_rows, new_folder, open_zip, unzip


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
