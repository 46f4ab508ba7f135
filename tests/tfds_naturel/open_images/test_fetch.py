"""The fetcher against a local server that truncates, stalls, fails or sends wrong data; also killed and resumed."""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import simplejpeg

from tests.helpers.open_images_files import image_id, photo, row, write_release
from tests.helpers.photo_server import entries, file_of, serving, url_of, world
from tests.helpers.processes import wait_until
from tfds_naturel.common import download, photos
from tfds_naturel.common.errors import Stopped, UserError
from tfds_naturel.open_images import fetch, journal
from tfds_naturel.open_images.releases import RELEASES, OfficialFile


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def logged(caplog):
    """Captures the fetcher's messages, which have level INFO."""
    caplog.set_level("INFO", "tfds_naturel")


@pytest.fixture
def quick(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(download.random, "uniform", lambda low, high: 0.0)


def test_fetches_each_annotated_photo_once_and_logs_the_size_first(server, tmp_path, capsys, caplog):
    arguments = world(server, tmp_path, 20)
    server.files["/train/ffffffffffffffff.jpg"] = photo(99)  # in the bucket, but not annotated
    fetch.main(arguments)
    assert all(file_of(tmp_path, i).read_bytes() == photo(i) for i in range(20))
    assert set(server.gets) == {url_of(i) for i in range(20)} and set(server.gets.values()) == {1}
    assert "20 photos, about 0.01 GB" in caplog.text and "ok 20" in capsys.readouterr().out
    assert server.most_busy <= 4

    fetch.main(arguments)
    assert set(server.gets.values()) == {1}
    assert "20 already fetched" in caplog.text


@pytest.mark.parametrize("faults", [[503, 429, "stall"], [500, "truncate", "html"]], ids=str)
def test_transient_faults_are_retried(server, tmp_path, quick, faults):
    arguments = world(server, tmp_path, 3)
    server.faults[url_of(1)] = list(faults)
    fetch.main(arguments)
    assert file_of(tmp_path, 1).read_bytes() == photo(1)
    assert server.gets[url_of(1)] == len(faults) + 1
    assert server.gets[url_of(0)] == server.gets[url_of(2)] == 1


def test_limit_takes_the_first_images_by_id(server, tmp_path):
    arguments = world(server, tmp_path, 20)
    fetch.main([*arguments, "--limit", "0"])
    assert not server.gets
    fetch.main([*arguments, "--limit", "5"])
    assert set(server.gets) == {f"/train/{name}.jpg" for name in sorted(map(image_id, range(20)))[:5]}
    with pytest.raises(UserError, match="--limit -1: expected 0 or more"):
        fetch.main([*arguments, "--limit", "-1"])


def test_mirror_has_each_host_below_its_address(server, tmp_path, monkeypatch):
    arguments = world(server, tmp_path, 3)
    server.files = {f"/files/photos.example{path}": data for path, data in server.files.items()}
    monkeypatch.setenv("NATUREL_MIRROR", f"{server.url}/files/")
    fetch.main([*arguments, "--images_url", "https://photos.example"])
    assert file_of(tmp_path, 2).read_bytes() == photo(2)
    assert set(server.gets) == {f"/files/photos.example{url_of(n)}" for n in range(3)}


def test_malformed_rows_are_counted(server, tmp_path, caplog):
    arguments = world(server, tmp_path, 2)
    with (tmp_path / "annotations" / RELEASES["v4"].rows.name).open("a") as f:
        f.write("../../x,y\n")
    fetch.main(arguments)
    assert "skipping 1 malformed rows" in caplog.text and "2 annotated images" in caplog.text


def test_missing_photos_are_recorded_and_not_requested_again(server, tmp_path):
    arguments = world(server, tmp_path, 3)
    del server.files[url_of(1)]
    fetch.main(arguments)
    fetch.main(arguments)
    assert server.gets[url_of(1)] == 1
    assert entries(tmp_path)[image_id(1)].status == "missing" and "404" in entries(tmp_path)[image_id(1)].detail
    server.files[url_of(1)] = photo(1)
    fetch.main([*arguments, "--retry_missing"])
    assert file_of(tmp_path, 1).read_bytes() == photo(1) and entries(tmp_path)[image_id(1)].status == "ok"


def test_persistent_faults_fail_the_run_and_are_retried_by_the_next(server, tmp_path, quick):
    arguments = [*world(server, tmp_path, 3), "--attempts", "3"]
    server.faults[url_of(1)] = ["html"] * 3
    with pytest.raises(Stopped, match="1 photos failed; run the same command again"):
        fetch.main(arguments)
    assert server.gets[url_of(1)] == 3 and not file_of(tmp_path, 1).exists() and file_of(tmp_path, 2).exists()
    fetch.main(arguments)
    assert file_of(tmp_path, 1).read_bytes() == photo(1)
    assert server.gets[url_of(0)] == 1


def test_dead_server_ends_the_run(server, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_CONSECUTIVE_FAILURES", 5)
    arguments = [*world(server, tmp_path, 30), "--attempts", "1"]
    for i in range(30):
        server.faults[url_of(i)] = [503]
    with pytest.raises(Stopped, match=r"5 photos in a row failed.*HTTP 503"):
        fetch.main(arguments)
    assert len(server.gets) < 15


def test_placeholders_and_decompression_bombs_are_recorded_by_kind(server, tmp_path, quick, monkeypatch):
    arguments = world(server, tmp_path, 3)
    server.files[url_of(0)] = simplejpeg.encode_jpeg(np.full((64, 96, 3), 200, np.uint8))
    server.files[url_of(1)] = simplejpeg.encode_jpeg(np.zeros((10_000, 6_500, 1), np.uint8), colorspace="GRAY")
    monkeypatch.setattr(photos, "MAX_BYTES", 100_000_000)
    fetch.main(arguments)
    assert [entries(tmp_path)[image_id(i)].status for i in range(3)] == ["blank", "too_large", "ok"]
    assert not file_of(tmp_path, 0).exists() and not file_of(tmp_path, 1).exists()


def test_killed_run_resumes(server, tmp_path):
    arguments = world(server, tmp_path, 60)
    server.delay = 0.05
    command = [sys.executable, "-m", "tfds_naturel.open_images.fetch", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: len(server.gets) >= 15)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = dict(server.gets)
    assert len(before) < 60
    on_disk = [i for i in range(60) if file_of(tmp_path, i).exists()]
    assert on_disk and all(file_of(tmp_path, i).read_bytes() == photo(i) for i in on_disk)

    # A crash may leave half a journal line, half a photo under its temporary name, or a photo without a journal line.
    with (tmp_path / "images/train/journal.csv").open("a") as f:
        f.write(f"{image_id(0)},o")
    (tmp_path / "images/train/abc.part").write_bytes(b"half")
    absent = next(i for i in range(60) if url_of(i) not in before)
    file_of(tmp_path, absent).write_bytes(photo(absent))
    fetch.main(arguments)
    assert all(file_of(tmp_path, i).read_bytes() == photo(i) for i in range(60))
    assert all(server.gets[url_of(i)] == before[url_of(i)] for i in on_disk) and server.gets[url_of(absent)] == 0
    assert len(entries(tmp_path)) == 60 and not list(tmp_path.glob("images/train/*.part"))


def test_photos_changed_on_disk_are_checked_again(server, tmp_path):
    arguments = world(server, tmp_path, 2)
    fetch.main(arguments)
    file_of(tmp_path, 0).write_bytes(photo(0)[:-500])
    fetch.main(arguments)
    assert file_of(tmp_path, 0).read_bytes() == photo(0) and server.gets[url_of(0)] == 2
    assert file_of(tmp_path, 0).with_suffix(".rejected").read_bytes() == photo(0)[:-500], "it may be the user's"
    file_of(tmp_path, 0).write_bytes(photo(0)[:-9])
    fetch.main(arguments)
    assert file_of(tmp_path, 0).with_suffix(".rejected").read_bytes() == photo(0)[:-500], "the first one is lost"
    with file_of(tmp_path, 1).open("wb") as f:
        f.truncate(1 << 40)  # holes: its bytes fit into no memory
    fetch.main(arguments)
    assert file_of(tmp_path, 1).read_bytes() == photo(1)
    assert file_of(tmp_path, 1).with_suffix(".rejected").stat().st_size == 1 << 40


@pytest.mark.parametrize("name", ["images/train/{photo}.jpg", "annotations/{classes}"])
@pytest.mark.parametrize("endless", ["pipe", "device"])
def test_what_is_read_without_end_is_refused(server, tmp_path, quick, name, endless):
    """A folder from elsewhere may have such a file."""
    arguments = world(server, tmp_path, 1)
    path = tmp_path / name.format(photo=image_id(0), classes=RELEASES["v4"].classes.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path) if endless == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(UserError, match=rf"{path.name}: not a regular file; remove it, or copy the folder again"):
        fetch.main(arguments)


def test_annotation_downloads_resume_and_are_verified(server, tmp_path, quick, monkeypatch, caplog):
    rows = [row(i % 10, "Cat", "on", "Table", (0, i / 400 + 0.1, 0, 1)) for i in range(300)]
    source = write_release(tmp_path / "source", rows)
    official = {}
    for field in dataclasses.fields(RELEASES["v4"]):
        published = getattr(RELEASES["v4"], field.name)
        data = (source / published.name).read_bytes()
        server.files[f"/{published.path}"] = data
        official[field.name] = OfficialFile(published.path, len(data), hashlib.md5(data).hexdigest())
    release = type(RELEASES["v4"])(**official)
    monkeypatch.setitem(fetch.RELEASES, "v4", release)
    server.faults[f"/{release.rows.path}"] = ["truncate", 503, "truncate"]
    for n in range(10):
        server.files[url_of(n)] = photo(n)
    arguments = ["--out", str(tmp_path / "out"), "--images_url", server.url, "--annotations_url", server.url]
    fetch.main(arguments)
    for file in release.files:
        assert hashlib.md5((tmp_path / "out" / "annotations" / file.name).read_bytes()).hexdigest() == file.md5
    assert f"({release.rows.bytes:,} bytes)" in caplog.text

    server.files[f"/{release.classes.path}"] = server.files[f"/{release.classes.path}"].swapcase()
    (tmp_path / "out" / "annotations" / release.classes.name).unlink()
    with pytest.raises(UserError, match=f"expected {release.classes.md5} for class-descriptions-boxable.csv"):
        fetch.main(arguments)
    assert not list((tmp_path / "out" / "annotations").glob(f"{release.classes.name}*"))


def test_file_that_is_not_a_journal_is_rejected(tmp_path):
    path = tmp_path / "journal.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"journal.csv:1: 'a,b'; expected the columns image_id,status"):
        journal.Journal(path)


def test_journal_that_was_cut_in_its_first_line_is_begun_again(tmp_path):
    path = tmp_path / "journal.csv"
    for head in ("", "image_id,stat"):
        path.write_text(head)
        journal.Journal(path).close()
        assert path.read_text() == "image_id,status,bytes,width,height,phash,detail,xxh3\n"


def test_journal_leaves_the_text_of_others_alone(tmp_path):
    """Its last line would be taken for one that a crash has cut."""
    path, other = tmp_path / "journal.csv", tmp_path / "notes.txt"
    path.write_text("notes, without an end of line")
    with pytest.raises(UserError, match=r"journal.csv:1: 'notes, without an end of line'; expected the columns"):
        journal.Journal(path)
    assert path.rename(other).read_text() == "notes, without an end of line"
    other.write_text("")
    path.symlink_to(other)
    with pytest.raises(UserError, match=r"journal\.csv: a link to .*notes\.txt; expected a file of the folder"):
        journal.Journal(path)
    assert not other.read_text()


def test_photo_is_not_written_through_a_link(tmp_path):
    store, other = fetch.Store(tmp_path / "photos"), tmp_path / "other"
    other.write_text("somebody else's")
    store.path("a").with_suffix(".part").symlink_to(other)
    store.put("a", photo(1))
    store.journal.close()
    assert other.read_text() == "somebody else's" and store.path("a").read_bytes() == photo(1)


def test_damaged_line_of_a_journal_is_refused(tmp_path):
    """Its hashes decide which photos are copies, which all are in one split."""
    path = tmp_path / "journal.csv"
    written = journal.Journal(path)
    for n in range(2):
        written.add(journal.Entry(image_id(n), "ok", photos.Photo(10, 64, 48, 0x0C)))
    written.close()
    whole = path.read_bytes()
    place = whole.rindex(b"0c,") + 1
    path.write_bytes(whole[:place] + b"b" + whole[place + 1 :])  # a bit of the file
    with pytest.raises(UserError, match=r"journal\.csv:3: .*00b'.*: damaged, .*; delete the line to check that photo"):
        journal.read(path)
    path.write_bytes(b"\n".join(line.rpartition(b",")[0] for line in whole.splitlines()) + b"\n")
    with pytest.raises(UserError, match=r"journal\.csv:1: .*; expected the columns image_id,.*,xxh3; move the"):
        journal.read(path)


@pytest.mark.parametrize("changed", [{"phash": 1 << 64}, {"phash": -1}, {"bytes": -1}, {"width": 1 << 40}])
def test_numbers_of_a_journal_that_no_photo_has_are_refused(tmp_path, changed):
    """Also with the checksum that anyone can compute."""
    path = tmp_path / "journal.csv"
    written = journal.Journal(path)
    photo = photos.Photo(10, 64, 48, 0x0C)
    written.add(journal.Entry(image_id(0), "ok", photo))
    written.add(journal.Entry(image_id(1), "ok", dataclasses.replace(photo, **changed)))
    written.close()
    with pytest.raises(UserError, match=r"journal\.csv:3: .* a number is negative or too large; delete the line"):
        journal.read(path)


@pytest.mark.parametrize("flag", ["--concurrency", "--attempts", "--stall"])
def test_nonpositive_numbers_are_rejected(tmp_path, flag):
    with pytest.raises(UserError, match=f"{flag} 0.*: expected a positive number"):
        fetch.main(["--out", str(tmp_path), flag, "0"])
