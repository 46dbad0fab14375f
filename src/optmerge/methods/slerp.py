"""Spherical interpolation between two experts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optmerge.deltas import Delta, inner_product, linear_combination
from optmerge.methods._method import Resources
from optmerge.methods._parameters import UnitInterval
from optmerge.methods._registry import method

COLINEAR = 1e-4
"""Angles (radians) below which the great circle can't be told from the chord in float32."""


@method(
    granularity="tensor", scale=1.0, auto="own", exactly=2, resources=Resources(workspace=lambda case: 6.0)
)
def slerp(deltas: Sequence[Delta], *, t: UnitInterval = 0.5) -> Delta:
    """Spherical interpolation between the task vectors of two experts.

    M = sin((1−t)Ω)/sin Ω · τ₁ + sin(tΩ)/sin Ω · τ₂,   cos Ω = ⟨τ₁, τ₂⟩ / (‖τ₁‖ ‖τ₂‖)

    A straight line where the two are colinear, opposite or zero. Low-rank deltas stay factors.

    Args:
        deltas: two experts' deltas of one tensor.
        t: 0 is the first expert, 1 the second.

    Source: Shoemake 1985, "Animating rotation with quaternion curves", applied to task vectors.
    """
    first, second = deltas
    lengths = math.sqrt(first.squared_norm()) * math.sqrt(second.squared_norm())
    cosine = inner_product(first, second) / lengths if lengths > 0 else 1.0
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    if min(angle, math.pi - angle) < COLINEAR:
        return linear_combination(deltas, [1 - t, t])
    factors = [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
    return linear_combination(deltas, factors)
