"""Draws what a run gets wrong in its last evaluation, for TensorBoard and Weights & Biases."""

import base64
import io
from collections.abc import Sequence

from naturel_jax.evaluators.examples import Example
from naturel_jax.training import cards
from naturel_jax.training.cards import Line


def draw(mistakes: Sequence[Example]) -> bytes:
    """A PNG of the images of ``mistakes`` next to their captions, each with its cosines."""
    from PIL import Image

    pictures = []
    for mistake in mistakes:
        encoded = [base64.b64decode(address.partition(",")[2]) for address in mistake.images]
        parts = [cards.enlarged(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
        beside = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
        for n, part in enumerate(parts):
            beside.paste(part, (sum(other.width for other in parts[:n]), 0))
        pictures.append(beside)
    return cards.draw(pictures, list(map(lines, mistakes)))


def lines(mistake: Example) -> list[Line]:
    """The benchmark, the id, and a line for each caption: a true one in green, a false one in red, if that is known."""
    shown: list[Line] = [(cards.printable(f"{mistake.benchmark} {mistake.id}"), cards.INK, True)]
    for n, caption in enumerate(mistake.captions):
        cosines = ", ".join(f"{cosine:.3f}" for cosine in mistake.cosines[n :: len(mistake.captions)])
        colour = cards.POSITIVE if n < mistake.true_captions else cards.NEGATIVE
        colour = colour if mistake.true_captions else cards.INK
        shown.append((f"{cosines}  {cards.printable(caption)}", colour, False))
    return shown
