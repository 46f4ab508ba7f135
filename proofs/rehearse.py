"""Rehearses `naturel-reproduce` on loopback: every stage, with files of the true formats, names and layouts.

    python -m proofs.rehearse --folder build/rehearsal

Weights are random and small, photos generated, items few; the known scores are those of transformers and OpenCLIP on
the same files. Prints what the command prints, then a table; exits with 1 if anything in it is not as expected.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from naturel_jax.reproduce.stages import RECIPES
from tests.helpers import rehearsal
from tfds_naturel.common import cli

ROOT = Path(__file__).parents[1]
PHOTOS, LIMIT, STEPS = 400, 300, 2


def reproduce(world: rehearsal.World, workdir: Path, known: Path, *flags: str) -> tuple[int, str]:
    """Exit code and output of the command in ``workdir``."""
    command = [sys.executable, "-m", "naturel_jax.reproduce", "--workdir", str(workdir), "--known", str(known)]
    command += ["--budget", f"photos={LIMIT},steps={STEPS}", *flags]
    lines, pipe = [], {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, env=world.environment, cwd=ROOT, **pipe) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    return process.returncode, "".join(lines)


def rehearse(folder: Path) -> dict[str, tuple[object, bool]]:
    """What was observed: name -> (value, whether it is as expected)."""
    with rehearsal.serve(folder, PHOTOS) as world:
        workdir, known, wrong = folder / "work", folder / "known.json", folder / "wrong.json"
        shutil.copytree(world.by_hand, workdir, symlinks=True)
        scores = rehearsal.known(world)
        known.write_text(scores)
        began = time.monotonic()
        code, output = reproduce(world, workdir, known)
        minutes = (time.monotonic() - began) / 60
        state = json.loads((workdir / "state.json").read_text())
        rows = {line.split("|")[1].strip() for line in output.splitlines() if line.startswith("| ")}
        rows_wanted = {"CLIP", "SigLIP", "NegCLIP B/32", *RECIPES}
        number = sum(len(one["scores"]) for one in json.loads(scores).values())
        requests = len(world.requested)
        again, repeated = reproduce(world, workdir, known)
        wrong.write_text(rehearsal.known(world, **{"coco_retrieval/image_to_text@1": 1.0}))
        off, explained = reproduce(world, workdir, wrong, "--stage", "report")
        return {
            "Exit code": (code, code == cli.DONE),
            "Known scores as transformers and OpenCLIP give them": (
                f"{output.count('| as known') // 2} of {number}",
                f"{number} scores: {number} as known" in output,
            ),
            "Rows of the tables": (", ".join(sorted(rows & rows_wanted)), rows_wanted <= rows),
            "Minutes": (f"{minutes:.1f}", True),
            **{f"- {name}, s": (one["seconds"], one["gaps"] == []) for name, one in state["stages"].items()},
            "The same command again": (f"exit code {again}", again == cli.DONE),
            "- commands run again": (repeated.count("$ python -m"), "$ python -m" not in repeated),
            "- requests": (len(world.requested) - requests, len(world.requested) == requests),
            "With a known score that is wrong": (f"exit code {off}", off == 3),
            "- named, with causes": ("activation", ", 1 off" in explained and "- activation: " in explained),
        }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for everything; it is emptied first")
    folder = parser.parse_args(arguments).folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    observed = rehearse(folder)
    print("\n".join(f"| {name} | {value} | {'' if fine else 'FAILED'} |" for name, (value, fine) in observed.items()))
    return int(not all(fine for _, fine in observed.values()))


if __name__ == "__main__":
    cli.run(main)
