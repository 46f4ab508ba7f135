"""launch/tpu_vm.py with stand-ins for gcloud and the workers."""

import importlib.util
import itertools
import math
import os
import re
import shlex
import time
import types
from pathlib import Path

import pytest

from tests.helpers.stub_commands import calls, stub
from tests.helpers.tpu_workers import make_worker, start, starts
from tfds_naturel.common import cli

LAUNCH = Path(__file__).parents[2] / "launch"
NAME, ZONE = "mine", "us-east5-b"
FLAGS = ["--config", "configs/siglip_tp.py", "--workdir", "gs://bucket/a b", "--config.name=it's $HOME"]

# `list` prints the states that are listed in $STATES, one at a time; commands that are sent to the workers run here, in
# the folder $WORKER as the home directory, but runs end with the codes in $CODES, if there are any.
GCLOUD = """
next() { head -n 1 "$1"; if [ "$(wc -l < "$1")" -gt 1 ]; then sed -i 1d "$1"; fi; }
[ "$4" != "${FAILING:-}" ] || exit 1
case "$4" in
  list) next "$STATES" ;;
  describe) echo "$DESCRIBED" ;;
  ssh)
    for last; do :; done
    case "$last" in *tpu_worker.py\\ run*) [ ! -s "$CODES" ] || exit "$(next "$CODES")" ;; esac
    cd "$WORKER" && HOME="$WORKER" exec bash -c "$last" ;;
esac
"""


@pytest.fixture
def tpu_vm(tmp_path, monkeypatch):
    """The launcher, which waits for nothing, with stubs of gcloud and git, and of curl and uv on the worker."""
    spec = importlib.util.spec_from_file_location("tpu_vm", LAUNCH / "tpu_vm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    clock = types.SimpleNamespace(sleep=lambda _: None, monotonic=itertools.count().__next__, strftime=time.strftime)
    monkeypatch.setattr(module, "time", clock)
    number = itertools.count(1)
    monkeypatch.setattr(module, "new_call", lambda: f"call{next(number)}")
    stub(tmp_path, "gcloud", GCLOUD)
    stub(tmp_path, "naturel-plan", "exit ${PLAN:-0}")
    stub(tmp_path, "git", "")
    stub(tmp_path, "curl", "echo 'echo installed uv'")
    (tmp_path / "states").write_text("ACTIVE\n")
    (tmp_path / "codes").touch()
    make_worker(tmp_path / "worker")
    for name, value in {"STATES": "states", "CODES": "codes", "WORKER": "worker"}.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return module


def gcloud(folder: Path, verb: str | None = None) -> list[list[str]]:
    """The calls of gcloud from the verb on, or those of one verb, from what follows it on."""
    assert all(call[:3] == ["compute", "tpus", "queued-resources"] for call in calls(folder, "gcloud"))
    found = [call[3:] for call in calls(folder, "gcloud")]
    return [call[1:] for call in found if call[0] == verb] if verb else found


def verbs(folder: Path) -> list[str]:
    """What was done, without looks at the state: ``install`` for its command on the workers."""
    short = []
    for verb, *rest in gcloud(folder):
        if verb == "ssh":
            verb = rest[-1].rpartition("tpu_worker.py ")[2].partition(" ")[0] if "tpu_worker" in rest[-1] else "install"
            verb = "install" if "flock" in rest[-1] else verb
        short.append(verb)
    return [verb for verb in short if verb not in ("list", "scp")]


# ---- Renting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accelerator", "options", "expected"),
    [  # versions: https://docs.cloud.google.com/tpu/docs/runtimes
        ("v6e-256", [], "--node-id mine --accelerator-type v6e-256 --runtime-version v2-alpha-tpuv6e"),
        ("v5p-8", ["--spot"], "--node-id mine --accelerator-type v5p-8 --runtime-version v2-alpha-tpuv5 --spot"),
        ("v5litepod-16", [], "--node-id mine --accelerator-type v5litepod-16 --runtime-version v2-alpha-tpuv5-lite"),
        (
            "v4-32",
            ["--slices", "2"],
            "--node-count 2 --node-prefix mine --accelerator-type v4-32 --runtime-version tpu-ubuntu2204-base",
        ),
    ],
)
def test_create_asks_waits_and_installs(accelerator, options, expected, tpu_vm, tmp_path, capfd):
    (tmp_path / "states").write_text("WAITING_FOR_RESOURCES\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
    assert tpu_vm.main(["create", NAME, ZONE, accelerator, *options]) == 0
    asked, *looks, copied, installed = gcloud(tmp_path)
    assert asked == ["create", NAME, "--zone", ZONE, *expected.split()]
    look = ["list", "--zone", ZONE, "--filter", "name~/mine$", "--format", "value(state.state)"]
    assert looks == [look] * 4
    output = capfd.readouterr().out
    printed = re.findall(r"^\d\d:\d\d:\d\d mine: (\w+)$", output, re.MULTILINE)
    assert printed == ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    workers = ["--zone", ZONE, "--node", "all", "--worker", "all", "--batch-size", "all"]
    archive = copied[1]
    assert copied == ["scp", archive, f"{NAME}:naturel_jax.tar.gz", *workers]
    assert calls(tmp_path, "git") == [
        ["-C", str(LAUNCH.parent), "archive", "--prefix", "naturel_jax/", "-o", archive, "HEAD"]
    ]
    assert not Path(archive).parent.exists()  # the local copy is removed
    assert installed[:-1] == ["ssh", NAME, *workers, "--ssh-flag=-oServerAliveInterval=30", "--command"]
    assert calls(tmp_path, "curl") == [["-LsSf", "https://astral.sh/uv/install.sh"]]
    uv = [["venv", "--clear", "--python", "3.12"], ["pip", "install", "-e", ".[tpu,gcs]"]]
    assert calls(tmp_path / "worker" / ".local" / "bin", "uv") == uv


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", ""])
def test_create_ends_where_there_will_be_no_slice(state, tpu_vm, tmp_path, capfd):
    (tmp_path / "states").write_text(f"{state}\n")
    assert tpu_vm.main(["create", NAME, ZONE, "v6e-8"]) == 1
    assert f"mine is {state or 'gone'}" in capfd.readouterr().err
    assert verbs(tmp_path) == ["create"]


def test_delete_names_the_resource(tpu_vm, tmp_path):
    assert tpu_vm.main(["delete", NAME, ZONE]) == 0
    assert gcloud(tmp_path) == [["delete", NAME, "--zone", ZONE, "--force", "--quiet"]]


@pytest.mark.parametrize(
    ("failing", "command", "message"),
    [
        ("create", ["create", NAME, ZONE, "v6e-8"], "queued-resources create mine --zone us-east5-b --node-id mine "),
        ("list", ["create", NAME, ZONE, "v6e-8"], "queued-resources list --zone us-east5-b --filter 'name~/mine$'"),
        ("scp", ["install", NAME, ZONE], "queued-resources scp "),
        ("delete", ["delete", NAME, ZONE], "queued-resources delete mine --zone us-east5-b --force --quiet"),
    ],
)
def test_a_failure_of_gcloud_names_the_command(failing, command, message, tpu_vm, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FAILING", failing)
    assert tpu_vm.main(command) == 1
    error = capfd.readouterr().err
    assert message in error and error.strip().endswith("` failed with exit code 1")
    assert gcloud(tmp_path)[-1][0] == failing and len(gcloud(tmp_path, failing)) == (5 if failing == "list" else 1)


def test_mistakes(tpu_vm, tmp_path, capfd, monkeypatch):
    mistakes = {
        ("create", NAME, ZONE): "accelerator",
        ("create", NAME, ZONE, "a100-8"): "'a100-8': expected one of v6e-N, v5p-N, v5litepod-N, v4-N",
        ("create", NAME, ZONE, "tpu7x-8"): "use launch/jobset.yaml",  # the Cloud TPU API does not have it
        ("create", NAME, ZONE, "v6e-8", "--slices", "0"): "'0': expected a number from 1",
        ("create", NAME, ZONE, "v6e-8", "--plan"): "flags of naturel-train follow --",
        ("create", NAME, ZONE, "v6e-8", "--", "--config", "a.py"): "but create takes none: --config a.py",
        ("run", NAME, ZONE): "flags of naturel-train follow --",
        ("stop", NAME): "zone",
        ("restart", NAME, ZONE): "invalid choice: 'restart'",
    }
    for arguments, message in mistakes.items():
        with pytest.raises(SystemExit) as stopped:
            tpu_vm.main(arguments)
        assert stopped.value.code == 2 and message in capfd.readouterr().err, arguments
    monkeypatch.setenv("PATH", "/nowhere")
    assert tpu_vm.main(["delete", NAME, ZONE]) == 2 and "gcloud was not found" in capfd.readouterr().err
    assert not gcloud(tmp_path)


# ---- Planning --------------------------------------------------------------------------------------------------------


def test_topologies(tpu_vm):
    """Rows of https://docs.cloud.google.com/tpu/docs/v5e, v6e and v5p, and the number of chips of all."""
    for accelerator, topology in {
        "v5litepod-16": "v5e:4x4",
        "v5litepod-256": "v5e:16x16",
        "v6e-8": "v6e:2x4",
        "v6e-32": "v6e:4x8",
        "v5p-8": "v5p:2x2x1",
        "v5p-64": "v5p:2x4x4",
        "v5p-2048": "v5p:8x8x16",
    }.items():
        assert tpu_vm.topology(accelerator) == topology
    for family, cores in {"v6e": 1, "v5litepod": 1, "v5p": 2}.items():  # TensorCores of a chip
        for chips in tpu_vm.ACCELERATORS[family].shapes:
            shape = tpu_vm.topology(f"{family}-{chips * cores}").partition(":")[2]
            assert math.prod(map(int, shape.split("x"))) == chips


@pytest.mark.parametrize("verb", ["create", "watch"])
@pytest.mark.parametrize("code", [2, 3])
def test_nothing_is_rented_where_the_step_does_not_fit(verb, code, tpu_vm, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PLAN", str(code))
    flags = [*FLAGS, "--config.data.batch_size", "512", "--config.mesh.fsdp", "-1", "--distributed"]
    assert tpu_vm.main([verb, NAME, ZONE, "v5litepod-16", "--plan", "--", *flags]) == code
    plan = ["--config=configs/siglip_tp.py", "--config.name=it's $HOME", "--config.data.batch_size=512"]
    plan.append("--config.mesh.fsdp=-1")
    assert calls(tmp_path, "naturel-plan") == [["--topology", "v5e:4x4", *plan]]
    assert f"` ended with exit code {code}" in capfd.readouterr().err
    assert not gcloud(tmp_path)


def test_run_is_planned_for_the_slice_that_is_there(tpu_vm, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("DESCRIBED", "v5p-8\t1")
    monkeypatch.setenv("PLAN", "3")
    command = ["run", NAME, ZONE, "--plan", "--", "--config=siglip_tp", "--workdir", "gs://bucket/run"]
    assert tpu_vm.main(command) == 3
    assert calls(tmp_path, "naturel-plan") == [["--topology", "v5p:2x2x1", "--config=siglip_tp"]]
    fields = "value(tpu.nodeSpec[0].node.acceleratorType.basename(),tpu.nodeSpec.len())"
    assert gcloud(tmp_path) == [["describe", NAME, "--zone", ZONE, "--format", fields]]
    monkeypatch.setenv("PLAN", "0")
    assert tpu_vm.main(command) == 0
    for described, message in {"v5p-8\t2": "does not know several slices", "v3-8\t1": "expected one of v6e-4,"}.items():
        monkeypatch.setenv("DESCRIBED", described)
        assert tpu_vm.main(command) == 2 and message in capfd.readouterr().err
    assert len(calls(tmp_path, "naturel-plan")) == 2


# ---- Running ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, cli.USER_ERROR, cli.STOPPED])
def test_run_passes_flags_and_exit_code(code, tpu_vm, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("STATUS", str(code))
    assert tpu_vm.main(["run", NAME, ZONE, "--", *FLAGS]) == code
    assert starts(tmp_path / "worker") == [["--distributed", *FLAGS]]
    (call,) = gcloud(tmp_path)
    workers = ["--node", "all", "--worker", "all", "--batch-size", "all"]
    assert call[:-1] == ["ssh", NAME, "--zone", ZONE, *workers, "--ssh-flag=-oServerAliveInterval=30", "--command"]
    output = capfd.readouterr().out
    assert output.startswith("training\n") and f"mine: exit code {code}: " in output
    assert tpu_vm.main(["logs", NAME, ZONE, "--lines", "1"]) == 0
    assert capfd.readouterr().out == f"{os.uname().nodename}: training\n"
    assert gcloud(tmp_path)[-1][-1].endswith("launch/tpu_worker.py logs 1")


def test_stop_signals_one_process_and_install_spares_a_run(tpu_vm, tmp_path, capfd):
    follower = start(tmp_path / "worker")
    assert tpu_vm.main(["install", NAME, ZONE]) == 2 and "a run is going on: stop it first" in capfd.readouterr().err
    assert not calls(tmp_path / "worker" / ".local" / "bin", "uv")
    assert tpu_vm.main(["stop", NAME, ZONE]) == 0
    assert follower.end()[0] == cli.STOPPED
    one = ["--node", "0", "--worker", "0", "--ssh-flag=-oServerAliveInterval=30"]  # JAX tells the others
    command = "cd naturel_jax && exec .venv/bin/python launch/tpu_worker.py stop"
    assert gcloud(tmp_path, "ssh")[-1] == [NAME, "--zone", ZONE, *one, "--command", command]
    assert tpu_vm.main(["install", NAME, ZONE]) == 0


# ---- Preemption ------------------------------------------------------------------------------------------------------


def watch(tpu_vm, folder: Path, states: list[str], codes: list[int]) -> int:
    (folder / "states").write_text("".join(f"{state}\n" for state in states))
    (folder / "codes").write_text("".join(f"{code}\n" for code in codes))
    return tpu_vm.main(["watch", NAME, ZONE, "v6e-16", "--spot", "--", *FLAGS])


def runs(folder: Path) -> list[list[str]]:
    """(call, flags) of every run command that was sent to the workers."""
    sent = [shlex.split(call[-1]) for call in gcloud(folder, "ssh") if "tpu_worker.py run" in call[-1]]
    return [words[words.index("run") + 1 :] for words in sent]


@pytest.mark.parametrize("end", [0, cli.USER_ERROR])
def test_watch_rents_a_preempted_slice_again_and_repeats_the_run(end, tpu_vm, tmp_path, capfd):
    waiting = ["WAITING_FOR_RESOURCES", "ACTIVE"]
    states = ["", *waiting, "SUSPENDING", "SUSPENDED", *waiting, "SUSPENDED", *waiting, "ACTIVE"]
    assert watch(tpu_vm, tmp_path, states, [255, 1, cli.STOPPED, end]) == end
    once = ["create", "install", "run", "delete"]
    assert verbs(tmp_path) == [*once, *once, "create", "install", "run", "run"]
    creates = gcloud(tmp_path, "create")
    node = ["--node-id", NAME, "--accelerator-type", "v6e-16", "--runtime-version", "v2-alpha-tpuv6e", "--spot"]
    assert creates == [[NAME, "--zone", ZONE, *node]] * 3
    assert gcloud(tmp_path, "delete") == [[NAME, "--zone", ZONE, "--force", "--quiet"]] * 2
    assert runs(tmp_path) == [[f"call{number}", *FLAGS] for number in (1, 2, 4, 5)]
    assert "mine is still rented: python launch/tpu_vm.py delete mine us-east5-b" in capfd.readouterr().out


def test_watch_uses_a_slice_that_is_there(tpu_vm, tmp_path):
    assert watch(tpu_vm, tmp_path, ["ACTIVE"], [cli.STOPPED, 0]) == 0
    assert verbs(tmp_path) == ["run", "run"]


def test_watch_follows_a_run_whose_connection_was_lost(tpu_vm, tmp_path, monkeypatch):
    monkeypatch.setattr(tpu_vm.time, "monotonic", itertools.count(step=3600).__next__)  # each time after an hour
    assert watch(tpu_vm, tmp_path, ["ACTIVE"], [*[255] * 7, 0]) == 0
    assert runs(tmp_path) == [["call1", *FLAGS]] * 8 and verbs(tmp_path) == ["run"] * 8


@pytest.mark.parametrize("code", [1, 255])
def test_watch_gives_up_on_a_run_that_fails_again_and_again(code, tpu_vm, tmp_path, monkeypatch, capfd):
    waits: list[float] = []
    monkeypatch.setattr(tpu_vm.time, "sleep", waits.append)
    assert watch(tpu_vm, tmp_path, ["ACTIVE"], [code]) == code
    assert "mine is ACTIVE, but the run failed 5 times" in capfd.readouterr().err
    again = ["run"] if code == 255 else ["install", "run"]  # slices that Google has repaired are empty
    assert verbs(tmp_path) == ["run", *again * 4] and sum(waits) > 300  # a preemption would have shown by then


@pytest.mark.parametrize("states", [["ACTIVE", "ACTIVE", ""], ["ACTIVE", "ACTIVE", "FAILED"], ["FAILED"]])
def test_watch_neither_deletes_nor_rents_what_was_not_preempted(states, tpu_vm, tmp_path, capfd):
    """A slice that the user has deleted meanwhile is not rented again."""
    assert watch(tpu_vm, tmp_path, states, [1]) == 1
    assert f"mine is {states[-1] or 'gone'}; `watch` asks only for preempted slices again" in capfd.readouterr().err
    assert not gcloud(tmp_path, "delete") and not gcloud(tmp_path, "create")
