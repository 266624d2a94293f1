"""Make a study's missing checkpoints, as a Ray job. The same as `ray-unlearn generate`, with the same arguments.

    ray job submit --address http://127.0.0.1:8265 --working-dir jobs \
        --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}' \
        -- python generate.py studies/faces.yaml --set storage=s3://bucket/studies \
           --set data.train=s3://bucket/train.parquet --set data.test=s3://bucket/test.parquet \
           --set execution.device=cuda --workers 8

Needs: ray_unlearn installed on every node, storage and data that every node sees. The driver runs on the head node and
needs no GPU; actors take the GPUs. Submitted again after a stop or a crash, it makes exactly what is missing.
`ray-unlearn submit STUDY --stage generate` submits the same and needs no checkout.
"""

import sys

from ray_unlearn.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
