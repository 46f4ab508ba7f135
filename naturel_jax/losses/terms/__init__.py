"""The terms that ``config.objective.terms`` adds to the objective.

A term is a file here and a line in ``TERMS``; packages and config files add others. docs/methods.md has their formulas,
and says whose they are.
"""

from naturel_jax.config.plugins import Registry
from naturel_jax.losses.terms.base_distance import BaseDistance
from naturel_jax.losses.terms.exchanged_images import ExchangedImages
from naturel_jax.losses.terms.further_positives import FurtherPositives
from naturel_jax.losses.terms.own_foils import OwnFoils
from naturel_jax.losses.terms.term import Term
from naturel_jax.losses.terms.text_contrast import TextContrast
from naturel_jax.losses.terms.text_distance import TextDistance

_ROWS: dict[str, type[Term]] = {
    "own_foils": OwnFoils,
    "text_contrast": TextContrast,
    "text_distance": TextDistance,
    "base_distance": BaseDistance,
    "further_positives": FurtherPositives,
    "exchanged_images": ExchangedImages,
}


def _is_term(row: object) -> bool:
    return isinstance(row, type) and issubclass(row, Term)


# Name in config.objective.terms -> its options, which are called for its value.
TERMS: Registry[type[Term]] = Registry(
    "naturel_jax.terms", _ROWS, "a subclass of naturel_jax.losses.terms.Term", _is_term
)
