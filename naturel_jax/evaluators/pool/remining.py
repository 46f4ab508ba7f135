"""Mines the hard images of a run again, from its checkpoints, while it trains on those that were mined before.

Shape letters: N images, D embedding.
"""

import functools
from collections import Counter

from etils import epath

from naturel_jax import storage
from naturel_jax.config import Config, Part, check_folder, durations, versions
from naturel_jax.data import datasets
from naturel_jax.data.batches import remined
from naturel_jax.data.items import prepared, slices
from naturel_jax.devices import preemption
from naturel_jax.evaluators.pool import mining as pool
from naturel_jax.evaluators.watch import CONFIG, new_steps, wait_for_run
from naturel_jax.weights.processor_files import malformed
from tfds_naturel.common.errors import UserError
from tfds_naturel.hard_images import mining


def watch(
    workdir: epath.Path, count: int, seed: int, margins: mining.Margins, dtype: str, batch_size: int, query: str
) -> None:
    """Mines ``remined.file`` of every checkpoint in ``workdir`` that is due and that a batch will use, old and new,
    until the run has ended (its ``scores.json`` exists). One that is there is left as it is, since the run may have
    used it. ``query``: what negatives are near to, image or text.

    Raises UserError if the run has nothing mined again or another process does it, and Stopped.
    """

    def mine(path: epath.Path, step: int, dataset: epath.Path, split: str) -> None:
        records, dropped = prepared.open_split(dataset, slices.whole(split)).records, Counter[str]()
        shown = prepared.survey(records)
        model = pool.load(f"run:{workdir}@{step}", dtype, batch_size)
        zimg_ND, queries = pool.embeddings(records, model), None
        if query == "text":
            queries = pool.queries(records, shown, model, zimg_ND, margins.stop(count))
        mined = mining.mine(shown, count, seed, zimg_ND, None, margins, dropped, queries=queries)
        pool.save(path, mined, shown, dropped, margins, {}, query)

    wait_for_run(workdir)
    _mined_again(workdir)  # before a folder is made
    storage.check_writable(folder := workdir / remined.FOLDER, flag="--watch")
    with storage.lease(folder):
        for step in new_steps(workdir):
            config, again = _mined_again(workdir)
            total = durations.steps_without_data(config.duration, config.data.batch_size)
            for name, part in again.items():
                path, every = remined.file(workdir, name, step), part.hard_images_every
                unused = total is not None and step + every >= total  # the first batch that would have them
                if step % every or unused or remined.is_mined(path):
                    continue
                storage.check_writable(path.parent, flag="--watch")
                dataset = datasets.directory(config.data.dir, part.dataset, config.data.cache_dir)
                preemption.abandonable(functools.partial(mine, path, step, dataset, part.split))


def _mined_again(workdir: epath.Path) -> tuple[Config, dict[str, Part]]:
    """The config of the run in ``workdir``, and the parts of its mixture whose hard images are mined again. Raises
    UserError for a run without them."""
    with malformed(path := workdir / CONFIG):
        config = versions.from_json(storage.read_json(path)["config"])
    again = {name: part for name, part in config.data.mixture.items() if part.hard_images_every}
    if not again:
        raise UserError(
            f"--watch {workdir}: no part of config.data.mixture of this run has hard_images_every, so nothing "
            "is mined again; set it when the run begins"
        )
    for name in again:
        check_folder(name, f"{workdir}: config.data.mixture", "part")
    return config, again
