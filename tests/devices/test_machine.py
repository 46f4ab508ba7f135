"""What is recorded about the machine and the code of a run."""

import subprocess

from naturel_jax.devices import machine


def test_only_changes_of_the_packages_are_changes_of_the_code(tmp_path, monkeypatch):
    for name in ("naturel_jax/a.py", "tfds_naturel/b.py", "proofs/result.md"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("before")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    (tmp_path / "proofs/result.md").write_text("after")
    assert machine._code.__wrapped__().endswith(f", commit {head}")
    (tmp_path / "tfds_naturel/b.py").write_text("after")
    assert machine._code.__wrapped__().endswith(f", commit {head} with uncommitted changes")
