"""Drawings of people and animals."""

from tfds_naturel.scenes.shapes import SpritePart, blob, curve, line, oval, polygon, resting
from tfds_naturel.scenes.sprite import Sprite


def _eyes(*flat: float, radius: float = 1.8) -> tuple[SpritePart, ...]:
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

_MONKEY = Sprite(
    parts=(
        curve("main", 6, 50, 82, 74, 92, 82, 72, 72, 62),
        resting(curve("main", 9, 22, 54, 8, 66, 12, 82)),
        resting(curve("main", 9, 50, 54, 64, 66, 60, 82)),
        blob("main", 36, 42, 54, 54, 56, 80, 50, 96, 36, 99, 22, 96, 16, 80, 18, 54),
        oval("light", 36, 74, 12, 17),
        oval("main", 22, 97, 11, 6),
        oval("main", 50, 97, 11, 6),
        oval("light", 10, 26, 9, 10),
        oval("light", 62, 26, 9, 10),
        oval("main", 36, 26, 25, 24),
        blob("light", 36, 22, 48, 16, 54, 28, 48, 42, 36, 46, 24, 42, 18, 28, 24, 16),
        *_eyes(28, 27, 44, 27, radius=2.8),
        curve("dark", 1.8, 27, 38, 36, 41, 45, 38),
    ),
    shoulder=(46, 56),
    body=(36, 72),
    colours=((126, 82, 56), (96, 68, 54), (164, 116, 76)),
    arm="main",
)

_SNAKE = Sprite(
    parts=(
        curve("main", 16, 4, 84, 28, 92, 52, 84, 80, 92, 104, 84, 116, 68, 100, 58, 72, 60, 60, 48, 72, 34, 92, 28),
        curve("light", 4, 6, 84, 28, 92, 52, 84, 80, 92, 104, 84),
        curve("pinkish", 3, 116, 22, 128, 20),
        oval("main", 102, 22, 17, 12),
        oval("white", 106, 17, 4.5, 4.5),
        *_eyes(107, 17, radius=2.6),
    ),
    shoulder=(70, 44),
    body=(64, 76),
    top=54,
    colours=((150, 168, 92), (190, 156, 84), (112, 140, 110)),
    arm="main",
)

PEOPLE = frozenset({"Man", "Woman"})
BEINGS = {
    "Man": _MAN,
    "Woman": _WOMAN,
    "Dog": _DOG,
    "Cat": _CAT,
    "Horse": _HORSE,
    "Elephant": _ELEPHANT,
    "Monkey": _MONKEY,
    "Snake": _SNAKE,
}
