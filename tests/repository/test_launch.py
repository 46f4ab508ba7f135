"""The launchers, with stubs in place of the clusters' commands and of training. Exit code 75 means "continue"."""

import itertools
import json
import math
import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from naturel_jax.cli import config_flags
from naturel_jax.cli.sweeps import work
from tests.helpers import sky_task
from tests.helpers.documents import ROOT, project
from tests.helpers.stub_commands import calls, stub
from tfds_naturel.common import cli

LAUNCH = ROOT / "launch"


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
    assert calls(tmp_path, "scontrol") == ([["requeue", "42"]] if requeued else [])
    program = [".venv/bin/python", "-m", "naturel_jax.main", "--distributed", "--config", "a b.py"]
    assert calls(tmp_path, "srun") == [["--kill-on-bad-exit=0", *program]]


def test_slurm_job_gets_sigterm_in_time_keeps_its_log_and_has_tasks_that_see_all_gpus():
    """For the last, see tests/cli/test_main.py: JAX would give several tasks of a node one GPU each."""
    lines = (LAUNCH / "slurm.sbatch").read_text().splitlines()
    options = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert {"--requeue", "--signal=TERM@120", "--open-mode=append"} <= options
    assert {"--ntasks-per-node=1", "--gpus-per-node=8"} <= options


ARRAYS = {
    ("sweep.sbatch", "--seeds", "5"): ["naturel_jax.sweep", "--seeds", "5"],
    ("share.sbatch", "mine", "--out", "a b"): ["naturel_jax.mine", "--share", "7/8", "--out", "a b"],
}


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (3, False), (cli.STOPPED, True)])
@pytest.mark.parametrize("script", ARRAYS, ids=lambda script: script[0])
def test_slurm_requeues_a_stopped_task_of_an_array_only(script, status, requeued, tmp_path):
    """By the task's id: the id of the first task is that of the array."""
    stub(tmp_path, "srun", f"exit {status}")
    stub(tmp_path, "scontrol", "")
    slurm = {"ARRAY_JOB_ID": "42", "ARRAY_TASK_ID": "7", "ARRAY_TASK_COUNT": "8", "SUBMIT_DIR": str(tmp_path)}
    done = launch(*script, stubs=tmp_path, **{f"SLURM_{name}": value for name, value in slurm.items()})
    assert done.returncode == status, done.stderr
    assert calls(tmp_path, "srun") == [[".venv/bin/python", "-m", *ARRAYS[script]]]
    assert calls(tmp_path, "scontrol") == ([["requeue", "42_7"]] if requeued else [])


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
    """The schema in the API server's own OpenAPI document, of the oldest release that the manifest names and of newer
    ones."""
    files = [(LAUNCH / name).read_text() for name in ("kubernetes.yaml", "sweep.yaml")]
    (replicated,) = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, **replicated["template"]}
    for document in itertools.chain([job], *map(yaml.safe_load_all, files)):
        kubernetes_validate.validate(document, version, strict=True)
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(document | {"specs": {}}, version, strict=True)


def check_job(spec: dict) -> None:
    """The constraints of batch/v1 that its schema does not have, from the API reference of Kubernetes 1.31."""
    pod, rules = spec["template"]["spec"], spec["podFailurePolicy"]["rules"]
    assert pod["restartPolicy"] == "Never"  # a failure policy cannot be combined with OnFailure
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert 1 <= len(rules) <= 20 and pod["terminationGracePeriodSeconds"] >= 60
    for rule in rules:
        assert len(rule.keys() & {"onExitCodes", "onPodConditions"}) == 1
        if codes := rule.get("onExitCodes"):
            assert codes["containerName"] in [container["name"] for container in pod["containers"]]
            assert codes["values"] == sorted(set(codes["values"])) and 0 not in codes["values"]


def test_kubernetes_manifest_satisfies_the_rules_of_the_api():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    check_job(spec)
    # The coordinator is the pod of index 0: hostname <job>-0 in the subdomain of the headless service.
    name = job["metadata"]["name"]
    assert service["spec"] == {"clusterIP": "None", "selector": {"job-name": name}}
    assert pod["subdomain"] == service["metadata"]["name"]
    command = pod["containers"][0]["args"][0]
    assert command.startswith("exec ") and f"--coordinator {name}-0.{pod['subdomain']}:" in command
    assert f"--processes {spec['completions']} " in command


def test_pods_of_a_sweep_have_the_shares_of_their_indices():
    job = yaml.safe_load((LAUNCH / "sweep.yaml").read_text())
    (command,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    check_job(job["spec"])
    assert command.startswith("exec ") and command.endswith(
        f"--share $JOB_COMPLETION_INDEX/{job['spec']['completions']}"
    )
    assert after_failure(job, cli.STOPPED) == "Ignore" and after_failure(job, cli.USER_ERROR) == "FailJob"
    assert after_failure(job, work.FAILED) == "FailIndex", "the other pods go on"


JOBSET_FIELDS = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"replicatedJobs", "network", "failurePolicy", "successPolicy", "suspend", "coordinator"},
    "spec.network": {"enableDNSHostnames", "subdomain", "publishNotReadyAddresses"},
    "spec.failurePolicy": {"maxRestarts", "restartStrategy", "rules"},
    "spec.failurePolicy.rules": {
        "name",
        "action",
        "onJobFailureReasons",
        "onJobFailureMessagePatterns",
        "targetReplicatedJobs",
    },
    "spec.replicatedJobs": {"name", "groupName", "template", "replicas", "dependsOn"},
}
ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"}


@pytest.fixture
def jobset() -> dict:
    return yaml.safe_load((LAUNCH / "jobset.yaml").read_text())


def test_jobset_has_fields_that_there_are(jobset):
    """Fields of api/jobset/v1alpha2/jobset_types.go and the webhook of kubernetes-sigs/jobset 0.12."""
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    for path, fields in JOBSET_FIELDS.items():
        part = jobset
        for name in path.split(".") if path else ():
            part = part[name]
        for one in part if isinstance(part, list) else [part]:
            assert set(one) <= fields, f"{path}: {set(one) - fields}"
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        assert rule["action"] in ACTIONS and set(rule["onJobFailureReasons"]) <= REASONS
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])


def after_job_failure(jobset: dict, exit_code: int, conditions: tuple[str, ...] = ()) -> str:
    """What the JobSet controller does about a failed pod: the first rule that fits the Job's reason and message, which
    are those of pkg/controller/job of Kubernetes, else RestartJobSet."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    if (action := after_failure(job, exit_code, conditions)) == "FailJob":
        reason = "PodFailurePolicy"
        matched = "condition DisruptionTarget" if conditions else f"exit code {exit_code}"
        message = f"Container train for pod default/a-0 failed with {matched} matching FailJob rule at index 0"
    else:
        assert action == "Count" and job["spec"]["backoffLimit"] == 0
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


def test_jobset_policy_of_exit_codes(jobset):
    assert after_job_failure(jobset, cli.USER_ERROR) == "FailJobSet"
    assert after_job_failure(jobset, cli.STOPPED) == "RestartJobSetAndIgnoreMaxRestarts"
    assert after_job_failure(jobset, 137, ("DisruptionTarget",)) == "RestartJobSetAndIgnoreMaxRestarts"
    assert after_job_failure(jobset, 1) == after_job_failure(jobset, 134) == "RestartJobSet"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


def test_jobset_is_a_whole_slice(jobset):
    """A pod for each host, with all its chips: https://cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice."""
    exclusive = jobset["metadata"]["annotations"]["alpha.jobset.sigs.k8s.io/exclusive-topology"]
    assert exclusive == "cloud.google.com/gke-nodepool"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    spec = replicated["template"]["spec"]
    pod = spec["template"]["spec"]
    check_job(spec)
    (container,) = pod["containers"]
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = spec["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    assert chips == math.prod(map(int, shape.split("x")))
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu-v6e-slice"
    assert container["command"] == ["python", "-m", "naturel_jax.main"] and "--distributed" in container["args"]


def test_manifests_name_a_config_that_the_image_has(jobset):
    """The image's working folder is /work, which has no folder of configs."""
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    shell = job["spec"]["template"]["spec"]["containers"][0]["args"][0]
    arguments = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    for text in (shell, " ".join(arguments)):
        assert re.search(r"--config[ =](\S+)", text)[1] in config_flags.names()


# ---- SkyPilot -------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path) -> Path:
    """The home directory of a host of the slice, with stubs of uv and of the Python that ``setup`` installs."""
    binaries = tmp_path / "sky_workdir" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    stub(binaries, "python", 'exit "${STATUS:-0}"')
    (tmp_path / ".local").mkdir()
    stub(tmp_path / ".local" / "bin", "uv", 'exit "${STATUS:-0}"')
    return tmp_path


FLAGS = "--config.duration='5 epochs' --config.optim.lr=3e-6"
PROGRAM = ["-m", "naturel_jax.main", "--distributed", "--config", "siglip_tp", "--workdir", "gs://bucket/siglip_tp"]
PROGRAM += ["--config.data.dir=gs://bucket/data", "--config.duration=5 epochs", "--config.optim.lr=3e-6"]


@pytest.mark.parametrize("status", [0, 1, cli.USER_ERROR, cli.STOPPED])
def test_skypilot_runs_the_same_program_on_every_host(status, host):
    for rank in "01":
        done = sky_task.execute("run", host, FLAGS=FLAGS, STATUS=str(status), SKYPILOT_NODE_RANK=rank)
        assert done.returncode == status, done.stderr
    assert calls(host / "sky_workdir" / ".venv" / "bin", "python") == [PROGRAM] * 2


def test_skypilot_installs_extras_that_there_are_and_stops_where_it_fails(host):
    assert sky_task.execute("setup", host).returncode == 0
    venv, install = calls(host / ".local" / "bin", "uv")
    assert venv[0] == "venv" and install[:2] == ["pip", "install"]
    extras = re.fullmatch(r"\.\[(.*)\]", install[-1])[1].split(",")
    assert {"tpu", "gcs"} == set(extras) <= set(project()["optional-dependencies"])
    assert sky_task.execute("setup", host, STATUS="1").returncode == 1
    assert len(calls(host / ".local" / "bin", "uv")) == 3


def test_skypilot_task_continues_a_stopped_run_and_names_a_config():
    task = yaml.safe_load(sky_task.TASK.read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [cli.STOPPED]
    assert task["envs"]["CONFIG"] in config_flags.names()


def test_slices_of_the_skypilot_task():
    """The number in a type counts chips, in v5p TensorCores, of which a chip has two. A host has four chips, or eight
    where that is the slice: https://docs.cloud.google.com/tpu/docs/v6e, v5e and v5p."""
    rows = re.findall(r"tpu-(\w+)-(\d+) +\S+ +(\d+) +(\w+):([\dx]+)\n", sky_task.TASK.read_text())
    assert len(rows) == 4
    for family, number, hosts, platform, shape in rows:
        chips = int(number) // (2 if family == "v5p" else 1)
        assert math.prod(map(int, shape.split("x"))) == chips and platform == family.replace("litepod", "e")
        assert int(hosts) == math.ceil(chips / (8 if chips == 8 and family == "v6e" else 4))


SKY = """
import json, sys, sky, yaml
from sky.backends.task_codegen import TaskCodeGen
from sky.skylet import log_lib
config, variables = yaml.safe_load(sys.stdin), json.loads(sys.argv[1])
task = sky.Task.from_yaml_config(config, env_overrides=list(variables.items()))
task.validate()
(slice,) = task.resources
print(json.dumps([str(slice.cloud), slice.accelerators, slice.job_recovery["recover_on_exit_codes"]]))
script, variables = TaskCodeGen.build_task_bash_script(task.run), {**task.envs, "STATUS": "75"}
done = log_lib.run_bash_command_with_log_and_return_pid(script, "./log", variables, with_ray=True)
sys.exit(done["return_code"])
"""


@pytest.mark.proof
def test_skypilot_takes_the_task_and_runs_it_as_the_tests_do(host):
    """Its parser, and the function that executes the task on each host."""
    python = ROOT / ".venv-sky" / "bin" / "python"
    if not python.exists():
        pytest.skip("SkyPilot is not there: make test-sky")
    text = sky_task.TASK.read_text()

    def sky(text: str, variables: dict[str, str]) -> subprocess.CompletedProcess:
        command = [python, "-c", SKY, json.dumps(variables)]
        env = os.environ | {"HOME": str(host)}
        return subprocess.run(command, input=text, cwd=host, env=env, capture_output=True, text=True, timeout=300)

    done = sky(text, {**sky_task.BUCKET, "FLAGS": FLAGS})
    assert done.returncode == cli.STOPPED, done.stderr
    assert json.loads(done.stdout) == ["GCP", {"tpu-v6e-16": 1}, [cli.STOPPED]]
    assert calls(host / "sky_workdir" / ".venv" / "bin", "python") == [PROGRAM]
    done = sky(text, {"WORKDIR": "gs://bucket/run"})
    assert done.returncode == 1 and "'DATA_DIR' is None" in done.stderr
    done = sky(text.replace("job_recovery", "recovery"), sky_task.BUCKET)
    assert done.returncode == 1 and "recovery" in done.stderr
