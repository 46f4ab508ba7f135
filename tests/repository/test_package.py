"""The installed package: configs found by name from any folder, commands, and messages about missing extras."""

import datetime
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

import naturel_jax
from naturel_jax.cli import config_flags
from tests.helpers.documents import project
from tests.helpers.model_files import save_hf
from tests.helpers.processes import run
from tests.helpers.worlds import ROOT, data_dir
from tfds_naturel.common import cli
from tfds_naturel.scenes.scene import VERSION

COMMANDS = project()["scripts"]
BUILT_ON_JAX = ("naturel-train", "naturel-evaluate", "naturel-convert", "naturel-embed", "naturel-data-check")
PARSE = "import sys; from naturel_jax.cli import config_flags; print(config_flags.parse(sys.argv).name)"


def name_of(config: str, folder: Path) -> str:
    """``config.name`` of the config that ``--config`` finds, in a process in ``folder``, like an installed command."""
    command = [sys.executable, "-P", "-c", PARSE, "--config", config]
    return run(command, folder, os.environ | {"PYTHONPATH": str(ROOT)}).strip()


def test_newest_release_in_the_changelog_is_the_version_of_the_package():
    newest, date = re.findall(r"^## (\d\S*) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    assert newest == naturel_jax.__version__ and datetime.date.fromisoformat(date)


def test_configs_are_found_by_name_from_any_folder(tmp_path):
    assert name_of("siglip_tp:scenes", tmp_path) == "SigLIP-TP"


def test_configs_are_found_by_path_in_the_repository():
    assert name_of("configs/siglip_tp.py:scenes", ROOT) == "SigLIP-TP"


def test_copied_config_imports_its_siblings_and_what_lies_beside_it(tmp_path):
    """A copy of a packaged config works anywhere; one may also import modules in its own and in the current folder."""
    copy = tmp_path / "mine" / "copy.py"
    copy.parent.mkdir()
    copy.write_text((config_flags.PACKAGED / "negclip_ap.py").read_text())
    assert name_of("mine/copy.py", tmp_path) == name_of(str(copy), ROOT) == "NegCLIP-AP"
    (tmp_path / "mine" / "names.py").write_text("NAME = 'mine'")
    (tmp_path / "suffix.py").write_text("SUFFIX = ' too'")
    changed = copy.read_text().replace("from naturel_jax", "import names, suffix\nfrom naturel_jax", 1)
    copy.write_text(changed.replace('"NegCLIP-AP"', "names.NAME + suffix.SUFFIX"))
    assert name_of("mine/copy.py", tmp_path) == "mine too"


def test_file_takes_precedence_over_a_packaged_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_flags.locate("clip:scenes") == f"{config_flags.PACKAGED}/clip.py:scenes"
    (tmp_path / "clip").write_text("")
    assert config_flags.locate("clip:scenes") == "clip:scenes"
    assert config_flags.locate("drawn_world") == "drawn_world", "it has no get_config"


def error_without(library: str, main: str, *arguments: object) -> str:
    """The message of a command that fails, in a process that cannot import ``library``."""
    code = f"import sys; sys.modules[{library!r}] = None; from tfds_naturel.common import cli; {main}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == cli.USER_ERROR, done.stderr
    return done.stderr


@pytest.mark.parametrize(("missing", "form"), [("torch", "hf"), ("open_clip", "openclip")])
def test_verification_without_its_library_names_the_extra(missing, form, tmp_path):
    save_hf(tmp_path / "model", "tiny-clip")
    convert = "from naturel_jax import convert; cli.run(convert.main)"
    error = error_without(missing, convert, tmp_path / "model", tmp_path / form, "--to", form, "--verify")
    assert f"{missing} is not installed: run `pip install 'naturel_jax[torch]'`" in error


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The commands of a fresh environment: the package from a wheel made from the sdist, its dependencies from here."""
    root = tmp_path_factory.mktemp("package")
    source, env = root / "source", root / "env"
    # A copy, since building leaves files in the tree.
    names = ("naturel_jax", "tfds_naturel", "pyproject.toml", "requirements.txt", "README.md", "LICENSE")
    source.mkdir()
    for name in names:
        run(["cp", "-r", ROOT / name, source], root)
    run([sys.executable, "-c", "import setuptools.build_meta as b; b.build_sdist('dist')"], source)
    (sdist,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("naturel_jax/configs/siglip_tp.py") for name in archive.getnames())
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", root, sdist], root)
    run([sys.executable, "-m", "venv", "--without-pip", env], root)
    (wheel,) = root.glob("*.whl")
    run([*pip, "--python", env / "bin" / "python", "install", "--no-deps", "--no-index", wheel], root)
    (site,) = env.glob("lib/*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return env / "bin"


@pytest.mark.slow
def test_installed_package_trains_evaluates_and_converts_from_another_folder(installed, tmp_path):
    data = data_dir()
    naturel = data / "naturel" / "tiny" / VERSION
    train = ["--config", "siglip:tiny", f"--config.data.dir={data}", "--config.eval.benchmarks=('naturel',)"]
    train += ["--config.duration=2 steps", "--config.data.batch_size=16", "--config.eval.during={}"]
    run([installed / "naturel-train", *train], tmp_path)
    workdir = tmp_path / "runs" / "siglip_tiny"
    assert (workdir / "metrics.jsonl").is_file()
    flags = ["--benchmarks", "naturel", "--naturel", naturel, "--out", "results"]
    run([installed / "naturel-evaluate", "--models", f"T=run:{workdir}", *flags], tmp_path)
    assert (tmp_path / "results" / "T" / "naturel" / "scores.json").is_file()
    run([installed / "naturel-convert", f"run:{workdir}", "exported"], tmp_path)
    code = "import naturel_jax; print(naturel_jax.__file__, naturel_jax.load('exported').encode_text(['a']).shape)"
    out = run([installed / "python", "-c", code], tmp_path)
    assert str(installed.parent) in out and "(1, " in out


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_loads_only_what_it_needs(installed, command, tmp_path):
    """Never TensorFlow Datasets; and JAX only where a command's own modules are built on it."""
    wrapper = "import runpy, sys; sys.argv[:] = sys.argv[1:]\n"
    wrapper += "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    wrapper += "except SystemExit as stop: print(stop.code, *({'jax', 'tensorflow_datasets'} & sys.modules.keys()))"
    out = run([installed / "python", "-c", wrapper, installed / command, "--help"], tmp_path)
    status, *loaded = out.splitlines()[-1].split()
    assert status in ("0", "None") and loaded in ([], ["jax"] if command in BUILT_ON_JAX else [])
    assert "--" in out and len(out.splitlines()) > 10
