"""The drawing of every class, by its display name in Open Images."""

from tfds_naturel.scenes.beings import BEINGS
from tfds_naturel.scenes.sprite import Sprite
from tfds_naturel.scenes.things import THINGS

SPRITES: dict[str, Sprite] = BEINGS | THINGS
