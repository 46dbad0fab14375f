"""Real fonts to print with: DejaVu (shipped by matplotlib), Roboto, Source Serif, Caladea, Pillow's Aileron.

Every package is only located, never imported. Text is laid out by Pillow's own engine, so that a picture is
the same whether or not the machine has Raqm.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from optmerge.errors import InputError, did_you_mean

_DEJAVU = "mpl-data/fonts/ttf"
_FILES: Mapping[str, tuple[str, str]] = {
    "sans": ("matplotlib", f"{_DEJAVU}/DejaVuSans.ttf"),
    "sans bold": ("matplotlib", f"{_DEJAVU}/DejaVuSans-Bold.ttf"),
    "sans oblique": ("matplotlib", f"{_DEJAVU}/DejaVuSans-Oblique.ttf"),
    "serif": ("matplotlib", f"{_DEJAVU}/DejaVuSerif.ttf"),
    "serif bold": ("matplotlib", f"{_DEJAVU}/DejaVuSerif-Bold.ttf"),
    "mono": ("matplotlib", f"{_DEJAVU}/DejaVuSansMono.ttf"),
    "mono bold": ("matplotlib", f"{_DEJAVU}/DejaVuSansMono-Bold.ttf"),
    "roboto": ("font_roboto", "files/Roboto-Regular.ttf"),
    "roboto bold": ("font_roboto", "files/Roboto-Bold.ttf"),
    "source serif": ("font_source_serif_pro", "files/SourceSerifPro-Regular.ttf"),
    "source serif bold": ("font_source_serif_pro", "files/SourceSerifPro-Bold.ttf"),
    "caladea": ("font_caladea", "files/Caladea-Regular.ttf"),
    "caladea bold": ("font_caladea", "files/Caladea-Bold.ttf"),
}
_PILLOWS_OWN = "aileron"
FAMILIES: tuple[str, ...] = (*_FILES, _PILLOWS_OWN)
"""Names `font` knows; choose with the scene's own generator: `rng.choice(FAMILIES)`."""


@cache
def font(family: str, size: int) -> ImageFont.FreeTypeFont:
    """A font, opened once per size.

    Args:
        family: one of `FAMILIES`.
        size: em size in pixels; capitals are about 0.7 of it tall.

    Raises:
        InputError: unknown family, or the package that ships it isn't installed.
    """
    if family == _PILLOWS_OWN:
        own = ImageFont.load_default(size)
        assert isinstance(own, ImageFont.FreeTypeFont)  # given a size, Pillow returns its scalable font
        return own.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.truetype(_file(family), size, layout_engine=ImageFont.Layout.BASIC)


def wrapped(text: str, letters: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """The text in lines that are at most so many pixels wide; a longer word has a line of its own."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _file(family: str) -> Path:
    if family not in _FILES:
        raise InputError("unknown font family", got=family, hint=did_you_mean(family, FAMILIES))
    package, path = _FILES[family]
    spec = find_spec(package)  # doesn't run the package: importing matplotlib takes a while
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "a font's package isn't installed",
            where=family,
            got=package,
            hint="pip install 'optmerge[bench]'",
        )
    return Path(spec.submodule_search_locations[0]) / path
