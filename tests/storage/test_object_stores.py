"""The contract of ``storage``, on a disk, in GCS and in S3, and what the stores' faults do."""

import concurrent.futures
import datetime
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import google.auth
import pytest
from etils import epath
from google.auth.exceptions import RefreshError, TransportError

from naturel_jax import storage
from naturel_jax.storage import leases, object_stores
from tfds_naturel.common import cli
from tfds_naturel.common.errors import Unavailable, UserError

DAY = datetime.timedelta(days=1)
ROOT = str(Path(__file__).parents[2])


@pytest.fixture(params=["disk", "gs", "s3"])
def folder(request, stores, tmp_path):
    """An empty folder on a disk or in a store."""
    if request.param == "disk":
        return epath.Path(tmp_path)
    return epath.Path(stores[request.param].url) / request.node.name


# ---- The contract ---------------------------------------------------------------------------------------------------


def test_write_replaces_and_read_returns_what_was_written(folder):
    path = folder / "state é.json"
    with pytest.raises(FileNotFoundError, match="state"):
        storage.read(path)
    storage.write(path, "old")
    storage.write(path, "né\nw")
    assert storage.read(path) == "né\nw" and storage.names(folder) == ["state é.json"]
    assert storage.exists(path) and not storage.exists(folder / "state")
    storage.delete(path)
    storage.delete(path)
    assert not storage.exists(path) and storage.names(folder) == []


def test_exactly_one_concurrent_create_succeeds(folder):
    path = folder / "lock"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda n: storage.create(path, str(n)), range(16)))
    assert sum(created) == 1 and storage.read(path) == str(created.index(True))
    assert storage.names(folder) == ["lock"]


def test_lines_are_appended(folder):
    path = folder / "lines.jsonl"
    assert storage.read_json_lines(path) == []
    for n in range(3):
        storage.append(path, storage.sealed({"step": n}) + "\n")
    storage.append(path, '{"step": 3')  # a write that was interrupted
    assert storage.read_json_lines(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_names_are_those_of_one_folder(folder):
    for name in ("20", "3", "100", "20.broken", "x"):
        if not object_stores.in_store(folder):
            (folder / name).mkdir()
        storage.write(folder / name / "file", "")
    assert storage.names(folder) == ["100", "20", "20.broken", "3", "x"] and storage.numbered(folder) == [3, 20, 100]
    assert storage.names(folder / "2") == []


def lease_of(process: int) -> str:
    return json.dumps({"token": "t", "host": "elsewhere", "process": process, "since": 1e9})


def test_lease_is_refused_while_it_is_renewed_and_taken_over_from_the_dead(folder):
    path = folder / "lease.json"
    storage.write(path, lease_of(7))
    renewing = threading.Timer(0.5, storage.write, (path, lease_of(8)))
    renewing.start()
    with pytest.raises(UserError, match="in use by process 8 on elsewhere since"), storage.lease(folder, 60):
        pass
    renewing.join()
    with storage.lease(folder, period_s=1) as held:
        held.renew()
        held.check()
        storage.write(folder / "state", "mine")
        storage.write(path, lease_of(9))
        with pytest.raises(UserError, match="has lost its lease, which process 9 on elsewhere"):
            held.check()
        with pytest.raises(storage.LostLease):
            storage.delete(folder / "state")
        held.renew()
    assert json.loads(storage.read(path))["process"] == 9  # not ours to remove
    assert storage.read(folder / "state") == "mine"


def test_lease_of_a_container_that_was_started_again_is_taken_over(folder):
    """It has the same host name and process id as the one that was killed."""
    with storage.lease(folder, 1e9):
        row = json.loads(storage.read(folder / "lease.json"))
    storage.write(folder / "lease.json", json.dumps(row | {"started": row["started"].partition(" ")[0] + " 1"}))
    with storage.lease(folder, 1e9), pytest.raises(UserError, match="in use by process"), storage.lease(folder):
        pass


def test_lease_of_a_user_whose_processes_are_hidden_is_not_taken_at_once(server, monkeypatch):
    """As where /proc is mounted with the option hidepid."""
    folder = epath.Path(server.url) / "hidden"

    def forbidden(process, signal):
        raise PermissionError

    with storage.lease(folder, period_s=1.2) as held:
        monkeypatch.setattr(leases, "_started", lambda process: "")
        monkeypatch.setattr(leases.os, "kill", forbidden)
        with pytest.raises(UserError, match="in use by process"), storage.lease(folder, period_s=60):
            pass
        held.check()


def test_line_of_an_owner_that_was_paused_is_not_written(server, monkeypatch):
    """Between its reading of the object and its writing, another took over and appended."""
    path, get = epath.Path(server.url) / "lost" / "lines", object_stores.Location.get

    def paused(location):
        found = get(location)
        if location.url == str(path):
            monkeypatch.setattr(object_stores.Location, "get", get)
            storage.write(path.parent / "lease.json", lease_of(9))
            location.put(b"9\n")
        return found

    with storage.lease(path.parent, period_s=60):
        storage.append(path, "1\n")
        monkeypatch.setattr(object_stores.Location, "get", paused)
        with pytest.raises(UserError, match="has lost its lease, which process 9"):
            storage.append(path, "2\n")
    assert storage.read(path) == "9\n"


def test_one_of_several_takes_a_dead_lease_over(server):
    folder = epath.Path(server.url) / "takeover"
    storage.write(folder / "lease.json", lease_of(7))

    refused = threading.Semaphore(0)

    def take(_):
        try:
            with storage.lease(folder, period_s=1):
                return [refused.acquire(timeout=60) for _ in range(3)]
        except UserError:
            refused.release()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [taken for taken in pool.map(take, range(4)) if taken] == [[True] * 3]


def test_appends_of_several_processes_are_all_kept(server):
    path = epath.Path(server.url) / "appended" / "lines"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: storage.append(path, f"{n}\n"), range(12)))
    assert sorted(map(int, storage.read(path).split())) == list(range(12))


# ---- Faults ---------------------------------------------------------------------------------------------------------


def in_turn(*faults):
    """Each fault once, then none."""
    left = list(faults)
    return lambda method, path: left.pop(0) if left else None


def test_failing_requests_are_repeated(server):
    path = epath.Path(server.url) / "faults" / "state"
    server.faults.append(in_turn(503, 429, 500, "lost"))
    assert storage.create(path, "mine")  # although the answer to the write was lost, and the repeated one was refused
    server.faults.append(in_turn(503, "cut", 429, 502))
    assert storage.read(path) == "mine"
    server.faults.append(in_turn("lost", 500))
    storage.append(path, " more")
    assert storage.read(path) in ("mine more", "mine more more") and storage.names(path.parent) == ["state"]


def test_large_file_is_uploaded_in_parts(server, tmp_path, monkeypatch):
    """A failed part is repeated alone; the whole upload, if the answer to its last request is lost and it is gone."""
    monkeypatch.setattr(object_stores, "PART", 5 << 20)  # the least of S3
    (tmp_path / "large").write_bytes(content := os.urandom(11 << 20))
    faults = {"partNumber=2": [503, "lost"], "POST /bucket/large/file?uploadId": ["lost"]}

    def fault(method, path):
        return next((left.pop(0) for words, left in faults.items() if words in f"{method} {path}" and left), None)

    server.faults.append(fault)
    server.requests.clear()
    object_stores.Location(f"{server.url}/large/file").upload(tmp_path / "large")
    assert object_stores.Location(f"{server.url}/large/file").get()[0] == content
    parts = [request for request in server.requests if "partNumber" in request]
    uploads = len([request for request in server.requests if "uploads" in request])
    assert len(parts) == 3 * uploads + 2 and not any(faults.values())


def test_a_body_that_is_longer_than_its_object_is_refused(server, tmp_path, monkeypatch):
    """Also one without end."""
    location = object_stores.Location(f"{server.url}/endless/file")
    location.put(b"x" * 10)
    info, received = location.info(), []

    def stream(size):
        return iter(lambda: received.append(size) or b"x" * 8, None)

    answer = SimpleNamespace(stream=stream)
    monkeypatch.setattr(location, "_store", SimpleNamespace(get=lambda name, options: answer))
    with pytest.raises(OSError, match="the store sends more than its 10 bytes"):
        location.download(tmp_path / "file", info)
    assert len(received) == 2 and (tmp_path / "file").stat().st_size == 8


def test_silent_server_is_a_failing_one(server, monkeypatch):
    monkeypatch.setattr(object_stores, "SILENCE_S", 0.5)
    object_stores.client.cache_clear()
    delays, asked = [1.5], []

    def slow_once(method, path):
        """The first write is answered late, whatever threads of other tests still ask for."""
        if method in ("POST", "PUT") and "slow/state" in path:
            asked.append(path)
            return delays.pop() if delays else None

    server.faults.append(slow_once)
    storage.write(epath.Path(server.url) / "slow" / "state", "text")
    assert len(asked) == 2, "repeated"
    assert storage.read(epath.Path(server.url) / "slow" / "state") == "text"
    object_stores.client.cache_clear()


def test_patience_ends(server, monkeypatch):
    monkeypatch.setattr(object_stores, "FIRST_WAIT_S", 0.1)
    monkeypatch.setattr(object_stores, "PATIENCE", 0.25)
    server.faults.append(lambda method, path: 503)
    with pytest.raises(Unavailable, match=rf"^{server.url}/run/state: the store failed .*\(503: .*again"):
        storage.write(epath.Path(server.url) / "run" / "state", "text")


def test_what_will_not_pass_is_not_repeated(server):
    with pytest.raises(FileNotFoundError, match=r"//none/run/state: 404: The specified bucket does not exist"):
        storage.write(epath.Path(server.url.replace("bucket", "none")) / "run" / "state", "text")
    asked: list[str] = []
    server.faults.append(lambda method, path: asked.append(path) or 403)
    with pytest.raises(PermissionError, match=f"{server.url}/run/state: 403"):
        storage.read(epath.Path(server.url) / "run" / "state")
    with pytest.raises(OSError, match=f"workdir {server.url}/run cannot be written: .*403.*--workdir"):
        storage.check_writable(epath.Path(server.url) / "run")
    assert len(asked) == 2


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_wrong_region_is_an_error_that_names_the_variable(server):
    server.faults.append(lambda method, path: 301)
    with pytest.raises(UserError, match=f"{server.url}/run/state: .*; set AWS_DEFAULT_REGION to the region of the"):
        storage.read(epath.Path(server.url) / "run" / "state")


PROGRAM = """
import sys
from pathlib import Path
from etils import epath
from naturel_jax import storage
from tfds_naturel.common import cli
cli.run(lambda _: print(storage.names(epath.Path(sys.argv[1]))))
"""


def run(url: str, folder, env=(), **modules: str) -> subprocess.CompletedProcess:
    """Lists ``url`` in a process for which ``modules`` have the given code."""
    for name, code in modules.items():
        (folder / f"{name}.py").write_text(code)
    paths = os.pathsep.join([str(folder), ROOT, os.environ.get("PYTHONPATH", "")])
    env = os.environ | dict(env) | {"PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", PROGRAM, url], env=env, capture_output=True, text=True, timeout=60)


def test_unavailable_store_is_one_line_and_exit_code_75(server, tmp_path):
    server.faults.append(lambda method, path: 503)
    done = run(f"{server.url}/run", tmp_path, {"NATUREL_STORE_PATIENCE_S": "0.5"})
    assert done.returncode == cli.STOPPED and done.stderr.count("\n") == 1, done.stderr
    assert f"{server.url}/run: the store failed" in done.stderr and "again to continue" in done.stderr


def test_no_other_client_of_stores_is_used(server, tmp_path):
    """etils would take TensorFlow's, if it is installed."""
    storage.write(epath.Path(server.url) / "listed" / "file", "")
    others = dict.fromkeys(("tensorflow", "fsspec", "gcsfs", "s3fs"), "raise RuntimeError('imported')")
    done = run(f"{server.url}/listed", tmp_path, **others)
    assert done.stdout == "['file']\n", done.stderr


NO_CREDENTIALS = {
    "STORAGE_EMULATOR_HOST": "", "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "none",
    "AWS_ACCESS_KEY_ID": "", "AWS_SHARED_CREDENTIALS_FILE": "none", "AWS_CONFIG_FILE": "none",
}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "fix"), [("gs://b/run", "`gcloud auth application-default login`"), ("s3://b/run", "`aws configure`")]
)
def test_missing_credentials_are_one_line_that_says_how_to_get_some(url, fix, tmp_path, stores):
    done = run(url, tmp_path, NO_CREDENTIALS)
    assert done.returncode == cli.USER_ERROR and done.stderr.count("\n") == 1, done.stderr
    assert f"{url.removesuffix('/run')}: no credentials for " in done.stderr and f"run {fix}, or set" in done.stderr


@pytest.mark.parametrize("server", ["s3"], indirect=True)
def test_profiles_of_the_aws_tools_are_known(server, tmp_path):
    storage.write(epath.Path(server.url) / "profile" / "file", "")
    (tmp_path / "credentials").write_text("[mine]\naws_access_key_id = a\naws_secret_access_key = b\n")
    known = {"AWS_PROFILE": "mine", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    done = run(f"{server.url}/profile", tmp_path, NO_CREDENTIALS | known)
    assert done.stdout == "['file']\n", done.stderr


class Credentials:
    """What object_stores uses of Google's."""

    token, expiry, error = "", None, None

    def refresh(self, request):
        if self.error:
            raise self.error
        self.token, self.expiry = "token", datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + DAY


@pytest.mark.parametrize("server", ["gs"], indirect=True)
def test_credentials_of_google_are_used(server, monkeypatch):
    monkeypatch.setenv("GOOGLE_BASE_URL", server.env["STORAGE_EMULATOR_HOST"])
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setattr(google.auth, "default", lambda scopes: (Credentials(), "project"))
    monkeypatch.setattr(object_stores, "PATIENCE", 0.1)
    object_stores.client.cache_clear()
    path = epath.Path(server.url) / "credentials"
    for error, expected in ((RefreshError("revoked"), PermissionError), (TransportError("no network"), Unavailable)):
        monkeypatch.setattr(Credentials, "error", error)
        with pytest.raises(expected, match=rf"{path}: .*{error}"):
            storage.write(path, "text")
    monkeypatch.setattr(Credentials, "error", None)
    storage.write(path, "text")
    assert storage.read(path) == "text" and server.authorizations[-1] == "Bearer token"
    object_stores.client.cache_clear()


@pytest.mark.parametrize(("url", "module", "extra"), [("gs://b/run", "obstore", "gcs"), ("s3://b/run", "boto3", "s3")])
def test_missing_library_is_one_line_that_names_the_extra(url, module, extra, tmp_path):
    missing = f"raise ModuleNotFoundError('No module named {module}', name='{module}')"
    done = run(url, tmp_path, **{module: missing})
    assert done.returncode == cli.USER_ERROR and done.stderr.count("\n") == 1, done.stderr
    assert f"{url.removesuffix('/run')} needs a library that is not installed ({module})" in done.stderr
    assert f"pip install 'naturel_jax[{extra}]'" in done.stderr
