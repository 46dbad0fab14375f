from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from PIL import Image, ImageDraw

from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES, font
from optmerge.errors import InputError


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_capitals_and_digits_of_the_size_asked_for(family: Any) -> None:
    for character in "AMZ0189%$/":
        left, top, right, bottom = font(family, 40).getbbox(character)
        assert 24 <= bottom - top <= 56 and 8 <= right - left <= 44, character


def test_no_two_families_print_the_same_pixels() -> None:
    def print_of(family: Any) -> Any:
        image = Image.new("L", (320, 60))
        ImageDraw.Draw(image).text((4, 4), "RAG19", font=font(family, 40), fill=255)
        return image.tobytes()

    assert len({print_of(family) for family in FAMILIES}) == len(FAMILIES)


def test_a_font_is_opened_once() -> None:
    assert font("mono", 17) is font("mono", 17)


def test_an_unknown_family_is_named_with_the_closest() -> None:
    with pytest.raises(InputError, match="roboto"):
        font("robotto", 12)


def test_locating_fonts_imports_no_font_package() -> None:
    code = (
        "import sys; from optmerge.bench.tasks.drawn._drawing.fonts import FAMILIES, font; "
        "[font(family, 12) for family in FAMILIES];"
        "print([m for m in sys.modules if m.startswith(('matplotlib', 'font_'))])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
