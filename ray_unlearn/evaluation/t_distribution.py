"""The t distribution's quantile, and the degrees of freedom of a sum of two variances.

    margin = t_quantile(0.975, df) * se
    df = degrees_of_sum(first, 15, second, 3)                    # Welch and Satterthwaite

Does not cover: where variances come from (`intervals`, `originals`).
"""

from __future__ import annotations


def t_quantile(share: float, df: float) -> float:
    """Return the t distribution's quantile."""
    from scipy.special import stdtrit

    return float(stdtrit(df, share))


def degrees_of_sum(first: float, df_first: float, second: float, df_second: float) -> float:
    """Return degrees of freedom of a sum of two independent variances, by those of each; 1 where both are 0.

    Source: Satterthwaite, Biometrics Bulletin 2, 1946; Welch, Biometrika 34, 1947.

    >>> degrees_of_sum(1.0, 3, 1.0, 3), degrees_of_sum(1.0, 3, 0.0, 9)
    (6.0, 3.0)

    """
    return (first + second) ** 2 / (first**2 / df_first + second**2 / df_second) if first + second else 1.0
