"""The fetcher against servers that refuse everything, send something else, never stop or never answer."""

import asyncio
import dataclasses
import gzip
import time

import pytest

from tests.helpers.open_images_files import image_id, write_release
from tests.helpers.photo_server import ENDLESS, entries, serving, url_of, world
from tfds_naturel.common import download, photos
from tfds_naturel.common.errors import Stopped, UserError
from tfds_naturel.open_images import fetch
from tfds_naturel.open_images.releases import RELEASES, OfficialFile


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Retries without waiting."""
    monkeypatch.setattr(download.random, "uniform", lambda low, high: 0.0)


def test_server_without_any_photo_ends_the_run_and_nothing_is_recorded(server, tmp_path):
    arguments = world(server, tmp_path, 200)
    server.always = 410
    with pytest.raises(UserError, match=r"50 photos in a row were refused .*HTTP 410.* has sent none.*--images_url"):
        fetch.main(arguments)
    assert not entries(tmp_path) and len(server.gets) < 60
    server.always = None
    fetch.main(arguments)
    assert {entry.status for entry in entries(tmp_path).values()} == {"ok"} and len(entries(tmp_path)) == 200


@pytest.mark.parametrize(
    ("flag", "url"),
    [("--images_url", "nonsense"), ("--annotations_url", "ftp://127.0.0.1/bucket"), ("--annotations_url", "http://")],
)
def test_what_is_not_an_http_address_is_a_mistake_of_the_user(server, tmp_path, flag, url):
    """Not a failure that the next run may not have: nothing is retried, and the message names the flags."""
    arguments = [*world(server, tmp_path, 3), flag, url]
    if flag == "--annotations_url":
        (tmp_path / "annotations" / RELEASES["v4"].classes.name).unlink()
    with pytest.raises(UserError, match="check --annotations_url and --images_url"):
        fetch.main(arguments)


def test_few_refusals_are_not_believed_either(server, tmp_path):
    arguments = world(server, tmp_path, 3)
    server.always = 404
    with pytest.raises(UserError, match="3 photos in a row were refused"):
        fetch.main(arguments)
    assert not entries(tmp_path)


def test_server_that_changes_its_mind_is_not_believed(server, tmp_path):
    """The network of a later run may have a proxy; photos of an earlier run are known to exist."""
    arguments = world(server, tmp_path, 80)
    for n in range(10, 80):
        server.faults[url_of(n)] = [503]
    with pytest.raises(Stopped, match="70 photos failed"):
        fetch.main([*arguments, "--attempts", "1"])
    before = entries(tmp_path)
    server.always = 403
    with pytest.raises(UserError, match=r"does not send [0-9a-f]{16} either, although it exists"):
        fetch.main(arguments)
    assert entries(tmp_path) == before and len(before) == 10


def test_many_missing_photos_are_recorded_if_the_server_has_others(server, tmp_path):
    arguments = world(server, tmp_path, 80)
    for n in range(5, 80):
        del server.files[url_of(n)]
    fetch.main(arguments)
    assert sum(entry.status == "missing" for entry in entries(tmp_path).values()) == 75
    fetch.main([*arguments, "--retry_missing"])  # all that is left is missing, and it ends
    assert sum(entry.status == "missing" for entry in entries(tmp_path).values()) == 75


@pytest.mark.parametrize("fault", ["silent", "trickle", *ENDLESS])
def test_server_that_does_not_answer_ends_the_run(server, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(fetch, "MAX_CONSECUTIVE_FAILURES", 4)
    arguments = [*world(server, tmp_path, 20), "--attempts", "2", "--stall", "0.2"]
    server.always = fault
    start = time.monotonic()
    with pytest.raises(Stopped, match="4 photos in a row failed"):
        fetch.main(arguments)
    assert time.monotonic() - start < 5 and not entries(tmp_path)


def test_photos_too_large_are_cut_off_whether_or_not_their_length_is_known(server, tmp_path, monkeypatch):
    arguments = world(server, tmp_path, 3)
    monkeypatch.setattr(photos, "MAX_BYTES", 1 << 20)
    server.faults[url_of(0)] = ["endless"]
    server.files[url_of(1)] = bytes(3 << 20)
    fetch.main(arguments)
    assert [entries(tmp_path)[image_id(n)].status for n in range(3)] == ["too_large", "too_large", "ok"]
    assert server.sent < 16 << 20 and server.gets[url_of(1)] == 1


@pytest.fixture
def small(server, tmp_path, monkeypatch):
    """The path of an annotation file of 1,000 bytes on the server, and arguments that fetch it."""
    release = RELEASES["v4"]
    rows = OfficialFile(release.rows.path, 1000, "0" * 32)
    monkeypatch.setitem(fetch.RELEASES, "v4", dataclasses.replace(release, rows=rows))
    folder = write_release(tmp_path / "annotations", [])
    (folder / rows.name).unlink()
    arguments = ["--out", str(tmp_path), "--images_url", server.url, "--annotations_url", server.url]
    yield f"/{rows.path}", [*arguments, "--stall", "0.2", "--attempts", "2"]
    assert not list(folder.glob(rows.name)), "never under its final name"


def test_annotation_file_of_another_size_is_not_read(server, small):
    path, arguments = small
    server.files[path] = bytes(8 << 20)
    with pytest.raises(UserError, match=r"8,388,608 bytes; expected 1,000 for .*-train-vrd.csv; check the URL"):
        fetch.main(arguments)
    server.faults[path] = ["html"]
    with pytest.raises(UserError, match=r"48 bytes; expected 1,000 for"):
        fetch.main(arguments)


def test_endless_annotation_file_is_cut_off_and_discarded(server, small, tmp_path):
    path, arguments = small
    server.faults[path] = ["endless"]
    with pytest.raises(UserError, match="download discarded"):
        fetch.main(arguments)
    assert server.sent < 16 << 20 and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("fault", ["silent", "trickle"])
def test_silent_server_of_annotations_ends_the_run(server, small, fault):
    path, arguments = small
    server.files[path] = bytes(1000)
    server.always = fault
    with pytest.raises(Stopped, match="run the same command again"):
        fetch.main(arguments)


def fetched(url: str) -> bytes:
    """A file of at most a megabyte."""

    async def read() -> bytes:
        async with download.session(download.Policy(attempts=1, stall=1), 1) as client:
            return await download.get_bytes(client, url, 1 << 20)

    return asyncio.run(read())


@pytest.mark.parametrize("header", ["Location", "URI"])
def test_redirects_to_other_addresses_are_not_followed(server, header):
    """aiohttp takes an address from either."""
    server.headers["/a"], server.moved = {header: "http://169.254.169.254/latest"}, {"/a"}
    with pytest.raises(download.MissingKey, match=r"redirects to http://169.254.169.254/latest; expected https and a"):
        fetched(f"{server.url}/a")


def test_compressed_bodies_are_not_unpacked(server, tmp_path):
    """64 MB of zeros in 64 kB: the limit is on what is held, so nothing may be unpacked before it is counted."""
    packed = gzip.compress(bytes(64 << 20))
    server.files["/bomb"], server.headers["/bomb"] = packed, {"Content-Encoding": "gzip"}
    assert fetched(f"{server.url}/bomb") == packed
