"""What the record of all model types says as a whole; the other files hold each type against it."""

from __future__ import annotations

from conformance.types import record
from worlds.model_types import TYPES

RECORD = record.read()
BUILT = {name: row for name, row in RECORD.items() if "unbuildable" not in row}

UNBUILDABLE = {"fast_vlm", "gemma3n", "perception_lm"}
"""Their vision tower is timm's, which isn't installed."""

WRONG_DEFAULT: set[str] = set()
"""Types whose default set isn't the language model's matrices."""

ADAPTER_REFUSED: set[str] = set()
"""Types whose adapter is refused."""


def test_every_type_is_recorded() -> None:
    assert tuple(RECORD) == TYPES


def test_only_what_needs_a_missing_package_is_not_built() -> None:
    assert RECORD.keys() - BUILT.keys() == UNBUILDABLE


def test_the_default_set_is_the_language_models_matrices() -> None:
    assert {name for name, row in BUILT.items() if "default" in row} == WRONG_DEFAULT


def test_an_adapter_is_merged_as_peft_does_or_refused() -> None:
    refused = {name for name, row in BUILT.items() if row.get("adapter", "").startswith("refused: ")}
    wrong = {name for name, row in BUILT.items() if "wrong" in row.get("adapter", "")}
    assert (refused, wrong) == (ADAPTER_REFUSED, set())


def test_every_mean_of_two_experts_is_exact() -> None:
    assert not {name: row["merge"] for name, row in BUILT.items() if "merge" in row}
