"""The publishable part of a built dataset; ``read`` restores its examples."""

from tfds_naturel.release.files import read

__all__ = ["read"]
