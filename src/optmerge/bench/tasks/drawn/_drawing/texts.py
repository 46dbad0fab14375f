"""What is printed: words, numbers, dates and codes, in capital letters and digits.

Each text on its own belongs to one split, so a text of the test is never seen in training.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from optmerge.bench.tasks import Split, held_apart

_REAL = """
ACE ACT AIR ANT ARM ART BAG BAR BAT BED BEE BIG BOX BUS CAB CAN CAP CAR CAT COW CUP DAY DOG DOT DRY EAR EGG
ELF EYE FAN FAR FIG FLY FOG FOX FUN GAS GEM GYM HAT HEN HOT HUT ICE INK JAM JAR JET JOB JOY KEY KID KIT LAB
LEG LID LIP LOG MAP MIX MUD NET NUT OAK OIL OWL PAN PEN PIE PIG POT RAT RED RUG SEA SKY SUN TAX TEA TOY VAN
WAX WEB WIG YAK ZOO APEX ARCH BABY BALL BAND BANK BARN BEAR BELL BIRD BLUE BOAT BOLT BOOK BOWL BULB CAFE
CAKE CALF CAMP CARD CASH CAVE CITY CLUB COAT COIN COLD CORN CRAB DARK DEER DESK DISH DOCK DOOR DRUM DUCK
EAST EXIT FACE FARM FERN FILM FIRE FISH FLAG FORK FROG GAME GATE GIFT GLUE GOAT GOLD HALL HAND HARP HAWK
HERO HILL HOME HORN IRON JAZZ JUMP KING KITE LAKE LAMP LEAF LIME LION LOCK LUCK MAIL MILK MINT MOON NEST
NORTH OPEN OVEN PARK PEAR PINK PLUM POND PORT QUIZ RAIN RICE RING ROAD ROCK ROOF ROSE SAIL SALT SAND SHIP
SHOP SNOW SOAP SOFA STAR SWAN TAXI TENT TIGER TOWN TREE TUBE TUNA VASE WAVE WEST WIND WOLF WOOD WOOL YARD
ZERO APPLE BEACH BREAD BRICK CHAIR CHEF CLOCK CLOUD CROWN DANCE DREAM EAGLE EARTH FIELD FLAME FLOUR FRUIT
GLASS GRAPE GREEN HORSE HOTEL HOUSE JUICE KNIFE LEMON LIGHT MAGIC METAL MONEY MOUSE MUSIC NIGHT OCEAN ONION
PAPER PIANO PIZZA PLANT QUEEN RADIO RIVER ROBOT SALAD SHEEP SOUTH SPOON STONE STORM SUGAR TABLE TOAST TRAIN
WATCH WATER WHALE WHEAT ZEBRA BAKERY BANANA BASKET BOTTLE BRIDGE BUTTON CANDLE CARROT CASTLE CHEESE CIRCUS
COFFEE DOCTOR DRAGON FLOWER FOREST GARDEN GUITAR HAMMER ISLAND JACKET JUNGLE KETTLE LADDER MARKET MONKEY
ORANGE PARROT PENCIL PEPPER POCKET POTATO RABBIT ROCKET SCHOOL SILVER SPIDER SUMMER TEMPLE TICKET TOMATO
TUNNEL WINDOW WINTER YELLOW
"""
REAL: tuple[str, ...] = tuple(_REAL.split())
"""English words of three to six letters."""
_REAL_BY_LENGTH = {length: [real for real in REAL if len(real) == length] for length in (3, 4, 5, 6)}
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPQRSTVWXZ", "AEIOUY"
_PATTERNS = {
    3: ("cvc", "cvc", "vcv", "ccv"),
    4: ("cvcv", "cvcc", "ccvc", "vccv"),
    5: ("cvcvc", "cvccv", "ccvcv"),
    6: ("cvcvcv", "cvccvc"),
}
_CODE_LETTERS, _CODE_DIGITS = "ABCDEFGHJKLMNPRSTUVWXYZ", "23456789"  # O and 0, I and 1 look alike, Q nearly
_LENGTHS, _SHARES = (3, 4, 5, 6), (6, 7, 4, 2)


def word(rng: random.Random, split: Split, *, longest: int = 6) -> str:
    """A word of three letters or more: a real word once in three times, else a pronounceable one."""

    def make(rng: random.Random) -> str:
        length = min(longest, rng.choices(_LENGTHS, _SHARES)[0])
        if rng.random() < 1 / 3:
            return rng.choice(_REAL_BY_LENGTH[length])
        pattern = rng.choice(_PATTERNS[length])
        return "".join(rng.choice(_CONSONANTS if kind == "c" else _VOWELS) for kind in pattern)

    return _of_split(rng, split, make)


def number(rng: random.Random, split: Split, *, longest: int = 5) -> str:
    """A number of three digits or more, the first not a zero."""

    def make(rng: random.Random) -> str:
        digits = rng.randint(3, longest)
        return str(rng.randrange(10 ** (digits - 1), 10**digits))

    return _of_split(rng, split, make)


def date(rng: random.Random, split: Split) -> tuple[str, str, str]:
    """Day, month and year, two digits each; days above 12 and years above 31 tell the three apart."""

    def make(rng: random.Random) -> tuple[str, str, str]:
        return str(rng.randint(13, 28)), f"{rng.randint(1, 12):02}", str(rng.randint(32, 99))

    return held_apart(rng, split, make, lambda date: date)


def code(rng: random.Random, split: Split) -> str:
    """Four or five letters and digits, at least one of each; characters that look alike are left out."""

    def make(rng: random.Random) -> str:
        letters = rng.randint(1, 3)
        digits = rng.randint(max(1, 4 - letters), 5 - letters)
        text = rng.choices(_CODE_LETTERS, k=letters) + rng.choices(_CODE_DIGITS, k=digits)
        if rng.random() < 0.3:
            rng.shuffle(text)
        return "".join(text)

    return _of_split(rng, split, make)


def _of_split(rng: random.Random, split: Split, make: Callable[[random.Random], str]) -> str:
    return held_apart(rng, split, make, lambda text: text)
