"""Embeds an image pool of any size, and its captions.

    naturel-embed --model hf:openai/clip-vit-base-patch32 --source 'webdataset:pool/{0000..0099}.tar' \
        --out embedded

writes img_emb/, text_emb/ and metadata/ as clip-retrieval does, for embedding-reader, autofaiss and naturel-mine. The
same command continues after an interruption: a part of the pool is done, or not there. Processes divide the pool by
--share.
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Sequence

from etils import epath

from naturel_jax import storage
from naturel_jax.cli import compilation_cache
from naturel_jax.config.record_fields import Fields
from naturel_jax.config.settings import parse
from naturel_jax.devices import preemption, processes
from naturel_jax.evaluators import fingerprints
from naturel_jax.evaluators.embed import load_encoder
from naturel_jax.evaluators.pool import embedding, files, images
from tfds_naturel.common import cli


def make_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="run:DIR, hf:owner/name, a folder or a file")
    sources = (
        "a dataset as in config.data.mixture: naturel/full, or webdataset:, parquet:, hf:, folder:, csv: and a name"
    )
    parser.add_argument("--source", required=True, help=sources)
    parser.add_argument("--out", type=epath.Path, required=True, help="folder; the same command continues in it")
    parser.add_argument("--split", default="train")
    parser.add_argument("--data_dir", default="data", help="where prepared TFDS datasets are")
    parser.add_argument("--cache_dir", default="", help="for copies of what is in an object store")
    parser.add_argument("--fields", nargs="*", default=[], metavar="PART=NAME", help="as in config.data.mixture")
    share = "embed only each COUNT-th shard of the source. Default: all, or those of this task of a SLURM array"
    parser.add_argument("--share", default="", metavar="INDEX/COUNT", help=share)
    stored = "dtype of the files; float16, as in clip-retrieval, changes a cosine by at most 0.001"
    parser.add_argument("--store", choices=("float16", "float32"), default="float16", help=stored)
    arithmetic = "dtype in which the towers compute; bfloat16 is faster on accelerators"
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help=arithmetic)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=32_768, help="rows of a part; an interrupted one is embedded again")
    return parser


def main(arguments: Sequence[str]) -> None:
    """The command line."""
    options = make_parser().parse_args(arguments)
    cli.check_counts(options, "batch_size", "rows")
    share, named = processes.parse_share(options.share, os.environ), (field.split("=", 1) for field in options.fields)
    fields = parse(Fields, {part: "".join(name) for part, *name in named}, "--fields")
    processes.check_limits()
    preemption.install_handler()
    compilation_cache.enable()
    storage.check_writable(options.out, flag="--out")
    with preemption.interruptible():  # it may download the model, and hashes what it reads
        source = options.source, options.data_dir, options.split
        pool = images.open_pool(*source, fields, options.rows, options.cache_dir)
        encoder, params = load_encoder(options.model, dtype=options.dtype, batch_size=options.batch_size)
        made_from = {
            "source": options.source,
            "split": options.split,
            "fields": dataclasses.asdict(fields),
            "files": pool.digest(),
            "model": fingerprints.of_model(encoder.model, params, encoder.processor),
            "dtype": options.store,
        }
        output = files.Output(options.out, pool, made_from)
    start = time.monotonic()
    good, bad = embedding.embed(pool, embedding.Embedder(encoder, params, options.store), output, share)
    rate = (good + bad) / (time.monotonic() - start)
    print(f"{options.out}: embedded {good:,} images, {rate:,.1f} images/s; {bad:,} rows are bad")
    if share.count == 1:  # others would each read what all have done
        parts, good, bad = files.count(options.out)
        print(f"{options.out}: {good:,} images in {parts:,} parts; bad rows ({bad:,}) are listed in {files.DONE}/")


if __name__ == "__main__":
    cli.run(main)
