"""Opens a page on this machine to try models: photos, captions, and how models score them, side by side.

    naturel-try run:runs/siglip_tp_scenes SigLIP=hf:google/siglip-base-patch16-224

prints the page's address. There, drop or pick photos, type captions, press two words to exchange them, and see the
cosines and probabilities of every model. What is worth keeping is saved as an item of your own benchmark (``--save``).
With a prepared NatuRel dataset in ``--data_dir``, such as a drawn world, some of its images are offered as photos.

The page loads nothing from other servers, and only browsers on this machine can open it. Ctrl-C ends it.
"""

import argparse
import contextlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from naturel_jax.config import own_benchmarks
from tfds_naturel.common import cli, extras
from tfds_naturel.common.errors import UserError


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = "run:DIR, hf:owner/name, a folder or a file; NAME=SOURCE names it, else its last part does"
    parser.add_argument("models", nargs="+", metavar="SOURCE", help=sources)
    items = "file of the items that are saved, of a benchmark pairs:FILE; photos are copied beside it"
    parser.add_argument("--save", type=cli.on_disk, default="playground.jsonl", metavar="FILE", help=items)
    parser.add_argument("--data_dir", type=cli.on_disk, default="data", help="where prepared TFDS datasets are")
    parser.add_argument("--port", type=int, default=8765, help="of this machine's loopback; 0: any that is free")
    return parser


def parse_models(texts: Sequence[str]) -> dict[str, str]:
    """Name -> source of ``NAME=SOURCE`` or ``SOURCE``. Raises UserError for a name that is empty or there twice."""
    models: dict[str, str] = {}
    for text in texts:
        named = re.fullmatch(r"([^=:/]+)=(.+)", text)  # a path may have = too, as in run:sweeps/lr=1e-3
        name, source = named.groups() if named else (Path(text.partition(":")[2] or text).name, text)
        if not name or name in models:
            raise UserError(f"model {text!r} is called {name!r}: expected NAME=SOURCE, each name once")
        models[name] = source
    return models


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    sources = parse_models(options.models)
    benchmark = f"pairs:{options.save}"
    own_benchmarks.parse_name(benchmark)
    if options.save.suffix != ".jsonl":
        raise UserError(f"--save {options.save}: expected a file that ends in .jsonl, of records of pairs:FILE")
    for library in ("starlette", "uvicorn"):
        extras.library(library, "try")

    # These import JAX, and what is needed for a page.
    from naturel_jax.cli import compilation_cache
    from naturel_jax.evaluators.embedding_model import load
    from naturel_jax.report.playground import playground, server

    compilation_cache.enable()
    with server.listen(options.port) as listening:
        models = {name: load(source) for name, source in sources.items()}
        tried = playground.Playground(models, options.save)
        examples = [(tried.add(data), texts) for data, texts in playground.examples(options.data_dir)]
        named = [f"{name}={source}" for name, source in sources.items()]
        shown = {
            "models": list(models),
            "sigmoid": any("logit_bias" in model.params for model in models.values()),
            "examples": examples,
            "most_captions": playground.MOST_CAPTIONS,
            "most_letters": playground.MOST_LETTERS,
            "file": str(options.save),
            "command": shlex.join(["naturel-evaluate", "--models", *named, "--benchmarks", benchmark]),
        }
        print(f"http://{server.ADDRESS}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve(tried, shown, listening)


if __name__ == "__main__":
    cli.run(main)
