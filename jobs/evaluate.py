"""Score every population of a study, as a Ray job. The same as `ray-unlearn evaluate`, with the same arguments.

    ray job submit --address http://127.0.0.1:8265 --working-dir jobs \
        -- python evaluate.py studies/faces.yaml --set storage=s3://bucket/studies --jobs 16

Needs: ray_unlearn installed on every node, storage that every node sees; no GPU. A part is one population against the
reference, one task on one CPU: at N = 512, 1,000 forget images and 100 halvings, some minutes. Parts that are there
already are not computed again; submitted again after a stop, it goes on.
`ray-unlearn submit STUDY --stage evaluate` submits the same and needs no checkout.
"""

import sys

from ray_unlearn.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
