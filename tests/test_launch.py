"""The launchers, with stubs in place of the clusters' commands and of training. Exit code 75 means "continue"."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tfds_naturel import cli

LAUNCH = Path(__file__).parents[1] / "launch"


def stub(folder: Path, name: str, script: str) -> None:
    """A command in ``folder`` that appends its arguments, quoted, to ``<folder>/<name>.calls`` and runs ``script``."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\necho "$(printf \'%q \' "$@")" >> {folder}/{name}.calls\n{script}\n')
    path.chmod(0o755)


def calls(folder: Path, name: str) -> list[str]:
    path = folder / f"{name}.calls"
    return [line.strip() for line in path.read_text().splitlines()] if path.exists() else []


def launch(script: str, *arguments: str, stubs: Path, **environment: str) -> subprocess.CompletedProcess:
    path = f"{stubs}:{os.environ['PATH']}"
    command = ["bash", str(LAUNCH / script), *arguments]
    return subprocess.run(
        command, env=os.environ | {"PATH": path} | environment, capture_output=True, text=True, timeout=60
    )


# ---- SLURM ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (cli.USER_ERROR, False), (cli.STOPPED, True)])
def test_slurm_requeues_a_stopped_job_only(status, requeued, tmp_path):
    stub(tmp_path, "srun", f"exit {status}")
    stub(tmp_path, "scontrol", "")
    slurm = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "42"}
    done = launch("slurm.sbatch", "--config", "a b.py", stubs=tmp_path, **slurm)
    assert done.returncode == status, done.stderr
    assert calls(tmp_path, "scontrol") == (["requeue 42"] if requeued else [])
    program = ".venv/bin/python -m naturel_jax.main --distributed --config a\\ b.py"
    assert calls(tmp_path, "srun") == [f"--kill-on-bad-exit=0 {program}"]


def test_slurm_job_gets_sigterm_in_time_and_keeps_its_log():
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= options


# ---- Kubernetes -----------------------------------------------------------------------------------------------------


def after_failure(job: dict, exit_code: int, conditions: tuple[str, ...] = ()) -> str:
    """What the Job controller does about a failed pod: the first rule that matches, else Count."""
    for rule in job["spec"]["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        if codes and (exit_code in codes["values"]) == (codes["operator"] == "In"):
            return rule["action"]
        if any(pattern["type"] in conditions for pattern in rule.get("onPodConditions", ())):
            return rule["action"]
    return "Count"


def test_kubernetes_policy_of_exit_codes():
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    assert after_failure(job, cli.STOPPED) == "Ignore"  # replaced, without counting towards backoffLimit
    assert after_failure(job, cli.USER_ERROR) == "FailJob"
    assert after_failure(job, 1) == after_failure(job, 134) == "Count"
    assert after_failure(job, 137, ("DisruptionTarget",)) == "Ignore"


@pytest.mark.parametrize("version", ["1.29", "1.31", "1.36"])
def test_kubernetes_manifest_fits_the_schema(version):
    """That of the API server's own OpenAPI document, of the oldest release that the manifest names and newer ones."""
    for document in yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()):
        kubernetes_validate.validate(document, version, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document | {"specs": {}}, version, strict=True)


def test_kubernetes_manifest_satisfies_the_rules_of_the_api():
    """The constraints of batch/v1 that its schema does not have, from the API reference of Kubernetes 1.31."""
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # a failure policy cannot be combined with OnFailure
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    names = [container["name"] for container in pod["containers"]]
    rules = spec["podFailurePolicy"]["rules"]
    assert 1 <= len(rules) <= 20
    for rule in rules:
        assert len(rule.keys() & {"onExitCodes", "onPodConditions"}) == 1
        if codes := rule.get("onExitCodes"):
            assert codes["containerName"] in names
            assert codes["values"] == sorted(set(codes["values"])) and 0 not in codes["values"]
    # The coordinator is the pod of index 0: hostname <job>-0 in the subdomain of the headless service.
    name = job["metadata"]["name"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": name}}
    assert pod["subdomain"] == service["metadata"]["name"]
    command = pod["containers"][0]["args"][0]
    assert command.startswith("exec ") and f"--coordinator {name}-0.{pod['subdomain']}:" in command
    assert f"--processes {spec['completions']} " in command
    assert pod["terminationGracePeriodSeconds"] >= 60


# ---- Cloud TPU ------------------------------------------------------------------------------------------------------

# Runs the commands that are sent to the workers here, in the folder $WORKER as the home directory.
GCLOUD = """
[ "$4" = ssh ] || exit 0
for last; do :; done
cd "$WORKER" && HOME="$WORKER" exec bash -c "$last"
"""


@pytest.fixture
def tpu(tmp_path) -> Path:
    """Stubs of gcloud, git, and of curl and uv on the workers."""
    stub(tmp_path, "gcloud", GCLOUD)
    stub(tmp_path, "git", "")
    stub(tmp_path, "curl", "echo 'echo installed uv'")
    worker, project = tmp_path / "worker", tmp_path / "project"
    (worker / ".local").mkdir(parents=True)
    stub(worker / ".local" / "bin", "uv", "")
    (project / "naturel_jax" / ".venv").mkdir(parents=True)
    stub(project / "naturel_jax" / ".venv" / "bin", "python", "pwd; exit ${STATUS:-0}")
    subprocess.run(["tar", "czf", worker / "project.tar.gz", "-C", project, "."], check=True)
    return tmp_path


def on_tpu(stubs: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return launch("tpu_vm.sh", *arguments, stubs=stubs, WORKER=str(stubs / "worker"), **environment)


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-256", "v2-alpha-tpuv6e"),
        ("v4-8", "tpu-ubuntu2204-base"),
        ("v3-8", "tpu-ubuntu2204-base"),
    ],
)
def test_tpu_slice_has_the_runtime_of_its_accelerator(accelerator, version, tpu):
    done = on_tpu(tpu, "create", "mine", "us-east5-b", accelerator)
    assert done.returncode == 0, done.stderr
    create, copy, install = calls(tpu, "gcloud")
    assert create == (
        f"compute tpus tpu-vm create mine --zone us-east5-b --accelerator-type {accelerator} --version {version}"
    )
    tar = copy.split()[4]
    assert copy == f"compute tpus tpu-vm scp {tar} mine:project.tar.gz --zone us-east5-b --worker=all"
    assert not Path(tar).exists()  # the local copy is removed
    assert install.startswith("compute tpus tpu-vm ssh mine --zone us-east5-b --worker=all --command ")
    assert calls(tpu, "curl") == ["-LsSf https://astral.sh/uv/install.sh"]
    uv = calls(tpu / "worker" / ".local" / "bin", "uv")
    assert uv == ["venv --clear --python 3.12", "pip install -e .\\[tpu\\,gcs\\]"]


@pytest.mark.parametrize("status", [0, cli.USER_ERROR, cli.STOPPED])
def test_tpu_run_passes_arguments_and_exit_status(status, tpu):
    on_tpu(tpu, "create", "mine", "us-east5-b", "v6e-8")
    flags = ("--config", "configs/siglip_tp.py", "--workdir", "gs://bucket/a b", "--config.name=it's $HOME")
    done = on_tpu(tpu, "run", "mine", "us-east5-b", *flags, STATUS=str(status))
    assert done.returncode == status and done.stdout.strip().endswith("worker/naturel_jax")
    # The stub is moved with the project: its calls are where it was made.
    (call,) = calls(tpu / "project" / "naturel_jax" / ".venv" / "bin", "python")
    expected = subprocess.run(["bash", "-c", "printf '%q ' \"$@\"", "bash", *flags], capture_output=True, text=True)
    assert call == f"-m naturel_jax.main --distributed {expected.stdout.strip()}"


def test_tpu_delete_and_mistakes(tpu):
    assert on_tpu(tpu, "delete", "mine", "us-east5-b").returncode == 0
    assert calls(tpu, "gcloud") == ["compute tpus tpu-vm delete mine --zone us-east5-b --quiet"]
    unknown = on_tpu(tpu, "create", "mine", "us-east5-b", "a100-8")
    assert unknown.returncode == 2 and "accelerator type a100-8: expected v6e-N" in unknown.stderr
    for arguments in [("create", "mine", "us-east5-b"), ("run", "mine"), ("stop", "mine", "us-east5-b")]:
        mistake = on_tpu(tpu, *arguments)
        assert mistake.returncode == 2 and "launch/tpu_vm.sh create NAME ZONE" in mistake.stderr
    assert len(calls(tpu, "gcloud")) == 1


# ---- Several processes on one machine -------------------------------------------------------------------------------


def local(folder: Path, program: str) -> subprocess.Popen:
    """launch/local.py with two processes of ``program``, in which ``number`` is the process's number."""
    (folder / "naturel_jax").mkdir()
    start = "import os, pathlib, signal, sys, time\nnumber = int(sys.argv[-1].removeprefix('--process='))\n"
    ready = "pathlib.Path(f'{number}.pid').write_text(str(os.getpid()))\n"
    (folder / "naturel_jax" / "main.py").write_text(start + program.replace("READY", ready))
    command = [sys.executable, LAUNCH / "local.py", "--processes", "2", "--devices", "1", "--", "--config", "a.py"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def pids(folder: Path) -> list[int]:
    """The process ids of both processes, once both are ready."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        texts = [path.read_text() for path in sorted(folder.glob("*.pid"))]
        if len(texts) == 2 and all(texts):
            return [int(text) for text in texts]
        time.sleep(0.02)
    raise TimeoutError(f"processes did not start in {folder}")


def test_local_waits_for_all_processes_that_stop(tmp_path):
    saving = "if number:\n  time.sleep(1)\n  pathlib.Path('saved').touch()\nsys.exit(75)"
    assert local(tmp_path, saving).wait(30) == cli.STOPPED
    assert (tmp_path / "saved").exists()


def test_local_ends_the_others_when_one_fails(tmp_path):
    launcher = local(tmp_path, "READY\nif number:\n  time.sleep(100)\ntime.sleep(1)\nsys.exit(3)")
    _, other = pids(tmp_path)
    assert launcher.wait(30) == 3
    time.sleep(0.2)
    stat = Path(f"/proc/{other}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on(number, tmp_path):
    handler = f"signal.signal({int(number)}, lambda *_: (pathlib.Path(f'{{number}}.stopped').touch(), sys.exit(75)))"
    launcher = local(tmp_path, f"{handler}\nREADY\ntime.sleep(100)")
    pids(tmp_path)
    launcher.send_signal(number)
    assert launcher.wait(30) == cli.STOPPED
    assert all((tmp_path / f"{n}.stopped").exists() for n in range(2))


def test_local_kills_at_the_second_signal(tmp_path):
    ignore = "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(f'{number}.asked').touch())"
    launcher = local(tmp_path, f"{ignore}\nREADY\nwhile True:\n  time.sleep(1)")
    pids(tmp_path)
    launcher.send_signal(signal.SIGTERM)
    while len(list(tmp_path.glob("*.asked"))) < 2:
        assert launcher.poll() is None
        time.sleep(0.02)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(30) == 128 + signal.SIGKILL
