"""requirements.lock has every runtime dependency in an admitted version and with hashes, tests/constraints.txt the same
versions and what the tests need beside them."""

import re

from packaging.requirements import Requirement

from tests.helpers.documents import ROOT, project


def requirements(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text().replace("\\\n", " ").splitlines()
    texts = (re.sub(r"\s--hash=\S+|(^|\s)#.*", "", line).strip() for line in lines)
    return [Requirement(text) for text in texts if text]


def pinned(file: str) -> dict[str, str]:
    versions = {}
    for requirement in requirements(file):
        (version,) = requirement.specifier
        assert version.operator == "=="
        versions[requirement.name.lower().replace("_", "-")] = version.version
    return versions


def extra(name: str) -> list[Requirement]:
    """The requirements of an extra, PyTorch left out: which build fits depends on the machine."""
    found = []
    for requirement in map(Requirement, project()["optional-dependencies"][name]):
        own = requirement.name == "naturel_jax"
        found += [one for part in requirement.extras for one in extra(part)] if own else [requirement]
    return [requirement for requirement in found if requirement.name != "torch"]


def test_locks_have_every_dependency_in_an_admitted_version():
    locked, constraints = pinned("requirements.lock"), pinned("tests/constraints.txt")
    runtime, tests = requirements("requirements.txt"), extra("test")
    assert len(tests) > 20
    for needed, versions in [(one, locked) for one in runtime] + [(one, constraints) for one in runtime + tests]:
        version = versions[needed.name.lower().replace("_", "-")]
        assert needed.specifier.contains(version), f"{needed} is locked as {version}"


def test_every_locked_version_has_hashes():
    entries = re.split(r"\n(?=\w)", (ROOT / "requirements.lock").read_text().split("\n", 2)[2])
    assert len(entries) == len(requirements("requirements.lock")) > 80
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
