"""`python -m ray_unlearn.cli` is `ray-unlearn`.

Does not cover: anything else.
"""

from ray_unlearn.cli import run

run()
