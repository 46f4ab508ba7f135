"""Config of a source's rows: which fields hold the image, the captions and the facts."""

import dataclasses

from naturel_jax.config.settings import setting


@dataclasses.dataclass(frozen=True)
class Fields:
    """The fields of a source's rows: a name, or several separated by commas, whose values are joined; ``a.b`` is
    field b of a. Empty: the usual names (``naturel_jax.data.items.records.USUAL``)."""

    image: str = setting("", "the image: a path relative to the file, or bytes")
    positives: str = setting("", "true captions: a string or several")
    negatives: str = setting("", "false captions: none or several; the n-th is paired with the n-th true one")
    asserts: str = setting("", "the fact that each true caption asserts, or one for all")
    negative_asserts: str = setting("", "the fact that each false caption asserts")
    shows: str = setting("", "further facts that the image shows")
    folder: str = setting("", "folder that image paths are relative to and must stay in; empty: the file's own")
    name: str = setting("", "name of the record in messages; empty: the image's path")
