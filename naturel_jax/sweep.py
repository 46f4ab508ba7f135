"""Trains the runs of a grid, or of a search, with several seeds each, and reports means over seeds.

    naturel-sweep --config siglip_tp:scenes --grid config.optim.lr=1e-4,3e-4 --seeds 5 --out sweeps/lr
    naturel-sweep --config siglip_tp:scenes --grid config.optim.lr=1e-5..1e-3:log --search bayes \
        --trials 20 --score naturel/complex --prune --out sweeps/search

Several --grid flags multiply; overrides such as --config.duration='100 steps' hold for all runs. A config file may have
a function sweep() that returns {'grid': ..., 'seeds': ...} in place of these flags. The same command continues a sweep:
finished runs are skipped, interrupted ones continue. Exit codes: 0 done; 2 a mistake in a flag or config; 3 done, but a
run failed, as the last lines say; 75 stopped, run it again.
"""

import argparse
import os
from collections.abc import Sequence

from naturel_jax.config.settings import joined
from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    """The flags, but for the overrides of the config."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--config", required=True, help="as naturel-train takes it; also --config.FIELD=VALUE")
    values = "values separated by commas or, in a search, a range: LOW..HIGH, or LOW..HIGH:log"
    parser.add_argument("--grid", action="append", default=[], metavar="config.FIELD=VALUES", help=values)
    parser.add_argument("--seeds", default="", help="5: seeds 0 to 4; 3,7: these. Default: one seed")
    parser.add_argument("--out", type=cli.on_disk, required=True, help="folder for the runs and the report")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once on this machine, which share its GPUs")
    share = "train only each COUNT-th run. Default: all, or those of this task of a SLURM array"
    parser.add_argument("--share", default="", metavar="INDEX/COUNT", help=share)
    parser.add_argument("--baseline", default="", metavar="SETTING", help="row of the table to compare the others with")
    parser.add_argument("--score", default="", metavar="METRIC", help="the best run is the best in this score")
    parser.add_argument("--search", choices=("random", "bayes"), help="draw settings, in place of the whole grid")
    parser.add_argument("--trials", type=int, default=0, help="with --search: number of settings")
    parser.add_argument("--prune", action="store_true", help="with --search: stop runs below the median of the others")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)  # leaves the report to its parent
    return parser


def check(options: argparse.Namespace) -> None:
    """Raises UserError for flags that contradict each other."""
    cli.check_counts(options, "jobs", most=1024)
    if bool(options.search) != (options.trials > 0):
        raise UserError(f"--search {options.search} with --trials {options.trials}: give both, or none of them")
    if options.search and not options.score:
        raise UserError("--search needs --score, such as --score naturel/complex")
    if options.search and options.baseline:
        raise UserError("--baseline is a setting of a grid; with --search, settings are not known before")
    if options.prune and not options.search:
        raise UserError("--prune needs --search: a grid is trained as a whole")


def main(arguments: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    arguments = joined(arguments)
    overrides = [word for word in arguments if word.startswith("--config.")]
    options = make_parser().parse_args([word for word in arguments if word not in overrides])
    check(options)

    import jax

    if options.jobs > 1:
        jax.config.update("jax_platforms", "cpu")  # for this process: accelerators are for its children
    from naturel_jax.cli.sweeps import work  # these load JAX
    from naturel_jax.devices import preemption, processes

    out, share = options.out.expanduser(), processes.parse_share(options.share, os.environ)
    preemption.install_handler()
    with preemption.interruptible():  # it reads the benchmarks
        sweep = work.make([f"--config={options.config}", *overrides], options, out)
    if options.jobs > 1:
        work.spawn(arguments, options.jobs, share)
    else:
        work.train(sweep, out, share)
    return cli.DONE if options.worker else work.report(sweep, out)


if __name__ == "__main__":
    cli.run(main)
