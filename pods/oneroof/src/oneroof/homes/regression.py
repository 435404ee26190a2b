"""A weighted least-squares fit with a prior for each coefficient, on the standard library alone."""

import math
from collections.abc import Sequence

type Column = Sequence[float]


def fit(
    columns: Sequence[Column], target: Column, weights: Column, prior: Sequence[tuple[float, float]]
) -> list[float]:
    """The coefficients that minimise weighted squared error plus ``firmness * (coefficient - usual)²``.

    ``prior`` has a (usual, firmness) pair for each column; every firmness must be positive, which makes the
    normal equations positive definite whatever the data.
    """
    size = len(columns)
    weighted = [[value * weight for value, weight in zip(column, weights, strict=True)] for column in columns]
    matrix = [[math.sumprod(weighted[i], columns[j]) for j in range(i + 1)] for i in range(size)]
    right = [math.sumprod(column, target) for column in weighted]
    for i, (usual, firmness) in enumerate(prior):
        matrix[i][i] += firmness
        right[i] += firmness * usual
    return _solve(matrix, right)


def _solve(lower: list[list[float]], right: list[float]) -> list[float]:
    """Solve a symmetric positive definite system, given by its lower triangle, by Cholesky's method."""
    size = len(right)
    factor: list[list[float]] = []
    for i in range(size):
        row: list[float] = []
        for j in range(i):
            row.append((lower[i][j] - math.sumprod(row, factor[j][:j])) / factor[j][j])
        row.append(math.sqrt(lower[i][i] - math.sumprod(row, row)))
        factor.append(row)
    forward: list[float] = []
    for i in range(size):
        forward.append((right[i] - math.sumprod(forward, factor[i][:i])) / factor[i][i])
    solution = [0.0] * size
    for i in reversed(range(size)):
        known = sum(factor[j][i] * solution[j] for j in range(i + 1, size))
        solution[i] = (forward[i] - known) / factor[i][i]
    return solution


def residuals(columns: Sequence[Column], target: Column, coefficients: Sequence[float]) -> list[float]:
    """Target minus fitted value, row by row."""
    return [
        value - math.sumprod(row, coefficients) for value, row in zip(target, zip(*columns, strict=True), strict=True)
    ]


def weighted_quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The least value at or below which lies at least ``share`` of the weight."""
    wanted = share * math.fsum(weights)
    reached = 0.0
    ordered = sorted(zip(values, weights, strict=True))
    for value, weight in ordered:
        reached += weight
        if reached >= wanted:
            return value
    return ordered[-1][0]
