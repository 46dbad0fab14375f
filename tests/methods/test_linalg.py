from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optmerge.deltas.thin import gram, thin_qr
from worlds.deltas import randn


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 60), columns=st.integers(0, 700), wide=st.booleans())
def test_a_gram_matrix_is_the_product(rows: int, columns: int, wide: bool) -> None:
    matrix = randn(columns, rows, seed=rows).T if wide else randn(rows, columns, seed=rows)
    torch.testing.assert_close(gram(matrix), matrix.T @ matrix)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 90), columns=st.integers(0, 40), copies=st.booleans(), power=st.integers(0, 9))
def test_a_thin_qr_is_orthonormal_and_multiplies_back(
    rows: int, columns: int, copies: bool, power: int
) -> None:
    """Also where columns depend on each other, or are of very different size."""
    matrix = randn(rows, columns, seed=rows) * 10.0 ** -torch.linspace(0, power, columns, dtype=torch.float64)
    matrix = torch.cat([matrix, matrix[:, : columns // 2]], dim=1) if copies else matrix
    q, r = thin_qr(matrix)
    torch.testing.assert_close(q @ r, matrix, rtol=1e-9, atol=1e-12)
    identity = torch.eye(q.shape[1], dtype=torch.float64)
    torch.testing.assert_close(q.T @ q, identity, rtol=0, atol=1e-7)
