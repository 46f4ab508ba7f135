"""Images/s of the input pipeline, compared with a bare decode-and-resize loop and with other libraries' loaders.

    python -m perf.pipeline --threads 1 2 --workers 1 2

All read the same JPEGs, like those the builder writes (short side 288, quality 92). Each variant has a process of its
own, which is idle while others are measured. They take turns for ``--rounds`` rounds, and each ratio is the median of
those to the bare loop of the same round: a shared machine, or one whose clock drifts, slows both. Ratios are of images
per second, and of images per second of processor time over all processes: the throughput of one core. tf.data, torch
and webdataset are measured if they are installed. A variant that does not end a round in ``--timeout_s`` is left out.

``bilinear`` is ``config.data.shrink_by``. ``decoded`` crops from decoded images (``config.data.cache``), which are made
beforehand. ``tars`` is our source ``webdataset:``, whose index is made beforehand. webdataset's own loader reads the
same tar files in as many processes as ours in threads, with the decoder and crop that its documentation shows (Pillow,
torchvision), or with those of the bare loop (``fast``).
"""

import argparse
import contextlib
import functools
import importlib.util
import io
import multiprocessing
import os
import resource
import signal
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from tfds_naturel.common import cli
from tfds_naturel.common.errors import UserError

SIZE, SCALE, RATIO, BATCH = 224, (0.9, 1.0), (3 / 4, 4 / 3), 256
_BARE = "bare loop"
_END_S = 10  # for an idle process to end by itself: it has semaphores and memory to give back
_SHARDS = 4  # tar files
_CACHE = {"cache": "decoded"}
_OWN: dict[str, tuple[str, dict[str, str]]] = {  # name -> (its source in pipeline_own, fields of config.data)
    "naturel_jax": ("files", {}),
    "bilinear": ("files", {"shrink_by": "bilinear"}),
    "decoded": ("decoded", _CACHE),
    "decoded, bilinear": ("decoded", _CACHE | {"shrink_by": "bilinear"}),
    "tars": ("tars", {}),
}

Read = Callable[[], int]  # reads images, and returns how many


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEGs of 432 x 288 pixels with structure at several scales, so that their size in bytes is a photo's."""
    rng, paths = np.random.default_rng(0), []
    for n in range(count):
        pixels = sum(
            cv2.resize(rng.normal(0, 18, (288 // cell, 432 // cell, 3)), (432, 288), interpolation=cv2.INTER_CUBIC)
            for cell in (2, 8, 32, 144)
        )
        data = io.BytesIO()
        Image.fromarray(np.clip(pixels + 128, 0, 255).astype(np.uint8)).save(data, "JPEG", quality=92)
        paths.append(folder / f"{n}.jpg")
        paths[-1].write_bytes(data.getvalue())
    return paths


def bare(paths: list[Path], epochs: int) -> int:
    """Reads, decodes and resizes one image after another."""
    for path in paths * epochs:
        pixels = simplejpeg.decode_jpeg(path.read_bytes(), "RGB")
        cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    return epochs * len(paths)


def write_tars(paths: list[Path]) -> str:
    """The images and a caption of each in tar files next to them; returns the pattern of their names."""
    folder = paths[0].parent
    for shard in range(_SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for path in paths[shard::_SHARDS]:
                for name, data in ((path.name, path.read_bytes()), (f"{path.stem}.txt", b"a cup on a table")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return f"{folder}/{{0..{_SHARDS - 1}}}.tar"


def own(
    kind: str, options: dict[str, str], paths: list[Path], tars: str, epochs: int, threads: int, workers: int
) -> Read:
    """naturel_jax's pipeline."""
    from perf import pipeline_own  # with JAX, which no other process has

    images = pipeline_own.Images(paths, tars, SIZE, SCALE)
    return pipeline_own.prepare(kind, options, images, BATCH, epochs, threads, workers)


class TorchFiles:
    """A map-style dataset as OpenCLIP's transforms read it."""

    def __init__(self, paths: list[Path]):
        from torchvision import transforms

        crop = transforms.RandomResizedCrop(SIZE, SCALE, RATIO, transforms.InterpolationMode.BICUBIC)
        self._paths, self.transform = paths, transforms.Compose([crop, transforms.PILToTensor()])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, n: int):
        with Image.open(self._paths[n]) as image:
            return self.transform(image.convert("RGB"))


def torch_loader(paths: list[Path], epochs: int, workers: int) -> int:
    """torch's DataLoader over PIL and torchvision."""
    import torch

    torch.set_num_threads(1)
    options = {"shuffle": True, "drop_last": True, "num_workers": workers, "persistent_workers": workers > 0}
    loader = torch.utils.data.DataLoader(TorchFiles(paths), BATCH, **options)
    return sum(len(batch) for _ in range(epochs) for batch in loader)


def webdataset_loader(tars: str, epochs: int, workers: int, fast: bool) -> int:
    """webdataset's own loader."""
    import torch
    import webdataset

    torch.set_num_threads(1)
    transform = TorchFiles([]).transform

    def crop(sample) -> np.ndarray:
        if fast:
            pixels = simplejpeg.decode_jpeg(sample["jpg"], "RGB")
            return cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        return transform(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")).numpy()

    dataset = webdataset.WebDataset(tars, shardshuffle=_SHARDS).repeat(epochs).shuffle(1000)
    dataset = dataset.map(lambda sample: (crop(sample), sample["txt"])).batched(BATCH)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    return sum(len(images) for images, _ in loader)


def tf_data(paths: list[Path], epochs: int, threads: int) -> int:
    """tf.data with decoding and cropping in one operation, as big_vision has it."""
    import tensorflow as tf

    def load(path):
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros([0, 0, 4]),
            area_range=SCALE,
            aspect_ratio_range=RATIO,
            use_image_if_no_bounding_boxes=True,
        )
        crop = tf.image.decode_and_crop_jpeg(data, tf.concat([begin[:2], size[:2]], 0), channels=3)
        return tf.cast(tf.image.resize(crop, (SIZE, SIZE), "bicubic"), tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices([str(path) for path in paths]).shuffle(len(paths)).repeat(epochs)
    return sum(len(batch) for batch in dataset.map(load, threads).batch(BATCH, drop_remainder=True).prefetch(2))


class Rate(NamedTuple):
    """Images per second of wall time and of processor time."""

    wall: float
    cpu: float


def cpu_seconds() -> float:
    """Processor time of this process and of its finished children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def rate(run: Read) -> Rate:
    """The rate of ``run``, which returns the number of its images."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    images = run()
    return Rate(images / (time.perf_counter() - wall), images / (cpu_seconds() - cpu))


class Contender:
    """The process that measures one variant: no library is in another's, nor forks one that has threads."""

    def __init__(self, name: str, prepare: Callable[[], Read]):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, prepare), name=name)
        self._process.start()
        theirs.close()  # so that its end is noticed

    def rate(self, timeout_s: float) -> Rate:
        """Rate of one more round; the first one also prepares, imports and compiles. Raises TimeoutError, and
        RuntimeError if the process ends."""
        self._connection.send(None)
        if not self._connection.poll(timeout_s):
            raise TimeoutError(f"{self.name}: left out, since a round did not end in {timeout_s:g} s (--timeout_s)")
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise RuntimeError(f"{self.name}: its process ended with exit code {code}; its error is above") from None

    def close(self) -> None:
        """Ends the process, by force if it does not end by itself, and those that it has started."""
        self._connection.close()
        self._process.join(_END_S)
        self._process.kill()
        with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()


def _serve(connection: Connection, prepare: Callable[[], Read]) -> None:
    """Measures one round for each message, until the parent ends."""
    os.setpgrp()
    multiprocessing.set_start_method(None, force=True)  # loaders start processes as they do for their users
    run: Read | None = None
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        run = run or prepare()
        connection.send(rate(run))


def contenders(paths: list[Path], epochs: int, threads: list[int], workers: list[int]) -> dict[str, Callable[[], Read]]:
    """Name -> what prepares, in its process, a function that reads all images ``epochs`` times, or more often."""
    tars = write_tars(paths)
    has = {name: bool(importlib.util.find_spec(name)) for name in ("tensorflow", "torchvision", "webdataset")}
    loaders: dict[str, Callable[[], Read]] = {_BARE: functools.partial(functools.partial, bare, paths, epochs)}
    for number in threads:
        for name, (kind, options) in _OWN.items():
            loaders[f"{name}, {number} threads"] = functools.partial(own, kind, options, paths, tars, epochs, number, 0)
        if has["tensorflow"]:
            run = functools.partial(functools.partial, tf_data, paths, epochs, number)
            loaders[f"tf.data, {number} threads"] = run
        if has["webdataset"] and has["torchvision"]:
            for fast, how in ((False, ""), (True, " fast")):
                run = functools.partial(functools.partial, webdataset_loader, tars, epochs, number, fast)
                loaders[f"webdataset{how}, {number} processes"] = run
    for number in workers:
        kind, options = _OWN["naturel_jax"]
        prepare = functools.partial(own, kind, options, paths, tars, epochs, 1, number)
        loaders[f"naturel_jax, {number} processes"] = prepare
    if has["torchvision"]:
        for number in [0, *workers]:
            run = functools.partial(functools.partial, torch_loader, paths, epochs, number)
            loaders[f"torch, {number} processes"] = run
    return loaders


def measure(loaders: dict[str, Callable[[], Read]], rounds: int, timeout_s: float) -> list[dict[str, Rate]]:
    """The rate of every one of ``loaders`` in each round. The first imports and compiles, too. One that does not end a
    round in ``timeout_s`` has no more rounds, which is printed."""
    with contextlib.ExitStack() as closing:
        running = {}
        for name, prepare in loaders.items():
            running[name] = closing.enter_context(contextlib.closing(Contender(name, prepare)))
        rates: list[dict[str, Rate]] = []
        for _ in range(rounds):
            rates.append({})
            for name, contender in list(running.items()):
                try:
                    rates[-1][name] = contender.rate(timeout_s)
                except TimeoutError as error:
                    print(error, flush=True)
                    running.pop(name).close()
    return rates


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument(
        "--epochs", type=int, default=2, help="passes over the images in a round; starting processes counts"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, nargs="*", default=[])
    parser.add_argument("--timeout_s", type=float, default=600, help="of one round of one variant (default: 600)")
    args = parser.parse_args(arguments)
    if args.images < BATCH:
        raise UserError(f"--images is {args.images}; expected at least one batch of {BATCH}")
    if args.rounds < 1:
        raise UserError(f"--rounds is {args.rounds}; expected 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), args.images)
        size = np.mean([path.stat().st_size for path in paths]) / 1e3
        print(f"{args.images} JPEGs of {size:.0f} kB on average", flush=True)
        loaders = contenders(paths, args.epochs, args.threads, args.workers)
        _, *rounds = measure(loaders, args.rounds + 1, args.timeout_s)
    if _BARE not in rounds[-1]:
        raise UserError(f"the bare loop has no result: give --timeout_s more than {args.timeout_s:g}")
    print(f"{'of the bare loop':32}{'images/s':>10}{'images/CPU s':>14}")
    for name in rounds[-1]:
        ratios = ([of[name][k] / of[_BARE][k] for of in rounds] for k in (0, 1))
        print(f"{name:32}{statistics.median(next(ratios)):10.2f}{statistics.median(next(ratios)):14.2f}")


if __name__ == "__main__":
    cli.run(main)
