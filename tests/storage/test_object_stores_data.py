"""Copies of data from object stores: complete, checked, made once for all processes of a host, and continued."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from etils import epath

from naturel_jax.config import Fields
from naturel_jax.data import check, datasets
from naturel_jax.storage import object_folders, staging
from naturel_jax.storage.object_stores import Location
from naturel_jax.weights import sources
from tests.helpers import processes
from tests.helpers import record_files as files
from tfds_naturel.common.errors import UserError

ROOT = Path(__file__).parents[2]
CONTENT = {"a.txt": b"text", "deep/er/b.bin": bytes(range(256)) * 30_000, "empty": b"", "ä b+c#.txt": b"name"}


@pytest.fixture
def url(server, request) -> str:
    """A folder with some objects."""
    url = f"{server.url}/{request.node.originalname}"
    for name, content in CONTENT.items():
        Location(f"{url}/{name}").put(content)
    return url


def downloads(server) -> list[str]:
    """The paths of the contents that were asked for."""
    paths = [request.partition(" ")[2] for request in server.requests if request.startswith("GET")]
    return [path for path in paths if "list-type" not in path]


def copied(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in object_folders.files_in(folder)}


def test_folder_on_a_disk_is_used_where_it_is(tmp_path, monkeypatch):
    """Also by its tilde: a shell does not expand the tilde of ``--flag=~/folder``, nor Python that of a config."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert staging.stage("~/files") == staging.local_path("~/files") == sources.local("~/files")
    assert staging.stage("~/files") == staging.stage_file("~/files") == tmp_path / "files"


def test_only_what_has_changed_is_copied_again(url, server, tmp_path):
    folder = staging.stage(url, str(tmp_path / "mine"))
    assert copied(folder) == CONTENT and folder.is_relative_to(tmp_path / "mine")
    server.requests.clear()
    assert staging.stage(url, str(tmp_path / "mine")) == folder and not downloads(server)
    Location(f"{url}/a.txt").put(b"TEXT")  # of the same size
    Location(f"{url}/deep/er/b.bin").delete()
    (folder / "ä b+c#.txt").write_bytes(b"NAME")
    assert staging.stage(f"{url}/", str(tmp_path / "mine")) == folder
    assert copied(folder) == {"a.txt": b"TEXT", "empty": b"", "ä b+c#.txt": b"name"}
    assert len(downloads(server)) == 2
    next((tmp_path / "mine").rglob(".staged.jsonl")).unlink()
    assert staging.stage(url, str(tmp_path / "mine")) == folder
    assert len(downloads(server)) == 2, "the files are compared with the checksums of the store"


def test_copy_that_arrives_damaged_is_repeated_once(url, server):
    flips = ["flip"]
    server.faults.append(lambda method, path: flips.pop() if flips and method == "GET" and "b.bin" in path else None)
    assert copied(staging.stage(url)) == CONTENT
    Location(f"{url}/deep/er/b.bin").put(CONTENT["deep/er/b.bin"][::-1])
    server.faults.append(lambda method, path: "flip" if method == "GET" and "b.bin" in path else None)
    with pytest.raises(OSError, match=rf"{url}/deep/er/b\.bin: arrived twice with different content, neither with"):
        staging.stage(url)


def test_copy_that_is_damaged_on_the_disk_is_made_again(url, server, caplog):
    """Also if the list has lost its checksums: then it is compared with that of the store."""
    folder = staging.stage(url)
    listed, path = next(folder.parents[1].rglob(".staged.jsonl")), folder / "deep/er/b.bin"
    server.requests.clear()
    for expected in (0, 1, 0):
        staging._checked.clear()  # as in a new process
        assert copied(staging.stage(url)) == CONTENT and len(downloads(server)) == expected
        server.requests.clear()
        if not expected:
            times, content = path.stat(), bytearray(CONTENT["deep/er/b.bin"])
            content[1 << 20] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert f"{path}: the copy is damaged; it is copied again" in caplog.text
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    listed.write_text(
        "".join(json.dumps({name: row[name] for name in ("name", "version", "time")}) + "\n" for row in rows)
    )
    assert copied(staging.stage(url)) == CONTENT and len(downloads(server)) == 1


def test_objects_whose_etag_is_no_md5_are_copied(url, server):
    """As S3 encrypts them with a key of the customer's. This shows once they have arrived twice with the same content;
    then the others are not copied twice."""
    server.faults.append(lambda method, path: "other" if method == "GET" and "list-type" not in path else None)
    assert copied(staging.stage(url)) == {name: content[::-1] for name, content in CONTENT.items()}
    for n in range(20):
        Location(f"{url}/{n}").put(b"more")
    server.requests.clear()
    staging.stage(url)
    assert 20 < len(downloads(server)) < 40


def test_disk_that_is_too_small_is_refused_before_anything_is_copied(url, server, monkeypatch):
    monkeypatch.setattr(object_folders.shutil, "disk_usage", lambda path: SimpleNamespace(free=7_500_000))
    server.requests.clear()
    with pytest.raises(OSError, match=rf"{url}: 7,680,008 bytes are to be written to .*/bucket/.*7,500,000 free"):
        staging.stage(url)
    assert not downloads(server)


def test_empty_objects_that_consoles_make_for_folders_are_no_files(url, server):
    server.put("test_empty_objects_that_consoles_make_for_folders_are_no_files/")
    server.put("test_empty_objects_that_consoles_make_for_folders_are_no_files/deep/")
    assert Location(url).names() == sorted({name.partition("/")[0] for name in CONTENT})
    assert copied(staging.stage(url)) == CONTENT


def test_no_object_leaves_the_folder(server, tmp_path):
    server.put("hostile/a/../../../x")
    with pytest.raises(UserError, match=rf'{server.url}/hostile: .*"hostile/a/../../../x": .*rename the object'):
        staging.stage(f"{server.url}/hostile")
    with pytest.raises(UserError, match="//bucket/none: no such folder in the store"):
        staging.stage(f"{server.url}/none")


STAGE = """
import sys
from naturel_jax.storage import staging
from tfds_naturel.common import cli
cli.run(lambda arguments: print(staging.stage(arguments[0])))
"""


def start(url: str, log: Path) -> subprocess.Popen:
    env, command = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-c", STAGE, url]
    with log.open("w") as stderr:
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gs", pytest.param("s3", marks=pytest.mark.proof)], indirect=True)
def test_killed_copy_is_continued_by_a_process_that_waited(url, server, tmp_path):
    """The first process is killed while it holds the lock and half of a file."""
    server.faults.append(lambda method, path: "stall" if method == "GET" and "b.bin" in path else None)
    first = start(url, tmp_path / "first.log")
    partial = tmp_path / "cache"
    processes.wait_until(lambda: any(path.stat().st_size > 1 << 20 for path in partial.rglob("*.partial")))
    others = sum(map(bool, CONTENT.values()))  # with a content, and asked for beside the one that is stuck
    processes.wait_until(lambda: len({*downloads(server)}) == others)
    server.faults.clear()
    server.requests.clear()
    second = start(url, tmp_path / "second.log")
    processes.wait_until(lambda: "waiting for another process" in (tmp_path / "second.log").read_text())
    assert second.poll() is None and not downloads(server), "it waits"
    first.send_signal(signal.SIGKILL)
    folder = Path(second.communicate(timeout=60)[0].strip())
    assert copied(folder) == CONTENT and second.returncode == 0
    first.communicate()
    again = [path for path in downloads(server) if "b.bin" in path]
    assert len(again) == 1 and int(server.ranges[-1].removeprefix("bytes=").rstrip("-")) > 1 << 20, "only its rest"


QUICK = ("csv", "folder", "tfds")  # the others are read by several processes


@pytest.mark.parametrize(
    "prefix", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in files.FORMATS]
)
def test_every_source_can_be_in_a_store(prefix, stores, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server = stores["gs" if len(prefix) % 2 else "s3"]
    (tmp_path / "own").mkdir()
    name, fields = files.written(prefix, tmp_path / "own")
    url = epath.Path(server.url) / "sources" / prefix
    object_folders.upload(object_folders.files_in(tmp_path / "own"), tmp_path / "own", url)
    data_dir = f"{url}/data"
    source = datasets.open_source(name.replace(str(tmp_path / "own"), str(url)), data_dir, "train", Fields(**fields))
    assert len(source.items) == files.COUNT
    for n in range(files.COUNT):
        positives = source.items.positives
        assert [source.items.texts[t] for t in positives.text_C[positives.rows(n)]] == files.positives(n)
        assert source.read_image(n) == files.image(n)
    again = datasets.open_source(name.replace(str(tmp_path / "own"), str(url)), data_dir, "train", Fields(**fields))
    assert again.content == source.content


def test_records_that_a_check_finds_are_left_out_where_its_copies_are(server, tmp_path, monkeypatch):
    """With the same ``config.data.cache_dir``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "own").mkdir()
    files.written("csv", tmp_path / "own")
    (tmp_path / "own/photos/03.jpg").write_bytes(b"damaged")
    url = epath.Path(server.url) / "checked"
    object_folders.upload(object_folders.files_in(tmp_path / "own"), tmp_path / "own", url)
    fields, mine = files.FORMATS["csv"][1], str(tmp_path / "mine")
    flags = ["--data_dir", f"{url}/data", "--cache_dir", mine, "--workers", "1"]
    flags += ["--fields", *(f"{part}={name}" for part, name in fields.items())]
    assert check.main([f"csv:{url}/my.csv", *flags]) == check.SOME_BAD
    source = datasets.open_source(f"csv:{url}/my.csv", f"{url}/data", "train", Fields(**fields), 0.1, mine)
    assert source.items.left_out.tolist() == [3]


def test_shards_that_are_not_named_are_not_copied(server, tmp_path):
    for n in range(3):
        Location(f"{server.url}/shards/{n:02}.tar").put(b"")
    datasets.open_unindexed(f"webdataset:{server.url}/shards/{{00..01}}.tar", str(tmp_path), "train", str(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*.tar")) == ["00.tar", "01.tar"]


def test_what_is_drawn_is_uploaded_and_copied_by_other_hosts(server, monkeypatch, tmp_path, request):
    """The twins of a world; its dataset is drawn in test_object_stores_runs.py."""
    written = []

    def write(out: Path, world, seed, items, check) -> None:
        written.append(out)
        (out / "winoground").mkdir(parents=True)
        (out / "winoground" / "examples.jsonl").write_text("{}")
        (out / "README.md").write_text("finished")

    def write_further(out: Path, world, seed, items, check) -> None:
        written.append(out)
        (out / "FURTHER.md").write_text("finished")

    monkeypatch.setattr(datasets.twins, "write", write)
    monkeypatch.setattr(datasets.twins, "write_further", write_further)
    data_dir = f"{server.url}/{request.node.originalname}"
    for host in ("one", "two"):
        folder = datasets.twins_directory(data_dir, "scenes", str(tmp_path / host))
        assert copied(folder) == {"README.md": b"finished", "winoground/examples.jsonl": b"{}"}
        assert folder.is_relative_to(tmp_path / host)
    for host in ("one", "two"):
        folder = datasets.twins_directory(data_dir, "scenes", str(tmp_path / host), further=True)
        assert copied(folder).keys() == {"README.md", "FURTHER.md", "winoground/examples.jsonl"}
    assert written == [tmp_path / "one" / data_dir.replace("://", "/") / "twins" / "scenes" / datasets.VERSION] * 2
