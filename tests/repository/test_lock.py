"""requirements.lock has every runtime dependency, in an admitted version and with hashes."""

import re
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def requirements(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text().replace("\\\n", " ").splitlines()
    texts = (re.sub(r"\s--hash=\S+|(^|\s)#.*", "", line).strip() for line in lines)
    return [Requirement(text) for text in texts if text]


def test_lock_has_every_dependency_in_an_admitted_version():
    locked = {
        requirement.name.lower().replace("_", "-"): requirement for requirement in requirements("requirements.lock")
    }
    for needed in requirements("requirements.txt"):
        (pinned,) = locked[needed.name.lower().replace("_", "-")].specifier
        assert pinned.operator == "==" and needed.specifier.contains(pinned.version), needed


def test_every_locked_version_has_hashes():
    entries = re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text().split("\n", 2)[2])
    assert len(entries) == len(requirements("requirements.lock")) > 80
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
