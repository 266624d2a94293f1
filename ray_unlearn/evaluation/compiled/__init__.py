"""Loops that Numba compiles, where the extra `fast` installed it; NumPy's code beside this folder defines the numbers.

    if pays(values):
        from ray_unlearn.evaluation.compiled.rates import rates

Numba keeps compiled code in `__pycache__` by the time of a loop's own file alone. After a change of `search`, remove
the files there, or `parity` and `rates` go on with the old one.

Does not cover: what is computed (`epsilon`, `parity`, `roc`, `lower_bounds`, and files of `measures`).
"""

from importlib.util import find_spec

FROM = 1 << 16
"""Values in a call from which compiled loops pay for their loading: phi of 64 images at N = 512, both sides.

An evaluation makes hundreds of calls of one size.
"""


def pays(values: int) -> bool:
    """Return whether a call with so many values is left to compiled loops: where it is large, and Numba is there."""
    return values >= FROM and find_spec("numba") is not None
