"""`python -m ray_unlearn` is `ray-unlearn`, with modules of the current folder importable.

Does not cover: anything else.
"""

from ray_unlearn.cli import run

run()
