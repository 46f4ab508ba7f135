"""Rents Cloud TPU slices as queued resources and runs a config on all of their workers.

    python launch/tpu_vm.py create NAME ZONE v6e-8 --spot
    python launch/tpu_vm.py run NAME ZONE -- --config configs/siglip_tp.py --workdir gs://BUCKET/siglip_tp \\
        --config.data.dir=gs://BUCKET/data
    python launch/tpu_vm.py delete NAME ZONE

The flags after -- are those of naturel-train; the workdir must be one that all workers see. Other verbs:

    watch NAME ZONE TYPE -- FLAGS   create, run, and do both again whenever the slice has been preempted
    logs NAME ZONE                  the end of every worker's log
    stop NAME ZONE                  the run saves and ends with exit code 75; `watch` would start it again: end it first
    install NAME ZONE               copies the committed state of this repository again

A run outlives the connection: Ctrl-C leaves it going, and the same `run` command follows it again. With --plan,
naturel-plan first compiles the step for the slice; if it does not fit, nothing is rented.

Exit codes: the run's, and 1 where gcloud failed, 2 for a mistake, 3 if the plan does not fit. 255: the connection was
lost. Needs gcloud, and for slices of several workers `ssh-add ~/.ssh/google_compute_engine`.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

ROOT = Path(__file__).parents[1]
T = TypeVar("T")

DONE, FAILED, USER_ERROR, STOPPED, LOST = (
    0,
    1,
    2,
    75,
    255,
)  # STOPPED as in tfds_naturel.common.cli; LOST: ssh's own code
ACTIVE, SUSPENDED, ABSENT = "ACTIVE", "SUSPENDED", ""
SETTLED = (ACTIVE, SUSPENDED, "FAILED", ABSENT)  # other states of a queued resource lead to one of these

# By default, 64 workers at a time; the processes of a run wait for each other.
ALL = ("--node", "all", "--worker", "all", "--batch-size", "all")
KEEP_ALIVE = "--ssh-flag=-oServerAliveInterval=30"  # ends a connection to a machine that is gone, after three of these

POLL_S = 30
TRIES = 5  # of a run that fails on slices that are there, and of gcloud commands while nobody may be looking


class Failed(Exception):
    """A command that failed or a mistake of the user; ends the launcher with exit code ``code``."""

    def __init__(self, message: str, code: int = FAILED):
        super().__init__(message)
        self.code = code


# ---- Accelerators ----------------------------------------------------------------------------------------------------

# Chips of a slice -> its shape: https://docs.cloud.google.com/tpu/docs/v6e, v5e and v5p. Left out is what the compiler
# does not describe as it is: single chips, and v4, whose chips it takes for two devices.
FLAT = {4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
SOLID = {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"}
SOLID |= {1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16"}


class Accelerator(NamedTuple):
    """``runtime``: the software version of https://docs.cloud.google.com/tpu/docs/runtimes. ``platform``: the name in
    a topology of naturel-plan. The number in a type such as v5p-8 counts ``per_chip`` cores of each chip."""

    runtime: str
    platform: str
    per_chip: int
    shapes: dict[int, str]


ACCELERATORS = {
    "v6e": Accelerator("v2-alpha-tpuv6e", "v6e", 1, FLAT),
    "v5p": Accelerator("v2-alpha-tpuv5", "v5p", 2, SOLID),
    "v5litepod": Accelerator("v2-alpha-tpuv5-lite", "v5e", 1, FLAT),
    "v4": Accelerator("tpu-ubuntu2204-base", "v4", 2, {}),
}


def accelerator_type(text: str) -> str:
    """A type such as ``v5litepod-16``: the ``type`` of an argument. Raises ArgumentTypeError."""
    family, _, count = text.partition("-")
    if family == "tpu7x":
        raise argparse.ArgumentTypeError(f"{text}: Cloud TPU's API ends at v6e; use launch/jobset.yaml, on GKE")
    if family not in ACCELERATORS or not count.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected one of {', '.join(f'{name}-N' for name in ACCELERATORS)}")
    return text


def positive(text: str) -> int:
    """The ``type`` of an argument. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1")
    return int(text)


def topology(accelerator: str) -> str:
    """The topology of a slice for naturel-plan: ``v5e:4x4`` for ``v5litepod-16``. Raises Failed for unknown sizes."""
    family = accelerator.partition("-")[0]
    sizes = {
        f"{name}-{chips * kind.per_chip}": f"{kind.platform}:{shape}"
        for name, kind in ACCELERATORS.items()
        for chips, shape in kind.shapes.items()
    }
    if accelerator not in sizes:
        known = [size for size in sizes if size.startswith(f"{family}-")] or list(sizes)
        raise Failed(f"--plan: {accelerator} has no known topology; expected one of {', '.join(known)}", USER_ERROR)
    return sizes[accelerator]


# ---- Google Cloud ----------------------------------------------------------------------------------------------------


def execute(command: Sequence[str], capture: bool = False) -> tuple[int, str]:
    """(exit code, stdout if ``capture``) of a command on this machine. Raises Failed if there is no such program."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE if capture else None, text=True)
    except FileNotFoundError as error:
        hint = "pip install 'naturel_jax[plan-tpu]'" if command[0] == "naturel-plan" else "install it first"
        raise Failed(f"{command[0]} was not found: {hint}", USER_ERROR) from error
    return done.returncode, (done.stdout or "").strip()


def check(command: Sequence[str], capture: bool = False) -> str:
    """Stdout of a command that must succeed. Raises Failed, with the command."""
    code, output = execute(command, capture)
    if code:
        raise Failed(f"`{shlex.join(command)}` failed with exit code {code}")
    return output


def queued(args: argparse.Namespace, verb: str, *options: str) -> list[str]:
    """The gcloud command for this queued resource."""
    return ["gcloud", "compute", "tpus", "queued-resources", verb, args.name, "--zone", args.zone, *options]


def request(args: argparse.Namespace) -> None:
    """Asks for the slices; they are there once the state is ACTIVE."""
    nodes = ["--node-id", args.name]
    if args.slices > 1:
        nodes = ["--node-count", str(args.slices), "--node-prefix", args.name]
    runtime = ACCELERATORS[args.accelerator.partition("-")[0]].runtime
    spot = ["--spot"] if args.spot else []
    options = [*nodes, "--accelerator-type", args.accelerator, "--runtime-version", runtime, *spot]
    check(queued(args, "create", *options))


def state_of(args: argparse.Namespace) -> str:
    """The state of the queued resource, ABSENT if there is none of this name. Raises Failed if gcloud cannot tell."""
    command = ["gcloud", "compute", "tpus", "queued-resources", "list", "--zone", args.zone]
    return check([*command, "--filter", f"name~/{args.name}$", "--format", "value(state.state)"], capture=True)


def wait(args: argparse.Namespace) -> str:
    """Waits until the state is one of SETTLED, and returns it. Prints each new state."""
    shown = None
    while True:
        state = persistently(state_of, args)
        if state != shown:
            print(f"{time.strftime('%H:%M:%S')} {args.name}: {state or 'is not there'}", flush=True)
            shown = state
        if state in SETTLED:
            return state
        time.sleep(POLL_S)


def persistently(function: Callable[[argparse.Namespace], T], args: argparse.Namespace) -> T:
    """``function(args)``, tried again if it fails. Raises Failed if it does so TRIES times."""
    for _ in range(TRIES - 1):
        try:
            return function(args)
        except Failed as error:
            print(f"{args.name}: {error}; trying again", file=sys.stderr)
            time.sleep(POLL_S)
    return function(args)


def on_workers(args: argparse.Namespace, command: str, which: Sequence[str] = ALL) -> int:
    """The exit code of a shell command on the workers: of the first that failed. 255 if a connection was lost."""
    return execute(queued(args, "ssh", *which, KEEP_ALIVE, "--command", command))[0]


def on_worker_script(*arguments: str) -> str:
    """The shell command that calls launch/tpu_worker.py."""
    return f"cd naturel_jax && exec .venv/bin/python launch/tpu_worker.py {shlex.join(arguments)}"


# ---- Verbs -----------------------------------------------------------------------------------------------------------


def check_plan(args: argparse.Namespace, accelerator: str, slices: int) -> None:
    """Raises Failed, with naturel-plan's exit code, if a step of the config does not fit the slice."""
    if slices > 1:
        hint = "plan one slice, with --config.data.batch_size divided by their number"
        raise Failed(f"--plan: naturel-plan does not know several slices; {hint}", USER_ERROR)
    command = ["naturel-plan", "--topology", topology(accelerator), *config_flags(args.flags)]
    if code := execute(command)[0]:
        raise Failed(f"`{shlex.join(command)}` ended with exit code {code}", code)


def config_flags(flags: Sequence[str]) -> list[str]:
    """Of a run's flags, the config and its overrides, each as ``--name=value``."""
    kept, words = [], list(flags)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if not equals and words and not re.match(r"-(?![\d.])", words[0]):  # may be a negative number
            value, equals = words.pop(0), "="
        if name.lstrip("-").partition(".")[0] == "config":
            kept.append(f"--{name.lstrip('-')}{equals}{value}")
    return kept


def create(args: argparse.Namespace) -> int:
    """Rents the slices, waits for them and installs the project."""
    if args.plan:
        check_plan(args, args.accelerator, args.slices)
    request(args)
    if (state := wait(args)) != ACTIVE:
        raise Failed(f"{args.name} is {state or 'gone'}; `gcloud compute tpus queued-resources describe` says why")
    install(args)
    print(f"{args.name} is ready")
    return DONE


def install(args: argparse.Namespace) -> int:
    """Copies the last commit to all workers and installs it there. Refused, with code 2, where a run is going on."""
    with tempfile.TemporaryDirectory() as folder:
        archive = f"{folder}/naturel_jax.tar.gz"
        check(["git", "-C", str(ROOT), "archive", "--prefix", "naturel_jax/", "-o", archive, "HEAD"])
        command = ["gcloud", "compute", "tpus", "queued-resources", "scp", archive, f"{args.name}:naturel_jax.tar.gz"]
        check([*command, "--zone", args.zone, *ALL])
    # The images' own Python is 3.10; the project needs 3.11. uv brings one. The lock is that of launch/tpu_worker.py.
    steps = (
        "mkdir -p naturel_run",
        "{ flock --nonblock naturel_run/lock true || { echo 'a run is going on: stop it first' >&2; exit 2; }; }",
        "curl -LsSf https://astral.sh/uv/install.sh | sh",
        "tar xzf naturel_jax.tar.gz",
        "cd naturel_jax",
        "~/.local/bin/uv venv --clear --python 3.12",
        "~/.local/bin/uv pip install -e '.[tpu,gcs]'",
    )
    if code := on_workers(args, " && ".join(steps)):
        raise Failed(f"installing on the workers of {args.name} failed with exit code {code}", code)
    return DONE


def run(args: argparse.Namespace) -> int:
    """Starts the run on all workers, or follows it if it is going on; returns its exit code."""
    if args.plan:
        fields = "value(tpu.nodeSpec[0].node.acceleratorType.basename(),tpu.nodeSpec.len())"
        found = check(queued(args, "describe", "--format", fields), capture=True).split()
        check_plan(args, found[0], int(found[-1]))
    return run_once(args, new_call())


def new_call() -> str:
    """Identifies one start of a run. gcloud repeats a command after a lost connection, and must not start it twice."""
    return uuid.uuid4().hex


def run_once(args: argparse.Namespace, call: str) -> int:
    """As ``run``. With the ``call`` of an earlier start, the exit code of that run even if it has ended since."""
    code = on_workers(args, on_worker_script("run", call, *args.flags))
    meanings = {
        DONE: "done",
        STOPPED: "stopped and saved; the same command continues the run",
        LOST: "the connection was lost; what was started goes on, and the same command follows it",
    }
    print(f"{args.name}: exit code {code}: {meanings.get(code, 'failed')}", flush=True)
    return code


def watch(args: argparse.Namespace) -> int:
    """Creates the slices if they are not there, runs, and repeats both after a preemption, until the run has ended with
    exit code 0 or 2. Other failures, on slices that are there, are tried again TRIES times."""
    if args.plan:
        check_plan(args, args.accelerator, args.slices)
    installed = state_of(args) != ABSENT  # by `create`
    if not installed:
        request(args)
    call, failures = new_call(), 0
    while True:
        if (state := wait(args)) == SUSPENDED:
            persistently(delete, args)
            persistently(request, args)
            installed, call, failures = False, new_call(), 0
            continue
        if state != ACTIVE:
            raise Failed(f"{args.name} is {state or 'gone'}; `watch` asks only for preempted slices again")
        started = time.monotonic()
        code = run_once(args, call) if installed or try_install(args) else FAILED
        if code in (DONE, USER_ERROR):
            print(f"{args.name} is still rented: python launch/tpu_vm.py delete {args.name} {args.zone}")
            return code
        if code == LOST and time.monotonic() - started > 10 * POLL_S:
            continue  # a connection that held for a while: follow the run again
        failures = 0 if code == STOPPED else failures + 1
        if failures == TRIES:
            raise Failed(f"{args.name} is {state}, but the run failed {TRIES} times", code)
        if code != LOST:  # slices that Google has repaired are empty, and no others lose anything by it
            call, installed = new_call(), code == STOPPED
        time.sleep(POLL_S * (1 + failures))  # a preemption may show in the state only after minutes


def try_install(args: argparse.Namespace) -> bool:
    """Whether the project is installed, or a run is going on, which is then followed."""
    try:
        install(args)
    except Failed as error:
        print(f"{args.name}: {error}", file=sys.stderr)
        return error.code == USER_ERROR
    return True


def logs(args: argparse.Namespace) -> int:
    """Prints the last lines of every worker's log, each after the name of the worker."""
    return on_workers(args, on_worker_script("logs", str(args.lines)))


def stop(args: argparse.Namespace) -> int:
    """Sends SIGTERM to one process: JAX tells the others, and a second signal might end one that is still saving."""
    return on_workers(args, on_worker_script("stop"), which=("--node", "0", "--worker", "0"))


def delete(args: argparse.Namespace) -> int:
    """Gives the slices back; what is on their disks is lost."""
    check(queued(args, "delete", "--force", "--quiet"))
    return DONE


class Verb(NamedTuple):
    """``rents``: takes an accelerator type. ``runs``: takes flags of naturel-train after --, with --plan if it does not
    rent as well."""

    function: Callable[[argparse.Namespace], int]
    rents: bool = False
    runs: bool = False


VERBS = {
    "create": Verb(create, rents=True),
    "install": Verb(install),
    "run": Verb(run, runs=True),
    "watch": Verb(watch, rents=True, runs=True),
    "logs": Verb(logs),
    "stop": Verb(stop),
    "delete": Verb(delete),
}


def make_parser() -> argparse.ArgumentParser:
    """The flags before --."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="verb", required=True)
    for name, verb in VERBS.items():
        one = parsers.add_parser(name, description=verb.function.__doc__)
        one.add_argument("name", help="of the queued resource and its slice")
        one.add_argument("zone", help="us-east5-b, for example")
        if verb.rents:
            one.add_argument("accelerator", type=accelerator_type, help="v6e-8, v5litepod-16, v5p-8, ...")
            one.add_argument("--spot", action="store_true", help="cheaper, but may be preempted at any time")
            one.add_argument("--slices", type=positive, default=1, help="for one run (multislice)")
        if verb.rents or verb.runs:
            one.add_argument("--plan", action="store_true", help="ask naturel-plan first whether the step fits")
        if name == "logs":
            one.add_argument("--lines", type=positive, default=100, help="of each worker")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    parser = make_parser()
    args = parser.parse_args(words[:end])
    args.flags = words[end + 1 :]
    needed = VERBS[args.verb].runs or (VERBS[args.verb].rents and args.plan)
    if bool(args.flags) != needed:
        found = "none were found" if needed else f"but {args.verb} takes none: {shlex.join(args.flags)}"
        parser.error(f"flags of naturel-train follow --, as in `-- --config configs/siglip_tp.py`; {found}")
    try:
        return VERBS[args.verb].function(args)
    except Failed as error:
        print(f"tpu_vm.py: error: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"\n{args.name}: what was asked for or started goes on; `stop` ends a run, `delete` the rent")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
