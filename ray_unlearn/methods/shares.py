"""Which part of a mixed population makes which run: in proportion after every run, not only at the end.

    part_of(run=7, shares=(246, 266))            # 0 or 1: the part that makes run 7

A function of the index alone, so that raising a population's count changes no run. After any N runs each part has made
its share of N to within less than one run (two parts: within half a run), and after sum(shares) runs exactly its share.

Citation: R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980).

Does not cover: what a part does (`toshi_marvel`, `mix`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction


def part_of(run: int, shares: Sequence[int]) -> int:
    """Return the position in `shares`, whole numbers above zero, of the part that makes run `run`."""
    divisor = math.gcd(*shares)
    shares = [share // divisor for share in shares]
    total = sum(shares)
    made, chosen = [0] * len(shares), 0
    for done in range(run % total + 1):  # the pattern repeats: after `total` runs all parts are even
        owed = [Fraction(share * (done + 1), total) - count for share, count in zip(shares, made, strict=True)]
        chosen = _most_urgent(owed, shares)
        made[chosen] += 1
    return chosen


def _most_urgent(owed: Sequence[Fraction], shares: Sequence[int]) -> int:
    """Return the part that would soonest be a whole run behind, among those that are owed enough to have their turn."""
    threshold = Fraction(1, max(2 * len(shares) - 2, 1))
    eligible = [part for part, runs in enumerate(owed) if runs >= threshold]
    return min(eligible, key=lambda part: ((1 - threshold - owed[part]) / shares[part], part))
