"""Newer methods and modifiers agree with the numbers that published code gives on the same task vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from optmerge.deltas import Delta, Dense, LowRank
from optmerge.methods import MODIFIERS, get, merge_deltas, modifier_use

GOLDEN = Path(__file__).parent / "golden" / "frontier" / "frontier.safetensors"
BOUND = 2e-6
"""Relative: the file holds float32."""

DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "actmat": ("actmat", {}),
    "ace": ("ace", {}),
    "iso_cts": ("iso_cts", {}),
    "cart": ("cart", {"rank_fraction": 0.1, "centred": 0.7}),
    "dc_merge.0.001": ("dc_merge", {"keep": 0.001}),
    "dc_merge.0.1": ("dc_merge", {"keep": 0.1}),
    "star": ("average+star", {}),
    "svc.0.1": ("task_arithmetic+svc", {}),
    "svc.1.0": ("task_arithmetic", {"with": [("svc", {"floor": 1.0})]}),
    "subspace_boosting": ("task_arithmetic", {"with": [("subspace_boosting", {"share": 0.3})]}),
    "knots_ties": ("ties+knots", {"keep": 0.25}),
}
LOW_RANK: dict[str, tuple[str, dict[str, Any]]] = {
    "dc_merge.avg.0.001": ("dc_merge", {"keep": 0.001}),
    "dc_merge.avg.0.1": ("dc_merge", {"keep": 0.1}),
    "dc_merge.linear.0.001": ("dc_merge", {"keep": 0.001, "spectrum": "linear"}),
    "dc_merge.linear.0.1": ("dc_merge", {"keep": 0.1, "spectrum": "linear"}),
    "iso_cts": ("iso_cts", {}),
    "core.tsv": ("tsv+core_space", {}),
    "core.iso_c": ("iso_c+core_space", {}),
    "core.tsv_iso": ("tsv+isotropize+core_space", {}),
    "core.ties": ("ties+core_space", {"keep": 0.25}),
    "pico": ("task_arithmetic+pico", {}),
}
CASES = [(case, name) for case in ("tall", "wide") for name in DENSE] + [("uneven", "ace")]


@cache
def golden() -> dict[str, Tensor]:
    return {name: values.double() for name, values in load_file(GOLDEN).items()}


def merged(name: str, parameters: Mapping[str, Any], deltas: Sequence[Delta]) -> Tensor:
    uses = [modifier_use(each, given) for each, given in parameters.get("with", [])]
    method = get(name, uses)
    own = {key: value for key, value in parameters.items() if key != "with"}
    if not uses:
        return merge_deltas(name, deltas, **own).dense()
    values = method.resolve(method.validate(own), False)
    found = method.function(deltas, **values)
    assert isinstance(found, Dense | LowRank)
    return found.dense()


def check(found: Tensor, expected: Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < BOUND


@pytest.mark.parametrize(("case", "name"), CASES)
def test_dense_deltas_merge_as_in_published_code(case: str, name: str) -> None:
    deltas = [Dense(values) for values in golden()[case]]
    check(merged(*DENSE[name], deltas), golden()[f"{case}.{name}"])


@pytest.mark.parametrize("name", LOW_RANK)
def test_adapters_merge_as_in_published_code(name: str) -> None:
    deltas = [LowRank(up, down) for up, down in zip(golden()["ups"], golden()["downs"], strict=True)]
    check(merged(*LOW_RANK[name], deltas), golden()[f"low.{name}"])


def test_svc_gives_the_authors_value_where_no_projection_is_below_the_floor() -> None:
    """Their code takes max(mean s, α) where the paper takes the mean of max(s, α)."""
    found = merged("task_arithmetic+svc", {}, [Dense(values) for values in golden()["alike"]])
    left = torch.linalg.svd(golden()["alike"].sum(0))[0][:, 0]
    torch.testing.assert_close((left @ found).norm()[None], golden()["alike.svc_first"], rtol=BOUND, atol=0)


def test_every_golden_value_is_compared() -> None:
    given = {"tall", "wide", "ups", "downs", "alike", "uneven", "alike.svc_first"}
    compared = {f"{case}.{name}" for case, name in CASES} | {f"low.{name}" for name in LOW_RANK}
    assert set(golden()) == given | compared
    assert {
        name for each in (DENSE, LOW_RANK) for spec in each.values() for name in spec[0].split("+")[1:]
    } | {name for spec in DENSE.values() for name, _ in spec[1].get("with", [])} == set(MODIFIERS.all()) - {
        "mean_with"
    }
