"""Training in real processes that are killed, stopped, damaged, or moved to other devices. The results must match an
uninterrupted run."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from naturel_jax.checkpoints import checkpoint
from naturel_jax.data import datasets
from tests.helpers import record_files as files
from tests.helpers.worlds import Run, continued, data_dir, free_address, losses, parameters, two_processes, wait_for

LAST = 20  # steps of tiny_config
UNSCORED = ("--config.eval.benchmarks=()", "--config.eval.during={}")


def assert_same_run(workdir: Path, reference: Path) -> None:
    """Compares every step's loss and the final parameters, bit for bit."""
    assert losses(workdir) == losses(reference) and sorted(losses(workdir)) == list(range(1, LAST + 1))
    np.testing.assert_equal(parameters(workdir), parameters(reference))


def close(actual: dict[int, float], expected: dict[int, float], rtol: float) -> None:
    steps = sorted(expected)
    assert sorted(actual) == steps
    np.testing.assert_allclose([actual[s] for s in steps], [expected[s] for s in steps], rtol=rtol)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one_device(folder) -> Path:
    """The uninterrupted reference run."""
    run = Run(folder / "one")
    run.finish()
    return run.workdir


@pytest.fixture(scope="module")
def eight_devices(folder) -> Path:
    """In three axes: the batch, the parameters and the width of a layer are each split in two."""
    run = Run(folder / "eight", "--cpu_devices=8", "--config.mesh.fsdp=2", "--config.mesh.tensor=2", *UNSCORED)
    run.finish()
    return run.workdir


@pytest.mark.slow
def test_killed_and_stopped_run_matches_an_uninterrupted_one(one_device, folder):
    workdir, kill_at = folder / "killed", random.Random(0).randint(1, 12)

    first = Run(workdir)
    wait_for(first, lambda: len(losses(workdir)) >= kill_at)
    first.process.kill()
    assert first.wait() == -signal.SIGKILL

    second = Run(workdir)
    wait_for(second, lambda: any(workdir.glob("checkpoints/*tmp*")))  # in the middle of a save
    second.process.kill()
    assert second.wait() == -signal.SIGKILL

    third = Run(workdir)
    before = max(losses(workdir), default=0)
    wait_for(third, lambda: max(losses(workdir), default=0) > min(before, LAST - 5))
    third.process.terminate()
    seen = max(losses(workdir))
    assert third.wait() == 75, third.output()[-3000:]
    # A step's loss is read while the next step runs, which may already be past its stop check when the signal arrives.
    saved = max(checkpoint.saved_steps(workdir))
    assert seen <= saved <= seen + 2 and max(losses(workdir)) == saved
    assert "SIGTERM: stopping as soon as it is safe; another one, a second later or more, kills" in third.output()
    assert "stopped and saved in" in third.output().splitlines()[-1]

    assert f"from step {saved}" in Run(workdir).finish()
    assert_same_run(workdir, one_device)


@pytest.mark.proof
def test_killed_run_whose_batches_take_turns_matches_an_uninterrupted_one(folder):
    """Joined images and captions, then plain ones."""
    reference = Run(folder / "clic", *UNSCORED, form="clic")
    reference.finish()
    killed = Run(folder / "clic-killed", *UNSCORED, form="clic")
    wait_for(killed, lambda: checkpoint.saved_steps(killed.workdir))
    killed.process.kill()
    assert killed.wait() == -signal.SIGKILL
    saved = max(checkpoint.saved_steps(killed.workdir))
    assert saved < LAST and f"from step {saved}" in Run(killed.workdir, *UNSCORED, form="clic").finish()
    assert_same_run(killed.workdir, reference.workdir)


@pytest.mark.proof
def test_killed_run_on_own_data_matches_an_uninterrupted_one(folder):
    """Also with a photo that cannot be read, which another one stands in for."""
    (folder / "own").mkdir()
    rows = [f"{path},a red cup number {n} on a table" for n, path in enumerate(files.photos(folder / "own"))]
    (folder / "own/my.csv").write_text("\n".join(["filepath,caption", *rows]) + "\n")
    (folder / "own/photos/05.jpg").write_bytes(b"damaged")
    own = {"dir": folder / "own/data", "mixture.main.dataset": f"csv:{folder}/own/my.csv"}
    own |= {"mixture.main.recipe": "order_shuffles"}
    flags = [*(f"--config.data.{name}={value}" for name, value in own.items()), *UNSCORED]
    reference, killed = Run(folder / "own/whole", *flags), folder / "own/killed"
    output = reference.finish()
    assert "'photos/05.jpg'" in output and "were replaced by others of their batch" in output
    run = Run(killed, *flags)
    wait_for(run, lambda: len(losses(killed)) >= 12)
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert "continuing" in Run(killed, *flags).finish()
    assert_same_run(killed, reference.workdir)


@pytest.mark.slow
def test_damaged_newest_checkpoint_falls_back_to_the_previous_one(one_device, folder):
    workdir = folder / "damaged"
    shutil.copytree(one_device, workdir)
    (workdir / "scores.json").unlink()
    newest = workdir / "checkpoints" / str(LAST)
    largest = max(newest.glob("params/**/d/*"), key=lambda path: path.stat().st_size)
    with open(largest, "r+b") as file:
        file.truncate(largest.stat().st_size // 2)
    output = Run(workdir).finish()
    assert f"checkpoints/{LAST} cannot be read and is kept as {LAST}.broken" in output
    assert f"from step {LAST - 5}" in output
    assert (workdir / "checkpoints" / f"{LAST}.broken").is_dir()
    assert_same_run(workdir, one_device)


@pytest.mark.slow
def test_changed_config_is_rejected_and_finished_run_is_not_repeated(one_device):
    scores = (one_device / "scores.json").stat().st_mtime_ns
    other = Run(one_device, "--config.optim.b2=0.9")
    assert other.wait() == 2
    assert "config.optim.b2 was 0.98, is 0.9" in other.output() and "another --workdir" in other.output()
    assert "is finished" in Run(one_device, "--config.data.threads=1").finish()
    assert (one_device / "scores.json").stat().st_mtime_ns == scores


@pytest.mark.slow
def test_nonfinite_loss_stops_the_run_and_names_its_items(folder):
    run = Run(folder / "nan", "--config.optim.lr=1e30", "--config.checkpoint.every=1 steps", *UNSCORED)
    assert run.wait() == 2 and "Traceback" not in run.output()
    message = run.output().split("error: step ")[1]
    step = int(message.split(":")[0])
    assert max(checkpoint.saved_steps(run.workdir)) == step - 1
    assert all(np.isfinite(x).all() for x in parameters(run.workdir).values())
    ids = datasets.open_source("naturel/tiny", str(data_dir()), "train").items.image_ids
    named = message.split("items of the batch: ")[1].split("\n")[0].split(", ")
    assert len(named) == 16 and {name.rpartition("/")[2] for name in named} <= set(ids)


@pytest.mark.slow
def test_eight_devices_match_one(one_device, eight_devices):
    close(losses(eight_devices), losses(one_device), 1e-5)


@pytest.mark.slow
def test_run_of_eight_devices_continues_on_one_device_and_on_two_processes(eight_devices, folder):
    one = Run(continued(eight_devices, folder / "eight-one", 15), *UNSCORED)
    assert "from step 15" in one.finish()
    two = two_processes(continued(eight_devices, folder / "eight-two", 15), *UNSCORED, devices=1)
    for run in two:
        assert "from step 15" in run.finish()
    for workdir in (one.workdir, two[0].workdir):
        close(losses(workdir), losses(eight_devices), 1e-5)


@pytest.mark.slow
# After step 3, between two saves, and after step 5, in a save.
@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.proof), 5])
def test_sigterm_to_one_process_stops_both_at_the_same_step(step, folder):
    two = two_processes(folder / f"two-stopped-{step}", *UNSCORED, devices=1)
    workdir = two[0].workdir
    wait_for(two[0], lambda: len(losses(workdir)) >= step)
    two[1].process.terminate()
    assert [run.wait() for run in two] == [75, 75], two[0].output()[-3000:]
    saved = max(checkpoint.saved_steps(workdir))
    assert saved < LAST and max(losses(workdir)) == saved
    for run in two_processes(workdir, *UNSCORED, devices=1):
        assert f"from step {saved}" in run.finish()
    assert sorted(losses(workdir)) == list(range(1, LAST + 1))


@pytest.mark.slow
def test_process_that_fails_alone_exits_soon_and_ends_the_other(folder):
    began, two = time.monotonic(), two_processes(folder / "alone", second="--config.data.mixture.main.dataset=absent")
    assert two[1].wait() == 2, two[1].output()[-3000:]
    assert "dataset 'absent' is not prepared" in two[1].output() and two[0].wait() != 0
    assert time.monotonic() - began < 200  # JAX alone would wait 300 s


LATE = """
import sys, time, jax, numpy as np
from naturel_jax.devices.sharding import batch_sharding, make_mesh, warm_up_collectives

process, coordinator = int(sys.argv[1]), sys.argv[2]
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(coordinator, 2, process)
mesh = make_mesh({"data": 4, "fsdp": 2})
warm_up_collectives(mesh)
ones = jax.make_array_from_callback((8,), batch_sharding(mesh), lambda index: np.ones(1))
time.sleep(45 * process)
print("total", float(jax.jit(lambda x: x.sum())(ones)))
"""


@pytest.mark.proof
def test_connected_processes_wait_longer_than_thirty_seconds():
    """As where one compiles while the other has the program."""
    address = free_address()
    commands = [[sys.executable, "-c", LATE, str(process), address] for process in range(2)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for process in both:
        assert "total 8.0" in process.communicate(timeout=300)[0] and process.returncode == 0


@pytest.mark.proof
def test_checkpoint_unreadable_by_one_process_is_set_aside_by_both(folder):
    cut = "--config.mesh.fsdp=8"  # so that every process reads the shards that it wrote
    for run in two_processes(folder / "two-damaged", cut):
        run.finish()
    workdir = folder / "two-damaged"
    (workdir / "scores.json").unlink()
    before = losses(workdir)
    for path in (workdir / "checkpoints" / str(LAST)).glob("params/ocdbt.process_1/d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    first, second = [run.finish() for run in two_processes(workdir, cut)]
    for output in (first, second):
        assert f"checkpoints/{LAST} cannot be read and is kept as {LAST}.broken" in output
        assert f"from step {LAST - 5}" in output
    assert (workdir / "checkpoints" / f"{LAST}.broken").is_dir()
    close(losses(workdir), before, 1e-6)
