"""Recorded results contain the commit, machine and command, and a dirty tree is rejected."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from proofs import record, stale
from tfds_naturel.common.errors import UserError


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit; returns its folder ``proofs``."""
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "proofs").mkdir()
    (tmp_path / "proofs" / "README.md").write_text("Results.\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path / "proofs"


def run(folder: Path, *arguments: str, name: str = "answer", code: str = "print(6 * 7)") -> int | None:
    return record.main([name, f"--folder={folder}", *arguments, "--", sys.executable, "-c", code])


def test_result_contains_commit_machine_command_and_output(repository):
    assert run(repository) is None
    text = (repository / "answer.md").read_text()
    assert f"| Commit | {git(repository, 'rev-parse', 'HEAD')} |" in text
    assert f"{os.cpu_count()} cores" in text and "GiB" in text
    assert f"$ {sys.executable} -c 'print(6 * 7)'" in text
    assert "````\n42\n````" in text
    assert re.search(r"^\| Wall time \| \d+ min \d+ s \|$", text, re.MULTILINE)


def test_results_do_not_make_the_tree_dirty_but_code_does(repository):
    run(repository)
    run(repository, name="other")  # answer.md is not committed
    (repository.parent / "code.py").write_text("x = 2\n")
    with pytest.raises(UserError, match=r"code\.py.*--allow_dirty"):
        run(repository, code="raise SystemExit('must not run')")
    run(repository, "--allow_dirty")
    assert "with uncommitted changes |" in (repository / "answer.md").read_text()


def test_failing_command_keeps_the_last_result(repository):
    run(repository)
    before = (repository / "answer.md").read_text()
    assert run(repository, code="import sys; print('no'); sys.exit(3)") == 1
    assert (repository / "answer.md").read_text() == before


def test_long_output_is_truncated_to_its_end(repository):
    run(repository, "--tail=2", code="print(*range(10), sep=chr(10))")
    text = (repository / "answer.md").read_text()
    assert "The last 2 of 10 lines:\n\n````\n8\n9\n````" in text


@pytest.mark.parametrize("name", ["../evil", "With Space", "readme", ""])
def test_invalid_names_are_rejected(repository, name):
    with pytest.raises(UserError, match="name"):
        run(repository, name=name)


def test_errors_name_a_missing_program_or_repository(repository, tmp_path_factory):
    with pytest.raises(UserError, match="no-such-program"):
        record.main(["answer", f"--folder={repository}", "--", "no-such-program"])
    with pytest.raises(UserError, match="not a git repository"):
        run(tmp_path_factory.mktemp("elsewhere"))


def test_stale_results_are_named_and_recorded_again(repository, capsys):
    (repository / "proofs.toml").write_text(
        "code = ['code.py']\n"
        + "".join(f"[{name}]\nminutes = 20\nmeasures = ['code']\ncommand = 'echo {name}'\n" for name in ("one", "two"))
        + "[three]\nmeasures = ['code.py']\nby_hand = 'make three'\n"
    )
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "commands")
    folder = f"--folder={repository}"
    assert stale.main([folder]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "one: never recorded",
        "two: never recorded",
        "three: never recorded (make three)",
    ]
    assert not stale.main([folder, "--record", "--minutes=10"]), "the first is recorded, though it may take longer"
    assert capsys.readouterr().out.endswith("0 failed, 1 left for the next call\n")
    assert not stale.main([folder, "--record", "--minutes=10"])
    assert "````\ntwo\n````" in (repository / "two.md").read_text()
    for text, old in (
        ('"""What x is."""\n\nx = 1  # as ever\n', []),
        ("x = 2\n", [f"{name}: other code in 1 files, such as code.py" for name in ("one", "two")]),
    ):
        (repository.parent / "code.py").write_text(text)
        git(repository.parent, "add", ".")
        git(repository, "commit", "-qm", "other text")
        capsys.readouterr()
        stale.main([folder])
        assert capsys.readouterr().out.splitlines() == ["three: never recorded (make three)", *old]
    (repository.parent / "code.py").unlink()
    with pytest.raises(UserError, match=r"\[one\] measures 'code\.py', which does not exist"):
        stale.main([folder])


@pytest.mark.parametrize("known", [True, False])
def test_result_of_a_sweep_is_as_old_as_what_trained_its_runs(known, repository):
    """They may have been finished long before the report that is recorded."""
    (repository / "proofs.toml").write_text("[sweep]\nmeasures = ['code.py']\n")
    trained = git(repository, "rev-parse", "HEAD")
    (repository.parent / "code.py").write_text("x = 2\n")
    git(repository.parent, "add", ".")
    git(repository.parent, "commit", "-qm", "other code")
    line = f"2 runs trained by naturel_jax 0.1.0, commit {trained}; a processor; accelerators: none" if known else ""
    command = f"echo {shlex.quote(line)} # naturel-sweep --out sweep"
    assert record.main(["sweep", f"--folder={repository}", "--", "sh", "-c", command]) is None
    (proof,) = stale.read(repository)
    old = "other code in 1 files, such as code.py" if known else "does not say which code trained its runs"
    assert proof.why == old


def test_result_of_the_runs_of_an_old_one_is_old(repository):
    (repository / "proofs.toml").write_text(
        "[one]\nmeasures = ['code.py']\n[two]\nmeasures = ['proofs/README.md']\nafter = 'one'\n"
    )
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "commands")
    assert run(repository, name="one") is run(repository, name="two") is None
    assert [proof.why for proof in stale.read(repository)] == ["", ""]
    (repository.parent / "code.py").write_text("x = 2\n")
    git(repository.parent, "add", ".")
    git(repository.parent, "commit", "-qm", "other code")
    assert stale.read(repository)[1].why == "of the runs of one, which is old"


def test_every_test_that_is_a_proof_is_run_by_a_command():
    """Of ``proofs.toml`` or the Makefile; flipped bits are rows of ``attack``, and that of the rehearsal runs what its
    own result does."""
    root = record.FOLDER.parent
    commands = [proof.settings.get("command", "") for proof in stale.read()] + [(root / "Makefile").read_text()]
    named, ignored = set[str](), set[str]()
    lines = [line for command in commands for line in command.replace("\\\n", "").splitlines() if "-m proof" in line]
    for line in lines:
        for before, word in itertools.pairwise(line.split()):
            if word.startswith("tests/"):
                (ignored if before == "--ignore" else named).add(word)
    left = [str(path.relative_to(root)) for path in root.glob("tests/**/test_*.py") if "mark.proof" in path.read_text()]
    left = [path for path in left if any(path.startswith(other) for other in ignored) and path not in named]
    assert sorted(left) == ["tests/faults/test_flips.py", "tests/reproduce/test_reproduce_rehearsal.py"]
    flips = "::test_a_bit_of_each_file_of_a_run_changes_no_number"
    assert flips in (root / "proofs/attack.py").read_text()


def test_a_proof_that_fails_keeps_no_other_from_its_turn(repository):
    tables = (("bad", "exit 3"), ("one", "echo 1"), ("two", "echo 2"))
    lines = [f"[{name}]\nminutes = 20\nmeasures = []\ncommand = '{command}'\n" for name, command in tables]
    (repository / "proofs.toml").write_text("".join(lines))
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "commands")
    for recorded in (["one"], ["one", "two"]):
        assert stale.main([f"--folder={repository}", "--record", "--minutes=10"]) == 1
        assert [path.stem for path in sorted(repository.glob("[a-z]*.md"))] == recorded


def test_every_recorded_proof_has_a_command():
    """tests/docs/test_docs_numbers.py looks for what the documentation cites among the recorded ones."""
    recorded = {path.stem for path in record.FOLDER.glob("*.md")} - {"README"}
    assert recorded <= {proof.name for proof in stale.read()}
