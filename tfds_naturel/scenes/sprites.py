"""How each class is drawn: parts in arbitrary units (y downwards, facing right), and where things attach to it."""

import dataclasses

from tfds_naturel.scenes.shapes import Part, blob, curve, line, oval, polygon, resting

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "Red": (222, 38, 40),
    "Blue": (38, 88, 226),
    "Green": (36, 168, 62),
    "Yellow": (250, 214, 36),
}
MATERIALS: dict[str, Rgb] = {
    "Wooden": (176, 118, 62),
    "Transparent": (222, 240, 246),
    "(made of)Leather": (104, 58, 36),
    "(made of)Textile": (208, 178, 214),
}


@dataclasses.dataclass(frozen=True)
class Sprite:
    """A drawing of one class.

    ``shoulder`` is where acting arms start, ``face`` where a thing gets eyes when it acts, ``body`` where something
    worn sits and ``top`` the height on which others stand. ``window`` (xmin, ymin, xmax, ymax) is where the contents of
    a container show. ``colours`` are the natural colours of its main surface, ``materials`` what else that surface may
    be made of. Positions are in the units of ``parts``.
    """

    parts: tuple[Part, ...]
    shoulder: tuple[float, float]
    body: tuple[float, float]
    colours: tuple[Rgb, ...]
    face: tuple[float, float] | None = None
    top: float = 0.0
    window: tuple[float, float, float, float] | None = None
    materials: tuple[str, ...] = ()
    arm: str = "glove"
    paintable: bool = True


def _eyes(*flat: float, radius: float = 1.8) -> tuple[Part, ...]:
    return tuple(oval("dark", x, y, radius, radius) for x, y in zip(flat[::2], flat[1::2], strict=True))


_MAN = Sprite(
    parts=(
        line("trousers", 13, 17, 64, 15, 93),
        line("trousers", 13, 31, 64, 33, 93),
        oval("dark", 12, 97, 9, 4.5),
        oval("dark", 36, 97, 9, 4.5),
        resting(curve("skin", 7, 10, 42, 3, 54, 5, 66)),
        resting(curve("skin", 7, 38, 42, 45, 54, 43, 66)),
        blob("main", 10, 36, 24, 33, 38, 36, 40, 52, 38, 70, 24, 71, 10, 70, 8, 52),
        line("skin", 8, 24, 28, 24, 34),
        oval("skin", 24, 18, 12, 14),
        blob("hair", 11, 16, 12, 6, 24, 0, 36, 6, 37, 16, 31, 10, 18, 10),
        *_eyes(20, 19, 28, 19),
        curve("dark", 1.6, 19, 25, 24, 27, 29, 25),
    ),
    shoulder=(26, 44),
    body=(24, 54),
    colours=((70, 130, 150), (236, 240, 240), (120, 140, 110), (90, 90, 120)),
    arm="skin",
    paintable=False,
)

_WOMAN = Sprite(
    parts=(
        blob("hair", 12, 14, 24, 0, 36, 14, 40, 40, 34, 46, 14, 46, 8, 40),
        line("skin", 7, 18, 74, 18, 94),
        line("skin", 7, 30, 74, 30, 94),
        oval("dark", 16, 97, 7, 4),
        oval("dark", 32, 97, 7, 4),
        resting(curve("skin", 6, 14, 42, 6, 54, 2, 64)),
        resting(curve("skin", 6, 34, 42, 42, 54, 46, 64)),
        polygon("main", 15, 36, 33, 36, 33, 52, 46, 80, 2, 80, 15, 52),
        line("light", 3, 15, 53, 33, 53),
        line("skin", 7, 24, 30, 24, 36),
        oval("skin", 24, 19, 10.5, 12.5),
        blob("hair", 12, 20, 15, 7, 24, 3, 33, 7, 36, 20, 29, 11, 20, 13),
        *_eyes(20.5, 20, 27.5, 20),
        curve("pinkish", 2, 20, 26, 24, 28, 28, 26),
    ),
    shoulder=(26, 42),
    body=(24, 54),
    colours=((222, 96, 160), (150, 80, 170), (240, 150, 170), (170, 120, 200)),
    arm="skin",
    paintable=False,
)

_DOG = Sprite(
    parts=(
        curve("main", 8, 14, 46, 3, 34, 5, 16),
        line("shade", 11, 28, 58, 26, 88),
        line("shade", 11, 70, 58, 72, 88),
        blob("main", 8, 48, 22, 34, 48, 36, 78, 32, 88, 46, 82, 66, 50, 66, 20, 70),
        line("main", 12, 18, 58, 16, 90),
        line("main", 12, 80, 58, 82, 90),
        blob("main", 74, 42, 76, 18, 92, 6, 108, 14, 108, 34, 92, 46),
        oval("light", 108, 31, 13, 9),
        oval("dark", 119, 27, 4.5, 4),
        blob("shade", 78, 10, 88, 12, 88, 34, 80, 46, 70, 36, 72, 18),
        *_eyes(99, 20, radius=2.6),
        curve("pinkish", 5, 108, 39, 110, 47),
    ),
    shoulder=(86, 54),
    body=(50, 50),
    top=34,
    colours=((168, 112, 64), (196, 150, 96), (132, 92, 62), (222, 190, 140)),
    arm="main",
)

_CAT = Sprite(
    parts=(
        curve("main", 9, 58, 92, 78, 88, 80, 66, 70, 54),
        blob("main", 36, 42, 54, 52, 62, 78, 58, 98, 36, 99, 14, 98, 10, 78, 18, 52),
        oval("light", 36, 72, 11, 18),
        line("main", 9, 28, 74, 27, 95),
        line("main", 9, 44, 74, 45, 95),
        polygon("main", 10, 26, 10, 0, 30, 12),
        polygon("main", 62, 26, 62, 0, 42, 12),
        polygon("pinkish", 14, 18, 14, 7, 23, 13),
        polygon("pinkish", 58, 18, 58, 7, 49, 13),
        oval("main", 36, 30, 28, 22),
        line("shade", 4, 36, 10, 36, 18),
        line("shade", 4, 28, 11, 29, 17),
        line("shade", 4, 44, 11, 43, 17),
        oval("leaf", 25, 29, 5, 6),
        oval("leaf", 47, 29, 5, 6),
        *_eyes(25, 29, 47, 29, radius=2.4),
        polygon("pinkish", 33, 37, 39, 37, 36, 41),
        line("dark", 1.2, 22, 40, 2, 37),
        line("dark", 1.2, 22, 43, 3, 47),
        line("dark", 1.2, 50, 40, 70, 37),
        line("dark", 1.2, 50, 43, 69, 47),
    ),
    shoulder=(40, 60),
    body=(36, 72),
    colours=((236, 148, 66), (150, 150, 156), (96, 92, 98), (226, 196, 156)),
    arm="main",
)

_HORSE = Sprite(
    parts=(
        curve("hair", 10, 12, 46, 2, 60, 4, 84),
        line("shade", 9, 30, 66, 28, 108),
        line("shade", 9, 78, 66, 80, 108),
        blob("main", 8, 52, 24, 40, 52, 42, 80, 38, 90, 54, 82, 72, 50, 72, 20, 74),
        line("main", 10, 18, 64, 16, 108),
        line("main", 10, 86, 62, 90, 108),
        blob("main", 72, 48, 84, 22, 92, 4, 106, 14, 124, 30, 122, 40, 104, 34, 94, 62),
        polygon("main", 90, 8, 93, -6, 99, 8),
        curve("hair", 9, 90, 3, 80, 20, 72, 42),
        *_eyes(102, 17, radius=2.6),
        line("dark", 11, 16, 108, 17, 111),
        line("dark", 11, 90, 108, 91, 111),
        line("dark", 9, 28, 108, 29, 110),
        line("dark", 9, 80, 108, 81, 110),
    ),
    shoulder=(90, 60),
    body=(50, 56),
    top=42,
    colours=((122, 72, 44), (92, 58, 44), (206, 180, 150), (148, 92, 52)),
    arm="main",
)

_ELEPHANT = Sprite(
    parts=(
        curve("main", 4, 8, 40, 0, 54, 2, 66),
        line("shade", 18, 36, 62, 36, 88),
        line("shade", 18, 70, 62, 70, 88),
        blob("main", 6, 44, 20, 16, 50, 8, 80, 14, 92, 40, 84, 70, 50, 74, 16, 72),
        line("main", 19, 20, 62, 20, 88),
        line("main", 19, 80, 62, 80, 88),
        curve("main", 13, 112, 34, 124, 52, 120, 74, 128, 82),
        oval("main", 100, 30, 23, 24),
        curve("white", 5, 106, 50, 114, 58, 120, 56),
        blob("shade", 88, 6, 66, 8, 64, 34, 74, 52, 90, 42, 94, 22),
        *_eyes(106, 24, radius=2.8),
    ),
    shoulder=(92, 56),
    body=(46, 44),
    top=10,
    colours=((138, 146, 164), (122, 128, 140), (160, 164, 176)),
    arm="main",
)

_TABLE = Sprite(
    parts=(
        line("shade", 8, 26, 20, 28, 66),
        line("shade", 8, 114, 20, 112, 66),
        line("main", 10, 12, 22, 10, 78),
        line("main", 10, 128, 22, 130, 78),
        polygon("light", 16, 0, 124, 0, 140, 16, 0, 16),
        polygon("main", 0, 16, 140, 16, 140, 27, 0, 27),
    ),
    shoulder=(128, 24),
    body=(70, 22),
    face=(70, 21),
    top=8,
    colours=((206, 150, 92), (226, 178, 122), (178, 124, 78), (236, 206, 160)),
    materials=("Wooden", "Transparent"),
)

_CHAIR = Sprite(
    parts=(
        line("shade", 7, 22, 62, 22, 92),
        line("shade", 7, 62, 62, 62, 92),
        line("main", 9, 10, 4, 10, 99),
        line("main", 9, 10, 14, 10, 99),
        line("main", 8, 10, 10, 44, 4),
        line("main", 8, 10, 28, 44, 22),
        line("main", 8, 10, 46, 44, 40),
        line("main", 9, 44, 2, 44, 60),
        polygon("light", 6, 56, 54, 52, 70, 62, 20, 68),
        polygon("main", 20, 68, 70, 62, 70, 71, 20, 77),
        line("main", 8, 24, 72, 24, 100),
        line("main", 8, 66, 68, 66, 98),
    ),
    shoulder=(46, 56),
    body=(28, 34),
    face=(28, 24),
    top=58,
    colours=((150, 96, 90), (176, 130, 120), (120, 86, 100), (196, 160, 140)),
    materials=("Wooden", "(made of)Leather"),
)

_BOTTLE = Sprite(
    parts=(
        blob("main", 15, 14, 27, 14, 28, 30, 40, 44, 42, 70, 41, 98, 21, 101, 1, 98, 0, 70, 2, 44, 14, 30),
        polygon("accent", 13, 0, 29, 0, 29, 13, 13, 13),
        polygon("white", 2, 56, 40, 56, 40, 82, 2, 82),
        oval("accent", 21, 69, 9, 9),
        curve("light", 3.5, 8, 48, 10, 42, 17, 32),
    ),
    shoulder=(36, 52),
    body=(21, 68),
    face=(21, 46),
    colours=((60, 132, 118), (92, 118, 84), (120, 160, 150), (100, 84, 60)),
    materials=("Transparent",),
)

_MUG = Sprite(
    parts=(
        curve("shade", 9, 70, 24, 92, 26, 94, 50, 70, 60),
        blob("main", 2, 12, 40, 12, 78, 12, 77, 60, 70, 78, 40, 82, 10, 78, 3, 60),
        oval("light", 40, 12, 38, 11),
        oval("coffee", 40, 13, 31, 7.5),
        line("light", 6, 6, 56, 74, 56),
    ),
    shoulder=(70, 40),
    body=(40, 50),
    face=(38, 40),
    window=(12, 27, 68, 74),
    top=4,
    colours=((150, 196, 200), (238, 232, 216), (200, 170, 190), (170, 180, 150)),
)

_FOOTBALL = Sprite(
    parts=(
        oval("main", 50, 50, 50, 50),
        polygon("dark", 50, 32, 67, 44, 61, 64, 39, 64, 33, 44),
        polygon("dark", 36, 3, 64, 3, 50, 15),
        polygon("dark", 93, 28, 99, 52, 84, 40),
        polygon("dark", 7, 28, 1, 52, 16, 40),
        polygon("dark", 78, 90, 88, 78, 74, 76),
        polygon("dark", 22, 90, 12, 78, 26, 76),
        line("dark", 3, 50, 32, 50, 14),
        line("dark", 3, 67, 44, 86, 39),
        line("dark", 3, 33, 44, 14, 39),
        line("dark", 3, 61, 64, 74, 78),
        line("dark", 3, 39, 64, 26, 78),
    ),
    shoulder=(80, 56),
    body=(50, 54),
    face=(50, 24),
    colours=((246, 246, 242), (228, 232, 236)),
)

_GUITAR = Sprite(
    parts=(
        line("coffee", 9, 28, 10, 28, 60),
        polygon("dark", 20, 0, 36, 0, 34, 16, 22, 16),
        blob("main", 28, 52, 44, 56, 46, 68, 42, 76, 54, 90, 50, 112, 28, 120, 6, 112, 2, 90, 14, 76, 10, 68, 12, 56),
        oval("dark", 28, 80, 8, 8),
        line("dark", 4, 18, 104, 38, 104),
        line("white", 1.2, 26, 8, 26, 104),
        line("white", 1.2, 30, 8, 30, 104),
    ),
    shoulder=(46, 78),
    body=(28, 84),
    face=(28, 62),
    colours=((226, 142, 58), (206, 116, 48), (240, 176, 96)),
    materials=("Wooden",),
)

_DRUM = Sprite(
    parts=(
        blob("main", 2, 18, 46, 18, 90, 18, 90, 46, 89, 72, 46, 84, 3, 72, 2, 46),
        line("white", 4, 5, 26, 20, 74, 34, 30, 48, 78, 62, 30, 76, 74, 87, 26),
        curve("gold", 7, 3, 72, 46, 84, 89, 72),
        oval("gold", 46, 16, 46, 15),
        oval("white", 46, 14, 40, 11),
    ),
    shoulder=(86, 44),
    body=(46, 50),
    face=(46, 46),
    window=(13, 31, 79, 76),
    top=6,
    colours=((150, 84, 116), (110, 84, 150), (90, 120, 130)),
    materials=("Wooden",),
)

_CAR = Sprite(
    parts=(
        blob("main", 2, 58, 3, 38, 22, 32, 38, 6, 70, 1, 100, 6, 116, 32, 142, 38, 146, 58, 138, 66, 74, 68, 8, 66),
        polygon("sky", 34, 32, 45, 12, 68, 10, 68, 32),
        polygon("sky", 76, 32, 76, 10, 96, 13, 108, 32),
        line("shade", 2, 72, 34, 72, 64),
        oval("dark", 34, 66, 16, 16),
        oval("metal", 34, 66, 7, 7),
        oval("dark", 114, 66, 16, 16),
        oval("metal", 114, 66, 7, 7),
        oval("gold", 140, 46, 5, 5),
    ),
    shoulder=(132, 46),
    body=(72, 46),
    face=(116, 44),
    window=(22, 9, 126, 56),
    top=4,
    colours=((236, 150, 84), (88, 150, 160), (160, 164, 170), (176, 128, 184)),
)

_BACKPACK = Sprite(
    parts=(
        curve("dark", 5, 30, 8, 40, -4, 50, 8),
        curve("shade", 9, 10, 30, -2, 54, 8, 84),
        curve("shade", 9, 70, 30, 82, 54, 72, 84),
        blob("main", 8, 40, 16, 12, 40, 5, 64, 12, 72, 40, 73, 90, 66, 97, 40, 98, 14, 97, 7, 90),
        curve("dark", 3, 14, 38, 40, 46, 66, 38),
        blob("shade", 16, 58, 40, 55, 64, 58, 66, 86, 40, 90, 14, 86),
        line("gold", 5, 32, 68, 48, 68),
    ),
    shoulder=(68, 50),
    body=(40, 50),
    face=(40, 26),
    window=(15, 17, 65, 84),
    top=6,
    colours=((122, 92, 170), (90, 110, 100), (190, 120, 90), (100, 130, 160)),
    materials=("(made of)Leather", "(made of)Textile"),
)

_SUITCASE = Sprite(
    parts=(
        curve("dark", 6, 42, 16, 44, 2, 60, 0, 76, 2, 78, 16),
        blob("main", 4, 20, 8, 16, 60, 15, 112, 16, 116, 20, 117, 54, 116, 86, 112, 90, 60, 91, 8, 90, 4, 86, 3, 54),
        line("shade", 9, 26, 18, 26, 88),
        line("shade", 9, 94, 18, 94, 88),
        polygon("gold", 22, 46, 30, 46, 30, 58, 22, 58),
        polygon("gold", 90, 46, 98, 46, 98, 58, 90, 58),
        polygon("dark", 3, 76, 17, 90, 4, 90),
        polygon("dark", 117, 76, 103, 90, 116, 90),
    ),
    shoulder=(110, 50),
    body=(60, 52),
    face=(60, 40),
    window=(16, 24, 104, 82),
    top=15,
    colours=((176, 146, 100), (96, 140, 140), (150, 110, 80), (140, 150, 170)),
    materials=("(made of)Leather", "(made of)Textile"),
)

SPRITES: dict[str, Sprite] = {
    "Man": _MAN,
    "Woman": _WOMAN,
    "Dog": _DOG,
    "Cat": _CAT,
    "Horse": _HORSE,
    "Elephant": _ELEPHANT,
    "Table": _TABLE,
    "Chair": _CHAIR,
    "Bottle": _BOTTLE,
    "Mug": _MUG,
    "Football": _FOOTBALL,
    "Guitar": _GUITAR,
    "Drum": _DRUM,
    "Car": _CAR,
    "Backpack": _BACKPACK,
    "Suitcase": _SUITCASE,
}
