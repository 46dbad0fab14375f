from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optmerge.methods.linalg import gram

from .deltas import randn


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), columns=st.integers(0, 700), wide=st.booleans())
def test_a_gram_matrix_is_the_product(rows: int, columns: int, wide: bool) -> None:
    matrix = randn(columns, rows, seed=rows).T if wide else randn(rows, columns, seed=rows)
    torch.testing.assert_close(gram(matrix), matrix.T @ matrix)
