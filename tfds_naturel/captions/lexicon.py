"""Words for classes and attributes that keep a caption true, with articles, number and pronouns."""

import dataclasses
import functools
import re

# class -> noun phrases for a single instance; the first is the plainest and is used in simple captions.
_NOUNS = {
    "Man": "man|guy|gentleman",
    "Woman": "woman|lady",
    "Boy": "boy|young boy",
    "Girl": "girl|young girl",
    "Person": "person",
    "Beer": "beer|glass of beer",
    "Bicycle": "bicycle|bike",
    "Backpack": "backpack|rucksack",
    "Camera": "camera",
    "Coffee cup": "coffee cup|cup|cup of coffee",
    "Coffee table": "coffee table|low table",
    "Desk": "desk",
    "Football": "football|ball",
    "Tennis ball": "tennis ball|ball",
    "Rugby ball": "rugby ball|ball",
    "Handbag": "handbag|purse",
    "Knife": "knife",
    "Microphone": "microphone|mic",
    "Microwave oven": "microwave oven|microwave",
    "Mobile phone": "mobile phone|cell phone|phone",
    "Motorcycle": "motorcycle|motorbike",
    "Mug": "mug",
    "Oven": "oven",
    "Racket": "racket",
    "Tennis racket": "tennis racket|racket",
    "Table tennis racket": "table tennis racket|ping-pong paddle",
    "Sofa bed": "sofa bed|sofa|couch",
    "Suitcase": "suitcase",
    "Briefcase": "briefcase",
    "Taxi": "taxi|cab",
    "Van": "van",
    "Violin": "violin|fiddle",
    "Wine glass": "wine glass|glass of wine",
    "Dog": "dog",
    "Cat": "cat",
    "Horse": "horse",
    "Table": "table",
    "Chair": "chair",
    "Car": "car",
    "Ski": "ski",
    "Chopsticks": "chopsticks|pair of chopsticks",
    "High heels": "high heels|pair of high heels",
    "Roller skates": "roller skates|pair of roller skates",
    "Kitchen & dining room table": "dining table",
}
_PLURAL = frozenset(
    {
        "chopsticks",
        "jeans",
        "glasses",
        "sunglasses",
        "scissors",
        "goggles",
        "shorts",
        "trousers",
        "binoculars",
        "headphones",
    }
)
_MASS = frozenset(
    {
        "clothing",
        "furniture",
        "bread",
        "pasta",
        "milk",
        "food",
        "fruit",
        "juice",
        "footwear",
        "luggage",
        "pottery",
        "cheese",
        "cosmetics",
        "popcorn",
        "sushi",
        "human hair",
        "sports equipment",
        "office supplies",
        "tea",
        "coffee",
        "seafood",
        "cutlery",
        "equipment",
        "tableware",
        "kitchenware",
        "swimwear",
        "guacamole",
        "personal care",
    }
)
_NAMED_IN_PLURAL = re.compile(r"(?!(?:lens|gas|canvas|atlas)$).*[^sui]s")  # "heels", but not "dress", "bus", "tennis"
_PEOPLE = {
    **dict.fromkeys(("man", "boy", "guy", "gentleman"), "him"),
    **dict.fromkeys(("woman", "girl", "lady"), "her"),
    "person": "them",
}
_AN = re.compile(r"(?!uni|use|eu|one|ukulele|ufo|utensil)[aeiou]|hour|heir|honest", re.IGNORECASE)

# attribute -> (before the noun, after "is", after the noun)
_ATTRIBUTES = {
    "Wooden": ("wooden", ("wooden", "made of wood"), "made of wood"),
    "Plastic": ("plastic", ("plastic", "made of plastic"), "made of plastic"),
    "Metal": ("metal", ("metal", "made of metal"), "made of metal"),
    "(made of)Leather": ("leather", ("leather", "made of leather"), "made of leather"),
    "(made of)Textile": ("fabric", ("made of fabric", "made of cloth"), "made of fabric"),
    "Transparent": ("transparent", ("transparent", "see-through"), "that is see-through"),
    "Opaque": ("opaque", ("opaque", "fully opaque"), "that is opaque"),
}

# pose or action -> what somebody "is"; the first is used in simple captions. Frown and Silent are only in negatives.
_POSES = {
    "Stand": ("standing", "standing up"),
    "Sit": ("sitting", "seated", "sitting down"),
    "Lay": ("lying down",),
    "Walk": ("walking", "out walking"),
    "Run": ("running",),
    "Jump": ("jumping", "in mid-air"),
    "Smile": ("smiling",),
    "Cry": ("crying", "in tears"),
    "Sing": ("singing", "singing a song"),
    "Talk": ("talking", "speaking"),
    "Frown": ("frowning",),
    "Silent": ("silent", "keeping quiet"),
}


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
        """With an indefinite article, or "some" for plural and mass nouns."""
        if self.plural or self.mass:
            return f"some {self.text}"
        return f"an{self.text}" if self.text.startswith("other ") else f"{article(self.text)} {self.text}"

    @property
    def the(self) -> str:
        """With the definite article."""
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
    return tuple(_noun(text) for text in (listed.split("|") if listed else [name.lower()]))


def _noun(text: str) -> Noun:
    head = text.split(" of ")[0].split()[-1]
    plural = head in _PLURAL or bool(_NAMED_IN_PLURAL.fullmatch(head))
    mass = head in _MASS or text in _MASS
    return Noun(text, plural and not mass, mass, "them" if plural else _PEOPLE.get(head, "it"), head in _PEOPLE)


@functools.cache
def attribute(label: str) -> tuple[str, tuple[str, ...], str]:
    """The forms of an attribute: before a noun, after "is", after a noun; its name if it is not listed."""
    word = label.lower()
    return _ATTRIBUTES.get(label, (word, (word,), f"that is {word}"))


def pose(label: str) -> tuple[str, ...]:
    """What somebody "is" who has this attribute ("sitting", "seated"); empty if it is not a pose or an action."""
    return _POSES.get(label, ())
