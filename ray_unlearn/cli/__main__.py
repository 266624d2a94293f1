"""`python -m ray_unlearn.cli` is `ray-unlearn`.

Does not cover: anything else.
"""

import sys

from ray_unlearn.cli import main

sys.exit(main())
