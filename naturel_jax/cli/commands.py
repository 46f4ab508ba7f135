"""The installed commands (``[project.scripts]`` in pyproject.toml). Each imports its module only when it runs."""

import importlib
from collections.abc import Callable
from typing import NoReturn

from tfds_naturel.common import cli


def _command(module: str) -> Callable[[], NoReturn]:
    return lambda: cli.run(importlib.import_module(module).main)


train = _command("naturel_jax.main")
evaluate = _command("naturel_jax.evaluate")
benchmarks = _command("naturel_jax.benchmarks.__main__")
convert = _command("naturel_jax.convert")
sweep = _command("naturel_jax.sweep")
embed = _command("naturel_jax.embed")
mine = _command("naturel_jax.mine")
plan = _command("naturel_jax.plan")
compare = _command("naturel_jax.report.compare")
playground = _command("naturel_jax.playground")
reproduce = _command("naturel_jax.reproduce.__main__")
data_build = _command("tfds_naturel.build")
data_fetch = _command("tfds_naturel.open_images.fetch")
data_check = _command("naturel_jax.data.check")
data_audit = _command("tfds_naturel.audit.__main__")
data_release = _command("tfds_naturel.release.__main__")
