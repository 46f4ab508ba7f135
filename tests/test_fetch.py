"""The fetcher against a local server that truncates, stalls, fails or sends wrong data; also killed and resumed."""

import collections
import dataclasses
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
import simplejpeg
from open_images_files import image_id, photo, row, write_release

from tfds_naturel import download, photos
from tfds_naturel.errors import Stopped, UserError
from tfds_naturel.open_images import fetch, journal
from tfds_naturel.open_images.releases import RELEASES, OfficialFile


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``, after the responses in ``faults[path]``: a status, ``truncate``, ``stall`` or ``html``."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = collections.defaultdict(list)
        self.gets: collections.Counter[str] = collections.Counter()
        self.delay = 0.0
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # killed clients close the connection
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self):
        self._answer(self.server.files.get(self.path))

    def do_GET(self):
        server = self.server
        with server.lock:
            server.gets[self.path] += 1
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
            fault = server.faults[self.path].pop(0) if server.faults[self.path] else None
        time.sleep(server.delay)
        body = server.files.get(self.path)
        first, _, _ = self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")
        match fault:
            case int():
                self.send_response(fault)
                self.send_header("Retry-After", "0")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "truncate" | "stall":
                self._answer(body, sent=body[: len(body) // 2])
                if fault == "stall":
                    server.released.wait(10)
            case "html":
                self._answer(b"<html><body>Sign in to the network</body></html>")
            case _ if body is not None and int(first):
                self._answer(body[int(first) :], status=206)
            case _:
                self._answer(body)
        with server.lock:
            server.busy -= 1

    def _answer(self, body, sent=None, status=200):
        self.send_response(404 if body is None else status)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        if self.command == "GET" and body:
            self.wfile.write(body if sent is None else sent)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def logged(caplog):
    """Captures the fetcher's messages, which have level INFO."""
    caplog.set_level("INFO", "tfds_naturel")


@pytest.fixture
def quick(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(download.random, "uniform", lambda low, high: 0.0)


def _world(server, folder, n):
    """Writes a release of ``n`` images below ``folder`` and serves their photos; returns arguments for the fetcher."""
    write_release(folder / "annotations", [row(i, "Cat", "on", "Table") for i in range(n)])
    for i in range(n):
        server.files[_url(i)] = photo(i)
    return ["--out", str(folder), "--images_url", server.url, "--stall", "0.5", "--concurrency", "4"]


def _url(n):
    return f"/train/{image_id(n)}.jpg"


def _file(folder, n):
    return folder / "images" / "train" / f"{image_id(n)}.jpg"


def _entries(folder):
    return journal.read(folder / "images" / "train" / "journal.csv")


def test_fetches_each_annotated_photo_once_and_logs_the_size_first(server, tmp_path, capsys, caplog):
    arguments = _world(server, tmp_path, 20)
    server.files["/train/ffffffffffffffff.jpg"] = photo(99)  # in the bucket, but not annotated
    fetch.main(arguments)
    assert all(_file(tmp_path, i).read_bytes() == photo(i) for i in range(20))
    assert set(server.gets) == {_url(i) for i in range(20)} and set(server.gets.values()) == {1}
    total = sum(len(photo(i)) for i in range(20))
    assert f"20 photos, about {total / 1e9:,.2f} GB" in caplog.text and "ok 20" in capsys.readouterr().out
    assert server.most_busy <= 4

    fetch.main(arguments)
    assert set(server.gets.values()) == {1}
    assert "20 already fetched" in caplog.text


@pytest.mark.parametrize(
    "faults",
    [["truncate"], ["stall"], [503, 503], [429], ["html"], [500, "truncate", "html"]],
    ids=lambda faults: "-".join(map(str, faults)),
)
def test_transient_faults_are_retried(server, tmp_path, quick, faults):
    arguments = _world(server, tmp_path, 3)
    server.faults[_url(1)] = list(faults)
    fetch.main(arguments)
    assert _file(tmp_path, 1).read_bytes() == photo(1)
    assert server.gets[_url(1)] == len(faults) + 1
    assert server.gets[_url(0)] == server.gets[_url(2)] == 1


def test_malformed_rows_are_counted(server, tmp_path, caplog):
    arguments = _world(server, tmp_path, 2)
    with (tmp_path / "annotations" / RELEASES["v4"].rows.name).open("a") as f:
        f.write("../../x,y\n")
    fetch.main(arguments)
    assert "skipping 1 malformed rows" in caplog.text and "2 annotated images" in caplog.text


def test_missing_photos_are_recorded_and_not_requested_again(server, tmp_path):
    arguments = _world(server, tmp_path, 3)
    del server.files[_url(1)]
    fetch.main(arguments)
    fetch.main(arguments)
    assert server.gets[_url(1)] == 1
    assert _entries(tmp_path)[image_id(1)].status == "missing" and "404" in _entries(tmp_path)[image_id(1)].detail
    server.files[_url(1)] = photo(1)
    fetch.main([*arguments, "--retry_missing"])
    assert _file(tmp_path, 1).read_bytes() == photo(1) and _entries(tmp_path)[image_id(1)].status == "ok"


def test_persistent_faults_fail_the_run_and_are_retried_by_the_next(server, tmp_path, quick):
    arguments = [*_world(server, tmp_path, 3), "--attempts", "3"]
    server.faults[_url(1)] = ["html"] * 3
    with pytest.raises(Stopped, match="1 photos failed; run the same command again"):
        fetch.main(arguments)
    assert server.gets[_url(1)] == 3 and not _file(tmp_path, 1).exists() and _file(tmp_path, 2).exists()
    fetch.main(arguments)
    assert _file(tmp_path, 1).read_bytes() == photo(1)
    assert server.gets[_url(0)] == 1


def test_dead_server_ends_the_run(server, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_CONSECUTIVE_FAILURES", 5)
    arguments = [*_world(server, tmp_path, 30), "--attempts", "1"]
    for i in range(30):
        server.faults[_url(i)] = [503]
    with pytest.raises(Stopped, match=r"5 photos in a row failed.*HTTP 503"):
        fetch.main(arguments)
    assert len(server.gets) < 15


def test_placeholders_and_decompression_bombs_are_recorded_by_kind(server, tmp_path, quick, monkeypatch):
    arguments = _world(server, tmp_path, 3)
    server.files[_url(0)] = simplejpeg.encode_jpeg(np.full((64, 96, 3), 200, np.uint8))
    server.files[_url(1)] = simplejpeg.encode_jpeg(np.zeros((10_000, 6_500, 1), np.uint8), colorspace="GRAY")
    monkeypatch.setattr(photos, "MAX_BYTES", 100_000_000)
    fetch.main(arguments)
    assert [_entries(tmp_path)[image_id(i)].status for i in range(3)] == ["blank", "too_large", "ok"]
    assert not _file(tmp_path, 0).exists() and not _file(tmp_path, 1).exists()


def test_oversized_body_is_cut_off(server, tmp_path, monkeypatch):
    arguments = _world(server, tmp_path, 2)
    server.files[_url(0)] = bytes(3 << 20)
    monkeypatch.setattr(photos, "MAX_BYTES", 1 << 20)
    fetch.main(arguments)
    assert _entries(tmp_path)[image_id(0)].status == "too_large" and server.gets[_url(0)] == 1


def test_killed_run_resumes(server, tmp_path):
    arguments = _world(server, tmp_path, 60)
    server.delay = 0.05
    command = [sys.executable, "-m", "tfds_naturel.open_images.fetch", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while len(server.gets) < 15 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = dict(server.gets)
    assert 15 <= len(before) < 60
    on_disk = [i for i in range(60) if _file(tmp_path, i).exists()]
    assert on_disk and all(_file(tmp_path, i).read_bytes() == photo(i) for i in on_disk)

    # A crash may leave half a journal line, half a photo under its temporary name, or a photo without a journal line.
    with (tmp_path / "images/train/journal.csv").open("a") as f:
        f.write(f"{image_id(0)},o")
    (tmp_path / "images/train/abc.part").write_bytes(b"half")
    absent = next(i for i in range(60) if _url(i) not in before)
    _file(tmp_path, absent).write_bytes(photo(absent))
    fetch.main(arguments)
    assert all(_file(tmp_path, i).read_bytes() == photo(i) for i in range(60))
    assert all(server.gets[_url(i)] == before[_url(i)] for i in on_disk) and server.gets[_url(absent)] == 0
    assert len(_entries(tmp_path)) == 60 and not list(tmp_path.glob("images/train/*.part"))


def test_photos_changed_on_disk_are_checked_again(server, tmp_path):
    arguments = _world(server, tmp_path, 2)
    fetch.main(arguments)
    _file(tmp_path, 0).write_bytes(photo(0)[:-500])
    fetch.main(arguments)
    assert _file(tmp_path, 0).read_bytes() == photo(0) and server.gets[_url(0)] == 2


def test_from_tar_reads_only_requested_regular_files(server, tmp_path):
    arguments = _world(server, tmp_path, 4)
    tar = tmp_path / "train_0.tar.gz"
    with tarfile.open(tar, "w:gz") as archive:
        for name, data in {
            f"train_0/{image_id(0)}.jpg": photo(0),
            f"../../{image_id(1)}.jpg": photo(1),
            "train_0/ffffffffffffffff.jpg": photo(9),
            f"train_0/{image_id(2)}.jpg": b"not a photo",
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo(f"train_0/{image_id(3)}.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match="1 photos are in none of the tar files"):
        fetch.main([*arguments, "--from_tar", str(tar)])
    folder = tmp_path / "images" / "train"
    assert {p.name for p in folder.glob("*.jpg")} == {f"{image_id(0)}.jpg", f"{image_id(1)}.jpg"}
    assert [_entries(tmp_path)[image_id(i)].status for i in range(3)] == ["ok", "ok", "not_jpeg"]
    assert image_id(3) not in _entries(tmp_path) and not server.gets


def test_annotation_downloads_resume_and_are_verified(server, tmp_path, quick, monkeypatch, caplog):
    source = write_release(
        tmp_path / "source", [row(i % 10, "Cat", "on", "Table", (0, i / 400 + 0.1, 0, 1)) for i in range(300)]
    )
    official = {}
    for field in dataclasses.fields(RELEASES["v4"]):
        published = getattr(RELEASES["v4"], field.name)
        data = (source / published.name).read_bytes()
        server.files[f"/{published.path}"] = data
        official[field.name] = OfficialFile(published.path, len(data), hashlib.md5(data).hexdigest())
    release = type(RELEASES["v4"])(**official)
    monkeypatch.setitem(fetch.RELEASES, "v4", release)
    server.faults[f"/{release.rows.path}"] = ["truncate", 503, "truncate"]
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


@pytest.mark.parametrize("flag", ["--concurrency", "--attempts", "--stall"])
def test_nonpositive_numbers_are_rejected(tmp_path, flag):
    with pytest.raises(UserError, match=f"{flag} 0.*: expected a positive number"):
        fetch.main(["--out", str(tmp_path), flag, "0"])


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_error_names_a_damaged_tar_file(server, tmp_path, suffix):
    arguments = _world(server, tmp_path, 2)
    tar = tmp_path / f"train_0{suffix}"
    with tarfile.open(tar, "w:gz" if suffix.endswith("gz") else "w") as archive:
        info = tarfile.TarInfo(f"{image_id(0)}.jpg")
        info.size = len(photo(0))
        archive.addfile(info, io.BytesIO(photo(0)))
    for data in (b"not a tar file", tar.read_bytes()[: info.size // 2]):
        tar.write_bytes(data)
        with pytest.raises(UserError, match=rf"train_0{suffix}: not a complete tar file"):
            fetch.main([*arguments, "--from_tar", str(tar)])
    with pytest.raises(FileNotFoundError, match=r"none.tar"):
        fetch.main([*arguments, "--from_tar", str(tmp_path / "none.tar")])


def test_endless_annotation_file_is_cut_off_and_discarded(server, tmp_path, monkeypatch):
    release = RELEASES["v4"]
    small = dataclasses.replace(release, rows=OfficialFile(release.rows.path, 1000, "0" * 32))
    monkeypatch.setitem(fetch.RELEASES, "v4", small)
    folder = write_release(tmp_path / "annotations", [])
    (folder / small.rows.name).unlink()
    server.files[f"/{small.rows.path}"] = bytes(8 << 20)
    arguments = ["--out", str(tmp_path), "--images_url", server.url, "--annotations_url", server.url]
    with pytest.raises(UserError, match="download discarded"):
        fetch.main(arguments)
    assert not list(folder.glob(f"{small.rows.name}*"))
