"""What may be published of a built dataset: ``read`` gives its examples again."""

from tfds_naturel.release.files import read

__all__ = ["read"]
