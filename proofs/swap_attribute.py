"""Why models that fine-tuning has taught colours score below chance on SWAP attribute of the drawn world.

    python -m proofs.swap_attribute runs/demo/negclip_ap runs/demo/siglip_tp

prints, for each phrasing of the 400 items, how often a model prefers the true colours to the swapped ones. C1 is the
colour of the subject S, C2 that of the object O. After ``make demo``.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import naturel_jax
from tfds_naturel.common import cli
from tfds_naturel.scenes.scene import VERSION

PHRASINGS = {
    "as in the benchmark": "The {c1} {s} is {relation} the {c2} {o}.",
    "subject first": "the {c1} {s} and the {c2} {o}",
    "object first": "the {c2} {o} and the {c1} {s}",
    "subject alone": "a {c1} {s}",
    "object alone": "a {c2} {o}",
    "the subject's colour, no noun": "something {c1}",
    "the subject's colour, the object's noun": "a {c1} {o}",
}
_CAPTION = re.compile(r"The (?P<c1>\w+) (?P<s>.+?) is (?P<relation>.+) the (?P<c2>\w+) (?P<o>[^.]+)\.")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="workdirs of runs on the drawn world")
    parser.add_argument("--twins", type=Path, default=Path("data/twins/scenes") / VERSION)
    options = parser.parse_args(arguments)
    records = json.loads((options.twins / "sugarcrepe" / "swap_att.json").read_text()).values()
    images = [options.twins / "coco" / "val2017" / record["filename"] for record in records]
    words = [match.groupdict() for record in records if (match := _CAPTION.fullmatch(record["caption"]))]
    assert len(words) == len(images)
    print(f"| | {' | '.join(Path(run).name for run in options.runs)} |\n|---{'|---' * len(options.runs)}|")
    models = [naturel_jax.load(f"run:{run}") for run in options.runs]
    embedded = [model.encode_image(images) for model in models]
    for name, phrasing in PHRASINGS.items():
        true = [phrasing.format(**w) for w in words]
        false = [phrasing.format(**w | {"c1": w["c2"], "c2": w["c1"]}) for w in words]
        shares = []
        for model, zimg_ID in zip(models, embedded, strict=True):
            ztrue_ID, zfalse_ID = model.encode_text(true), model.encode_text(false)
            shares.append(np.mean((zimg_ID * ztrue_ID).sum(1) > (zimg_ID * zfalse_ID).sum(1)))
        print(f"| {name}: *{phrasing}* | {' | '.join(f'{share:.2f}' for share in shares)} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
