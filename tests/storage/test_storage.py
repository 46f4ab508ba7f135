"""Atomic writes and appends."""

import os

import pytest
from etils import epath

from naturel_jax import storage
from tfds_naturel.common.errors import UserError


@pytest.fixture
def folder(tmp_path) -> epath.Path:
    return epath.Path(tmp_path)


def test_failed_write_keeps_the_old_file_and_leaves_no_others(folder, monkeypatch):
    path = folder / "state.json"
    storage.write(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*/state\.json"):
        storage.write(path, "new")
    assert path.read_text() == "old" and [p.name for p in folder.iterdir()] == ["state.json"]


def test_write_that_the_system_cuts_short_is_continued(folder, monkeypatch):
    path, write = folder / "lines.jsonl", os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[: max(1, len(data) // 2)]))
    for n in range(3):
        storage.append(path, storage.sealed({"step": n}) + "\n")
    assert storage.read_json_lines(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_failed_append_names_its_file():
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        storage.append(epath.Path("/dev/full"), "line\n")


def test_file_that_cannot_be_looked_at_is_not_missing(folder):
    path = folder / "loop"
    os.symlink(path, path)  # the system gives up on it
    assert not path.exists()
    for look in (storage.read, storage.read_json_lines, storage.names, storage.numbered):
        with pytest.raises(OSError, match="loop"):
            look(path)
    assert storage.read_json_lines(folder / "none") == storage.numbered(folder / "none") == []


def test_errors_name_truncated_files_and_garbage_lines(folder):
    path = folder / "scores.json"
    path.write_text('{"scores": {')
    with pytest.raises(UserError, match=r"scores\.json: not readable as JSON"):
        storage.read_json(path)
    first, second, third = (storage.sealed({"step": n}) for n in (1, 2, 3))
    path.write_text(f"{first}\ngarbage\n")
    with pytest.raises(UserError, match=r"scores\.json line 2: not JSON"):
        storage.read_json_lines(path)
    cut = (f"{first}\n{second}\v{third}\n", f"{first}\n{second}*")  # a bit of an end
    for damaged in (*cut, f'{first}\n{{"step": 2}}\n', f"{first}\n[1]\n"):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"scores\.json line 2: not JSON"):
            storage.read_json_lines(path)
    path.write_text(storage.sealed({"step": "1"}) + "\n")
    with pytest.raises(UserError, match=r"scores\.json line 1: .* is not a JSON object with a step"):
        storage.read_json_lines(path)


def test_a_checksum_cannot_be_left_out(folder):
    path = folder / "scores.json"
    for unsealed in ("{}", "[]", '{"scores": {}}'):
        path.write_text(unsealed)
        with pytest.raises(UserError, match=r"scores\.json: .*damaged: it has no 'xxh3_of_rest'"):
            storage.read_json(path)


def test_nothing_is_added_to_where_a_link_leads(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match=r"metrics\.jsonl"):
        storage.append(epath.Path(tmp_path / "metrics.jsonl"), "line")
    assert (tmp_path / "other").read_text() == "kept"
