"""What the record of all model types says as a whole; the other files hold each type against it."""

from __future__ import annotations

from conformance.types import record
from worlds.model_types import TYPES

RECORD = record.read()
BUILT = {name: row for name, row in RECORD.items() if "unbuildable" not in row}

UNBUILDABLE = {"fast_vlm", "gemma3n", "perception_lm"}
"""Their vision tower is timm's, which isn't installed."""

ADAPTER_REFUSED = {"diffusion_gemma", "minimax_m3_vl", "molmo2"}
"""Types whose adapter is refused: of one of two parts that share parameters, or of parameters that files hold
joined or split."""


def test_every_type_is_recorded() -> None:
    assert tuple(RECORD) == TYPES


def test_only_what_needs_a_missing_package_is_not_built() -> None:
    assert RECORD.keys() - BUILT.keys() == UNBUILDABLE


def test_the_default_set_is_the_language_models_matrices() -> None:
    assert not {name: row["default"] for name, row in BUILT.items() if "default" in row}


def test_every_tensor_has_the_component_of_its_place() -> None:
    assert not {name: row["components"] for name, row in BUILT.items() if "components" in row}


def test_every_tensor_has_the_kind_of_its_module() -> None:
    assert not {name: row["kinds"] for name, row in BUILT.items() if "kinds" in row}


def test_an_adapter_is_merged_as_peft_does_or_refused() -> None:
    refused = {name for name, row in BUILT.items() if row.get("adapter", "").startswith("refused: ")}
    wrong = {name for name, row in BUILT.items() if "wrong" in row.get("adapter", "")}
    assert (refused, wrong) == (ADAPTER_REFUSED, set())


def test_every_mean_of_two_experts_is_exact() -> None:
    assert not {name: row["merge"] for name, row in BUILT.items() if "merge" in row}
