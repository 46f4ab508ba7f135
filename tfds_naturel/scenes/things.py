"""Drawings of things."""

from tfds_naturel.scenes.shapes import blob, curve, line, oval, polygon
from tfds_naturel.scenes.sprite import Sprite

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
)

_BED = Sprite(
    parts=(
        line("shade", 9, 8, 0, 8, 74),
        line("shade", 9, 132, 24, 132, 74),
        polygon("shade", 8, 4, 26, 4, 26, 60, 8, 60),
        polygon("shade", 8, 48, 132, 48, 132, 62, 8, 62),
        blob("white", 26, 30, 42, 22, 56, 30, 56, 46, 42, 50, 26, 48),
        blob("main", 44, 34, 90, 28, 130, 34, 136, 44, 132, 58, 90, 60, 46, 58),
        line("light", 5, 62, 32, 62, 58),
    ),
    shoulder=(124, 42),
    body=(72, 46),
    face=(17, 26),
    top=32,
    colours=((120, 140, 176), (186, 132, 146), (150, 164, 130)),
)

_BICYCLE = Sprite(
    parts=(
        oval("dark", 28, 62, 28, 28),
        oval("sky", 28, 62, 22, 22),
        oval("dark", 112, 62, 28, 28),
        oval("sky", 112, 62, 22, 22),
        line("main", 6, 28, 62, 52, 26, 96, 26, 66, 64, 28, 62),
        line("main", 6, 52, 26, 66, 64),
        line("main", 6, 112, 62, 94, 14),
        line("dark", 6, 94, 14, 84, 8, 104, 6),
        line("dark", 5, 52, 26, 50, 16),
        oval("dark", 50, 14, 15, 5),
        oval("metal", 66, 64, 8, 8),
    ),
    shoulder=(92, 30),
    body=(60, 40),
    face=(72, 30),
    top=12,
    colours=((88, 132, 140), (196, 120, 96), (140, 110, 160)),
)

_PIANO = Sprite(
    parts=(
        line("shade", 9, 10, 70, 10, 98),
        line("shade", 9, 110, 70, 110, 98),
        polygon("main", 4, 0, 116, 0, 116, 56, 4, 56),
        polygon("shade", 14, 10, 106, 10, 106, 42, 14, 42),
        polygon("white", 0, 56, 120, 56, 120, 72, 0, 72),
        *(line("dark", 5, x, 56, x, 65) for x in range(10, 116, 12)),
        polygon("main", 0, 72, 120, 72, 120, 84, 0, 84),
    ),
    shoulder=(112, 50),
    body=(60, 42),
    face=(60, 26),
    colours=((70, 56, 58), (112, 72, 56), (216, 206, 196)),
)

_VIOLIN = Sprite(
    parts=(
        line("dark", 5, 20, 6, 20, 62),
        oval("coffee", 20, 5, 6, 6),
        blob("main", 20, 40, 32, 46, 31, 58, 26, 66, 34, 76, 34, 94, 20, 102, 6, 94, 6, 76, 14, 66, 9, 58, 8, 46),
        line("dark", 2.5, 11, 66, 13, 76),
        line("dark", 2.5, 29, 66, 27, 76),
        line("coffee", 5, 20, 82, 20, 98),
        line("white", 1.2, 20, 8, 20, 84),
        line("metal", 3, 2, 38, 38, 104),
    ),
    shoulder=(30, 58),
    body=(20, 74),
    face=(20, 54),
    colours=((160, 84, 44), (186, 104, 52), (128, 66, 40)),
)

_HANDBAG = Sprite(
    parts=(
        curve("shade", 7, 22, 40, 26, 8, 50, 0, 74, 8, 78, 40),
        blob("main", 12, 34, 50, 32, 88, 34, 98, 62, 96, 88, 50, 92, 4, 88, 2, 62),
        curve("dark", 3, 8, 52, 50, 64, 92, 52),
        oval("gold", 50, 60, 7, 7),
    ),
    shoulder=(92, 60),
    body=(50, 62),
    face=(50, 46),
    window=(15, 40, 85, 86),
    top=33,
    colours=((186, 116, 130), (150, 120, 92), (96, 110, 126)),
)

_WINE_GLASS = Sprite(
    parts=(
        oval("main", 24, 96, 20, 4.5),
        line("main", 5, 24, 54, 24, 94),
        blob("main", 3, 4, 24, 3, 45, 4, 46, 28, 38, 48, 24, 56, 10, 48, 2, 28),
        blob("wine", 5, 24, 24, 22, 43, 24, 42, 36, 36, 46, 24, 52, 12, 46, 6, 36),
        oval("light", 24, 4, 21, 4),
    ),
    shoulder=(40, 36),
    body=(24, 34),
    face=(24, 14),
    colours=((206, 222, 230), (220, 226, 214)),
)

THINGS = {
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
    "Bed": _BED,
    "Bicycle": _BICYCLE,
    "Piano": _PIANO,
    "Violin": _VIOLIN,
    "Handbag": _HANDBAG,
    "Wine glass": _WINE_GLASS,
}
