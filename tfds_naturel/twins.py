"""``python -m tfds_naturel.twins``, the earlier path of ``tfds_naturel.scenes.twins``."""

from tfds_naturel.common import cli
from tfds_naturel.scenes.twins import main

if __name__ == "__main__":
    cli.run(main)
