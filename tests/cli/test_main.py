"""Error messages for users' mistakes: what was found, what was expected, and the fix."""

import os
import re
import subprocess
import sys
import time
import types

import pytest
from etils import epath
from ml_collections import ConfigDict

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.cli import config_flags, hints
from naturel_jax.cli.config_flags import default_workdir
from naturel_jax.config.settings import meanings
from naturel_jax.storage import leases, state
from naturel_jax.training import run
from tests.helpers import tiny_config
from tests.helpers.worlds import ROOT, data_dir, free_address
from tfds_naturel.common.errors import UserError


def tiny(**changes) -> c.Config:
    """The tiny config on its world; ``changes``: field -> value, with ``__`` for a dot."""
    config = tiny_config.get_config()
    config.data.dir = os.fspath(data_dir())
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return c.load(config)


def output(*flags: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "naturel_jax.main", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


def test_hints_for_flags_of_other_libraries_name_fields_that_there_are():
    known = dict(meanings(c.Config)) | {f"data.mixture.main.{name}": "" for name, _ in meanings(c.Part)}
    named = {name for hint in hints.FOREIGN.values() for name in re.findall(r"--config\.([\w.]+)", hint)}
    assert named <= known.keys() and len(named) > 15
    assert not hints.for_flag("foo")
    (table,) = re.findall(r"\n\| `open_clip_train\.main`.*?\n\n", (ROOT / "docs/coming_from.md").read_text(), re.DOTALL)
    flags = {flag for row in table.splitlines() for flag in re.findall(r"--([a-z][\w-]+)", row.rpartition(" | ")[0])}
    assert len(flags) > 30 and not [flag for flag in flags if not hints.for_flag(flag)]


def test_field_that_is_named_as_in_another_library_is_no_typing_error():
    raw = tiny_config.get_config()
    for name in ("learning_rate", "epochs", "wd", "precision", "train_data", "optim.beta1"):
        with pytest.raises(UserError) as raised:
            config_flags.check_field(raw, name, "--config.x")
        assert f"no field {name!r}; write, for example, --config" in str(raised.value)
    suite = ConfigDict({"runs": {"a": raw}})
    with pytest.raises(UserError, match=r"did you mean 'runs\.a\.optim\.lr'\?"):
        config_flags.check_field(suite, "lr", "--config.lr")


def test_help_shows_an_example_and_every_flag():
    _, text = output("--help")
    assert "python -m naturel_jax.main --config configs/siglip_tp.py" in text
    assert all(f"--{flag}:" in text for flag in ("config", "workdir", "coordinator", "process", "cpu_devices"))


TINY = "--config=tests/helpers/tiny_config.py"


@pytest.mark.filterwarnings("ignore:the load_module():DeprecationWarning")
def test_overrides_of_the_config_file_are_listed(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    file = f"{ROOT}/tests/helpers/tiny_config.py"
    changes = ["--config.optim.lr=0.5", "--config.data.mixture.main.weight=3"]
    config_flags.parse(["naturel-train", f"--config={file}", *changes])
    assert config_flags.overridden() == [
        f"Config file: {file}, with these changes:",
        "config.optim.lr is 0.5.",
        "config.data.mixture.main.weight is 3.0.",
    ]
    config_flags.parse(["naturel-train", f"--config={file}"])
    assert config_flags.overridden() == [f"Config file: {file}"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config=configs/nothing.py"], ["--config configs/nothing.py not found; expected a file or one of: clic"]),
        ([TINY, "--config.optim.lrr=1"], ["--config.optim.lrr=1", "no field 'optim.lrr'", "did you mean 'optim.lr'?"]),
        ([TINY, "--config.optim.lr=abc"], ["config.optim.lr=abc", "float"]),
        ([TINY, "--config.seed=99999999999999999999"], ["config.seed is 99999999999999999999; expected a number"]),
        (["--config=negclip_sp:scenes", "--config.batch_size=32"], ["write, for example, --config.data.batch"]),
        ([TINY, "--batch-size=3"], ["command line flag 'batch-size'; write, for example, --config.data.batch_size"]),
        ([TINY, "lr=1"], ["unexpected arguments ['lr=1']", "--config.optim.lr=3e-6"]),
        ([TINY, "--config.optim.lr=-1"], ["config.optim.lr is -1.0; expected a number"]),
        (
            ["--config=siglip_tp:scene"],
            ["dataset 'naturel/scene' is not prepared under data", "Did you mean 'naturel/scenes'?"],
        ),
        (["--config=tests/helpers/broken_config.py"], ["helpers/broken_config.py line 11: ValueError: first second"]),
        (["--config", "tests/helpers/broken_config.py"], ["broken_config.py line 11: ValueError"]),
        (["--config", "runs/mine/config.json"], ["a config file is Python; the command that began a run continues it"]),
        ([TINY, "--cpu_devices=-1"], ["cpu_devices"]),
        ([], ["--config is missing; for example: --config siglip_tp"]),
    ],
    ids=lambda value: value[-1] if value and value[-1].startswith("--") else "",
)
def test_invalid_flags(flags, expected):
    status, text = output(*flags)
    assert status == 2 and "Traceback" not in text
    assert [line for line in text.splitlines() if line.startswith("naturel_jax.main: error: ")], text
    for part in expected:
        assert part in text


def test_unusable_workdir_is_rejected_before_reading_data(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"workdir .*/file/run cannot be written: Not a directory; choose another"):
        run.run(tiny(data__dir="nowhere"), os.fspath(tmp_path / "file" / "run"))


def test_full_disk_is_rejected_before_training(tmp_path, monkeypatch):
    usage = type(state.shutil.disk_usage("/"))(10**9, 10**9 - 1000, 1000)
    monkeypatch.setattr(state.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"0\.00 GB free; a checkpoint needs about 0\.0\d GB: free some"):
        run.run(tiny(), os.fspath(tmp_path))
    assert not (tmp_path / "metrics.jsonl").exists()


VISIBLE = """
import jax
from naturel_jax import main
main.run_all = lambda *_: print("GPUs", jax.config.read("jax_cuda_visible_devices"), flush=True)
main.main(["--config=tests/helpers/tiny_config.py", "--distributed"])
"""
OPEN_MPI = {"OMPI_MCA_orte_hnp_uri": "0.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "1"}
OPEN_MPI |= {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "5"}


@pytest.mark.parametrize(
    ("tasks", "extra", "expected"),
    [
        (1, {}, ["all"]),
        pytest.param(1, {"JAX_LOCAL_DEVICE_IDS": "2,3"}, ["2,3"], marks=pytest.mark.slow),
        pytest.param(1, OPEN_MPI, ["5"], marks=pytest.mark.slow),
        (2, {}, ["0", "1"]),
    ],
    ids=["one task", "one task that names its GPUs", "one task, of Open MPI", "a task for each GPU"],
)
def test_gpus_of_slurm_tasks_on_a_node(tasks, extra, expected):
    """In processes that JAX joins by the variables that ``srun`` sets."""
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1"}
    job |= {"SLURM_NTASKS": str(tasks), "SLURM_STEP_NUM_TASKS": str(tasks)}
    job["JAX_COORDINATOR_PORT"] = free_address().rpartition(":")[2]
    started = []
    for number in map(str, range(tasks)):
        env = os.environ | job | extra | {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        command = [sys.executable, "-c", VISIBLE]
        started.append(subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate(timeout=300)[0] for process in started]
    assert printed == [f"GPUs {ids}\n" for ids in expected]


def test_default_workdir_is_named_after_config_and_argument():
    assert default_workdir("configs/siglip_tp.py:scenes") == "runs/siglip_tp_scenes"
    assert default_workdir("configs/demo.py") == "runs/demo"
    assert default_workdir("finetune:csv:/photos/my.csv") == "runs/finetune_csv_photos_my.csv"
    assert default_workdir("finetune:webdataset:../{000..099}.tar") == "runs/finetune_webdataset_.._000..099_.tar"


def test_workdir_in_use_by_another_process_is_rejected(tmp_path, monkeypatch):
    """Which renews its lease while this one waits."""
    path, lease = epath.Path(tmp_path) / "lease.json", '{"token": "%d", "host": "elsewhere", "process": 7, "since": 0}'
    storage.write(path, lease % 1)
    renewed = types.SimpleNamespace(**vars(time) | {"sleep": lambda _: storage.write(path, lease % 2)})
    monkeypatch.setattr(leases, "time", renewed)
    with pytest.raises(UserError, match=r"is in use by process 7 on elsewhere since .*choose another --workdir"):
        run.run(tiny(), os.fspath(tmp_path))
