"""Do everything for a study, as a Ray job: prepare, generate, evaluate, report. The same as `ray-unlearn all`.

    ray job submit --address http://127.0.0.1:8265 --working-dir jobs \
        --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}' \
        -- python study.py studies/faces.yaml --set storage=s3://bucket/studies \
           --set data.train=s3://bucket/train.parquet --set data.test=s3://bucket/test.parquet \
           --set execution.device=cuda --workers 8

Needs: ray_unlearn installed on every node, storage and data that every node sees. The driver runs on the head node and
needs no GPU. Every stage does what is not done yet: submitted again after a stop or a crash, it goes on. Exit code 3
where runs failed; what was made is scored all the same. studies/digits.yaml needs no data and about 10 minutes
of two CPU cores. `ray-unlearn submit STUDY` submits the same and needs no checkout.
"""

import sys

from ray_unlearn.cli import main

if __name__ == "__main__":
    sys.exit(main(["all", *sys.argv[1:]]))
