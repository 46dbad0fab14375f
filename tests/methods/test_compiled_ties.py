from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optmerge.deltas import Dense, LowRank
from optmerge.methods import Context, get
from optmerge.methods._fast.elementwise import TrimThresholds
from optmerge.methods._fast.kernels import mean_of_agreeing
from optmerge.methods.ties import agree, ties
from worlds.deltas import randn


@settings(max_examples=60, deadline=None)
@given(
    experts=st.integers(1, 5),
    size=st.integers(1, 200),
    coarse=st.booleans(),
    majority=st.sampled_from([-1.0, 0.0, 1.0]),
    seed=st.integers(0, 999),
)
def test_the_compiled_loop_gives_the_bits_of_the_tensor_code(
    experts: int, size: int, coarse: bool, majority: float, seed: int
) -> None:
    deltas = randn(experts, size, seed=seed, dtype=torch.float32)
    deltas = torch.round(2 * deltas) / 2 if coarse else deltas  # coarse values cancel and tie often
    least = [0.5 * index for index in range(experts)]
    context = Context(survey=TrimThresholds(tuple(least), majority))
    compiled = ties([Dense(delta) for delta in deltas], trim="model", context=context).dense()
    trimmed = [d * (d.abs() >= least[index]) for index, d in enumerate(deltas)]
    assert torch.equal(compiled, agree(trimmed, majority))
    assert mean_of_agreeing.signatures, "the compiled loop was not used"  # type: ignore[attr-defined]


def test_factors_are_trimmed_like_their_product() -> None:
    factors = [LowRank(randn(8, 2, seed=i).float(), randn(2, 6, seed=9 + i).float()) for i in range(3)]
    context = Context(survey=TrimThresholds((0.5, 0.5, 0.5), 1.0))
    dense = [Dense(delta.dense()) for delta in factors]
    assert torch.equal(ties(factors, context=context).dense(), ties(dense, context=context).dense())


def test_a_survey_of_one_tensor_in_slices_gives_the_merge_of_the_whole() -> None:
    deltas = torch.round(randn(4, 30, 7, seed=3, dtype=torch.float32) * 2) / 2
    streaming = get("ties").streaming({"keep": 0.4, "trim": "tensor"})
    assert streaming is not None and streaming.survey is not None
    survey = streaming.survey(4)
    while survey.begin_pass():
        for rows in deltas.split(7, dim=1):
            survey.observe([Dense(delta) for delta in rows], Context())
        survey.end_pass()
    context = Context(survey=survey.result())
    slices = [
        ties([Dense(delta) for delta in rows], keep=0.4, context=context).dense()
        for rows in deltas.split(7, dim=1)
    ]
    assert torch.equal(torch.cat(slices), ties([Dense(delta) for delta in deltas], keep=0.4).dense())
