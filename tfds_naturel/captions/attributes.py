"""Table of attributes, poses and actions: their words in captions, and what contradicts them."""

from pathlib import Path
from typing import NamedTuple

from tfds_naturel.common.files import read_tsv


class Attribute(NamedTuple):
    """One attribute of Open Images, or a pose or action (``pose``).

    ``before``, ``after`` and ``modifier``: its words before a noun, after "is", and after the noun; its name if they
    are empty. ``contraries``: what contradicts it; for a colour or material, the others; for a pose, those that nobody
    can take at the same time. One can run and jump; whether somebody stands or walks is hard to see.
    """

    name: str
    pose: bool
    before: str
    after: tuple[str, ...]
    modifier: str
    contraries: tuple[str, ...]


def _split(cell: str) -> tuple[str, ...]:
    return tuple(cell.split("|")) if cell else ()


ATTRIBUTES = tuple(
    Attribute(
        name=row["attribute"],
        pose=row["kind"] == "pose",
        before=row["before"],
        after=_split(row["after"]),
        modifier=row["modifier"],
        contraries=_split(row["contraries"]),
    )
    for row in read_tsv(Path(__file__).with_name("attributes.tsv"))
)
