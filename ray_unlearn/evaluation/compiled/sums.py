"""Compiled: sums in the order in which NumPy adds up, to the last bit.

    total = pairwise(values_N, number, stack_2S)                 # values_N[:number].sum()

NumPy adds up 128 numbers at most in eight interleaved sums, and more by halves (`pairwise_sum` in `loops_utils.h.src`).

Needs Numba, which the extra `fast` installs. Does not cover: sums along the first axis of a matrix, which NumPy adds up
row by row.
"""

from __future__ import annotations

from ray_unlearn.evaluation.attack_tables import Floats
from ray_unlearn.evaluation.compiled.search import compiled

BLOCK = 128
"""Numbers that are not added up by halves."""
DEPTH = 130
"""Places that a stack needs for any array."""


@compiled
def block_sum(values_N: Floats, start: int, number: int) -> float:
    """Return the sum of `BLOCK` numbers at most."""
    if number < 8:
        total = 0.0
        for i in range(start, start + number):
            total += values_N[i]
        return float(total)
    whole = start + number - number % 8
    a, b, c, d = values_N[start], values_N[start + 1], values_N[start + 2], values_N[start + 3]
    e, f, g, h = values_N[start + 4], values_N[start + 5], values_N[start + 6], values_N[start + 7]
    for i in range(start + 8, whole, 8):
        a, b, c, d = a + values_N[i], b + values_N[i + 1], c + values_N[i + 2], d + values_N[i + 3]
        e, f, g, h = e + values_N[i + 4], f + values_N[i + 5], g + values_N[i + 6], h + values_N[i + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (g + h))
    for i in range(whole, start + number):
        total += values_N[i]
    return float(total + 0.0)


@compiled
def first_half(number: int) -> int:
    """Return how many of more than `BLOCK` numbers are added up before the others."""
    half = number // 2
    return half - half % 8


@compiled
def pairwise(values_N: Floats, number: int, stack_2S: Floats) -> float:
    """Return the sum of the first numbers.

    Args:
        values_N: the numbers.
        number: how many are added up.
        stack_2S: room, [2, DEPTH]: sizes that are still to be added up (0: two sums), and sums.

    """
    stack_2S[0, 0] = number
    todo, sums, start = 1, 0, 0
    while todo > 0:
        todo -= 1
        size = int(stack_2S[0, todo])
        if size == 0 and number > 0:
            sums -= 1
            stack_2S[1, sums - 1] += stack_2S[1, sums]
        elif size <= BLOCK:
            stack_2S[1, sums] = block_sum(values_N, start, size)
            sums, start = sums + 1, start + size
        else:
            half = first_half(size)
            stack_2S[0, todo], stack_2S[0, todo + 1], stack_2S[0, todo + 2] = 0, size - half, half
            todo += 3
    return float(stack_2S[1, 0])
