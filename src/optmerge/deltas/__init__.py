"""Task vectors: what an expert changed in one tensor, dense or as two thin factors."""

from optmerge.deltas.delta import (
    Delta,
    Dense,
    FactorSpace,
    LowRank,
    as_deltas,
    inner_product,
    linear_combination,
    mean,
    pieces,
    zero_like,
)

__all__ = [
    "Delta",
    "Dense",
    "FactorSpace",
    "LowRank",
    "as_deltas",
    "inner_product",
    "linear_combination",
    "mean",
    "pieces",
    "zero_like",
]
