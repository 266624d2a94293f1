"""Loops that Numba compiles, where the extra `fast` installed it; NumPy's code beside this folder defines the numbers.

Does not cover: when they are used (`epsilon.py`).
"""
