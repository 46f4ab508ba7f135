"""The poster's tables with the real data and weights, in one command.

    naturel-reproduce --workdir DIR --dry_run         # what it costs, and every command
    naturel-reproduce --workdir DIR --budget small    # 2,000 photos, 100 steps of each recipe
    naturel-reproduce --workdir DIR

It first prints what it will download and how much disk it needs, and does not ask for confirmation. Finished stages are
skipped, unless --stage names them; run the same command again after an interruption. Exit codes: 0 all known scores are
reproduced; 2 a mistake in a flag or file, or a command that failed; 3 done, but a score is off or missing, as the last
lines say; 75 stopped, run it again.
"""

import argparse
import time
from collections.abc import Sequence

from etils import epath

from naturel_jax import storage
from naturel_jax.reproduce import check, known, runner
from naturel_jax.reproduce.stages import STAGES, Work, parse_budget
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

OFF = 3  # exit code


def stage_names(text: str) -> list[str]:
    """The stages that ``--stage`` names, in their order. Raises UserError for an unknown one."""
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in STAGES]:
        raise UserError(f"--stage {unknown[0]!r}: expected any of {', '.join(STAGES)}, separated by commas")
    return [name for name in STAGES if name in wanted]


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=cli.on_disk, required=True, help="everything but the hub's cache goes here")
    parser.add_argument("--stage", metavar="NAME[,NAME]", help=f"only these, again if done: {', '.join(STAGES)}")
    parser.add_argument("--budget", default="full", help="full, small, or limits: photos=2000,steps=100")
    parser.add_argument("--known", type=cli.on_disk, metavar="FILE", help="known scores of further checkpoints (JSON)")
    parser.add_argument("--dry_run", action="store_true", help="print the plan and every command, and end")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Plans, and runs the stages; returns the exit code."""
    options = make_parser().parse_args(arguments)
    names = stage_names(options.stage) if options.stage else list(STAGES)
    work = Work(options.workdir.expanduser(), parse_budget(options.budget), known.read(options.known))

    import jax

    jax.config.update("jax_platforms", "cpu")  # for this process: accelerators are for its children
    from naturel_jax.devices import preemption
    from naturel_jax.reproduce import preview

    preemption.install_handler()
    with preemption.interruptible():  # it adds up the sizes of all files that are there
        if not options.stage:
            state = runner.DoneStages(work)
            names = [name for name in names if not state.done(name, STAGES[name].tasks(work))]
        if options.dry_run or names != ["report"]:
            preview.announce(work, names)
        if options.dry_run:
            preview.print_commands(work, names)
            return cli.DONE
        preview.check_disks(work, names)
    storage.check_writable(epath.Path(work.root))
    (work.root / "weights").mkdir(exist_ok=True)
    with storage.lease(epath.Path(work.root)):
        return run(work, names)


def run(work: Work, names: Sequence[str]) -> int:
    """Runs the stages ``names``; returns the exit code."""
    state, off = runner.DoneStages(work), False
    for name in names:
        print(f"\n== {name}: {STAGES[name].does}", flush=True)
        began = time.monotonic()
        gaps = runner.run_stage(name, STAGES[name].tasks(work))
        if name == "report":  # not recorded: every start ends with it
            off = check.report(work, state.gaps, tables=True)
            continue
        state.finish(name, STAGES[name].tasks(work), time.monotonic() - began, gaps)
        if name == "known":
            off = check.report(work, gaps, tables=False)
    return OFF if off or state.gaps else cli.DONE


if __name__ == "__main__":
    cli.run(main)
