"""perf/gpu.sh with stubs in place of python and the driver: parts are kept, tried again, stopped and reported."""

import importlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers.parsing import Parsed, stop_once_parsed
from tests.helpers.processes import wait_until
from tests.helpers.stub_commands import calls, stub
from tests.helpers.worlds import ROOT
from tfds_naturel.common import cli

# What -c asks for comes from the environment, and so do words by which a part fails or hangs.
PYTHON = """
case "$*" in
  *"import jax"*) [ -n "$JAX" ] && echo "$JAX" ;;
  *"import torch"*) echo "$TORCH" ;;
  *"${FAILS:-nothing}"*) echo "no memory" >&2; exit 3 ;;
  *"${HANGS:-nothing}"*) echo "first lines"; sleep 100 ;;
  *) echo "measured $*" ;;
esac
"""


@pytest.fixture
def stubs(tmp_path) -> Path:
    stub(tmp_path / "bin", "python", PYTHON)
    stub(tmp_path / "bin", "nvidia-smi", '[ -n "$CARD" ] && echo "$CARD"')
    return tmp_path / "bin"


def start(stubs: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    card = {"CARD": "NVIDIA H100 80GB HBM3, 570.86", "JAX": "0.10.2", "TORCH": "2.9.0"}
    env = os.environ | {"PATH": f"{stubs}:{os.environ['PATH']}"} | card | environment
    command = ["bash", ROOT / "perf" / "gpu.sh", *map(str, arguments)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def measure(stubs: Path, *arguments: object, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    process = start(stubs, *arguments, **environment)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def measured(stubs: Path) -> list[str]:
    """The calls of modules of perf, without ``-m``."""
    return [" ".join(call[1:]) for call in calls(stubs, "python") if call[0] == "-m"]


def test_each_part_leaves_a_file_with_the_machine_and_is_not_measured_again(stubs, tmp_path):
    folder = tmp_path / "new" / "results"
    code, out, err = measure(stubs, folder)
    machine = "NVIDIA H100 80GB HBM3, 570.86 (card, driver); jax 0.10.2; torch 2.9.0"
    assert (code, err) == (0, "") and out.startswith(machine + "\n")
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(files) == len(measured(stubs)) >= 10 and all(name.endswith(".txt") for name in files)
    command = "perf.objectives step --batch 256"
    assert files["step.txt"] == f"{machine}\n$ python -m {command}\nmeasured -m {command}\n"
    code, out, _ = measure(stubs, folder)
    assert code == 0 and out.count(": done before\n") == len(files) == len(measured(stubs))


def test_every_part_is_a_command_that_its_script_understands(stubs, tmp_path, monkeypatch):
    stop_once_parsed(monkeypatch)
    for torch in ("2.9.0", ""):
        assert measure(stubs, tmp_path / f"results {torch}", TORCH=torch)[0] == 0
    for call in sorted(set(measured(stubs))):
        module, *flags = call.split()
        with pytest.raises(Parsed):
            importlib.import_module(module).main(flags)


def test_a_part_that_fails_is_named_and_comes_last_the_next_time(stubs, tmp_path):
    code, _, err = measure(stubs, tmp_path / "results", FAILS="towers --dtype bfloat16 --preset clip-l14")
    failed = tmp_path / "results" / "towers_clip_l14.unfinished"
    assert code == 1 and f"towers_clip_l14: exit code 3: {failed}\n" in err and err.count("exit code 3") == 2
    assert failed.read_text().endswith("no memory\n")
    (tmp_path / "results" / "loading.txt").unlink()
    before = len(measured(stubs))
    assert measure(stubs, tmp_path / "results")[::2] == (0, "")
    assert [call.split()[0] for call in measured(stubs)[before:]] == ["perf.loading"] + 2 * ["perf.towers"]
    assert not failed.exists() and failed.with_suffix(".txt").exists()


def test_a_part_that_hangs_is_stopped_with_its_children(stubs, tmp_path):
    code, _, err = measure(stubs, tmp_path / "results", "3", HANGS="objectives frozen")
    path = tmp_path / "results" / "frozen.unfinished"
    assert code == 1 and err == f"frozen: not done after 3 s: {path}\n"
    assert path.read_text().endswith("first lines\n")
    assert not running("sleep", stubs)


def running(name: str, stubs: Path) -> list[str]:
    """Processes of this name that were started with these stubs on their PATH."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "comm").read_text().strip() == name and str(stubs) in (folder / "environ").read_text():
                found.append(folder.name)
        except OSError:  # it has ended
            continue
    return found


def test_stopping_the_script_stops_its_part(stubs, tmp_path):
    process = start(stubs, tmp_path / "results", HANGS="towers")
    wait_until(lambda: running("sleep", stubs))
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    process.communicate()
    wait_until(lambda: not running("sleep", stubs))
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["towers_clip_b32.unfinished"]


def test_one_of_several_cards_is_used(stubs, tmp_path):
    stub(stubs, "python", f'echo "$CUDA_VISIBLE_DEVICES" >> {tmp_path}/used\n{PYTHON}')
    assert measure(stubs, tmp_path / "results", CUDA_VISIBLE_DEVICES="2,3")[0] == 0
    assert set((tmp_path / "used").read_text().split()) == {"2"}
    assert [call[:2] for call in calls(stubs, "nvidia-smi")] == [["-i", "2"]]


def test_without_torch_for_the_card_only_this_project_is_measured(stubs, tmp_path):
    code, out, _ = measure(stubs, tmp_path / "results", TORCH="")
    assert code == 0 and "torch with CUDA is not installed" in out.splitlines()[0]
    assert all("--ours_only" in call for call in measured(stubs) if "towers" in call)
    assert not any("objectives step" in call for call in measured(stubs))


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ((), {}, "perf/gpu.sh FOLDER"),
        (("{folder}", "soon"), {}, "SECONDS is soon: expected a whole number from 1"),
        (("{folder}",), {"CARD": ""}, "nvidia-smi failed: perf/gpu.sh needs an NVIDIA GPU and its driver"),
        (("{folder}",), {"JAX": ""}, "JAX finds no GPU: install the project with pip install -e '.[gpu,torch]'"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_measured(arguments, environment, message, stubs, tmp_path):
    arguments = [argument.format(folder=tmp_path / "results") for argument in arguments]
    code, _, err = measure(stubs, *arguments, **environment)
    assert code == cli.USER_ERROR and message in err and not measured(stubs)
