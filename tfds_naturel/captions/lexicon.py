"""Words for classes and attributes that keep a caption true, with articles, number and pronouns."""

import dataclasses
import functools
import re
from pathlib import Path

from tfds_naturel.captions.attributes import ATTRIBUTES
from tfds_naturel.common.files import read_tsv

# class -> noun phrases for a single instance; the first is the plainest and is used in simple captions.
_NOUNS = {row["class"]: row["nouns"].split("|") for row in read_tsv(Path(__file__).with_name("nouns.tsv"))}
_PAIRS = "chopsticks | jeans | glasses | sunglasses | scissors | goggles | shorts | trousers | binoculars | headphones"
_PLURAL = frozenset(_PAIRS.split(" | "))
_MASSES = (
    "clothing | furniture | bread | pasta | milk | food | fruit | juice | footwear | luggage | pottery | cheese | "
    "cosmetics | popcorn | sushi | human hair | sports equipment | office supplies | tea | coffee | seafood | "
    "cutlery | equipment | tableware | kitchenware | swimwear | guacamole | personal care"
)
_MASS = frozenset(_MASSES.split(" | "))
_NAMED_IN_PLURAL = re.compile(r"(?!(?:lens|gas|canvas|atlas)$).*[^sui]s")  # "heels", but not "dress", "bus", "tennis"
_PEOPLE = {
    **dict.fromkeys(("man", "boy", "guy", "gentleman"), "him"),
    **dict.fromkeys(("woman", "girl", "lady"), "her"),
    "person": "them",
}
_AN = re.compile(r"(?!uni|use|eu|one|ukulele|ufo|utensil)[aeiou]|hour|heir|honest", re.IGNORECASE)

# Attributes with other forms than their names. For a pose or an action, ``after`` lists what somebody "is", and simple
# captions use the first. Frown and Silent are only in negatives.
_FORMS = {attribute.name: attribute for attribute in ATTRIBUTES if attribute.after}


@dataclasses.dataclass(frozen=True)
class Noun:
    """A noun phrase without its article. ``pronoun`` is the object form (it, them, him, her)."""

    text: str
    plural: bool
    mass: bool
    pronoun: str
    person: bool = False

    @property
    def a(self) -> str:
        """The noun with an indefinite article, or "some" for plural and mass nouns."""
        if self.plural or self.mass:
            return f"some {self.text}"
        return f"an{self.text}" if self.text.startswith("other ") else f"{article(self.text)} {self.text}"

    @property
    def the(self) -> str:
        """The noun with the definite article."""
        return f"the {self.text}"

    @property
    def number(self) -> int:
        """0 for singular, 1 for plural: the index into a verb's (singular, plural) forms."""
        return int(self.plural)

    @property
    def who(self) -> str:
        """The relative pronoun."""
        return "who" if self.person else "that"

    def second(self) -> "Noun":
        """The same noun for a second object ("other mug")."""
        return dataclasses.replace(self, text=f"other {self.text}")


def article(text: str) -> str:
    """The indefinite article before ``text``."""
    return "an" if _AN.match(text) else "a"


@functools.cache
def nouns(label: str) -> tuple[Noun, ...]:
    """The noun phrases for a class, the plainest first; its name if it is not listed."""
    name = re.sub(r"\s+", " ", re.sub(r"\(.*?\)", " ", label).replace("&", "and")).strip() or label
    listed = _NOUNS.get(label)
    return tuple(map(_noun, listed or [name.lower()]))


def _noun(text: str) -> Noun:
    head = text.split(" of ")[0].split()[-1]
    plural = head in _PLURAL or bool(_NAMED_IN_PLURAL.fullmatch(head))
    mass = head in _MASS or text in _MASS
    return Noun(text, plural and not mass, mass, "them" if plural else _PEOPLE.get(head, "it"), head in _PEOPLE)


@functools.cache
def attribute(label: str) -> tuple[str, tuple[str, ...], str]:
    """The forms of an attribute: before a noun, after "is", after a noun; its name if it is not listed."""
    if (forms := _FORMS.get(label)) and not forms.pose:
        return forms.before, forms.after, forms.modifier
    word = label.lower()
    return word, (word,), f"that is {word}"


def pose(label: str) -> tuple[str, ...]:
    """Words for a pose or an action after "is" ("sitting", "seated"); empty for any other attribute."""
    return _FORMS[label].after if label in _FORMS and _FORMS[label].pose else ()
