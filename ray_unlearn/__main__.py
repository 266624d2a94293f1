"""`python -m ray_unlearn` is `ray-unlearn`, with modules of the current folder importable.

Does not cover: anything else.
"""

import sys

from ray_unlearn.cli import main

sys.exit(main())
