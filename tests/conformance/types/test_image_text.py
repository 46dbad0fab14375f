"""Model types of the group `IMAGE_TEXT`: each behaves as recorded."""

from __future__ import annotations

import pytest

from conformance.types import record
from worlds import samples
from worlds.model_types import IMAGE_TEXT


@pytest.mark.sampled
@pytest.mark.parametrize("name", samples.sample(IMAGE_TEXT, 1))
def test_a_type_does_what_the_record_says(name: str) -> None:
    """Where it doesn't: `python -m conformance.types TYPE` records what it does now."""
    assert record.tried_once(name) == record.read()[name]
