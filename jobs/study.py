"""Run a study, or one stage of it, as a Ray job. The same as `ray-unlearn all`, or as the stage's own subcommand.

    ray job submit --address http://127.0.0.1:8265 --working-dir jobs \
        --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}' \
        -- python study.py studies/faces.yaml --set storage=s3://bucket/studies \
           --set data.train=s3://bucket/train.parquet --set data.test=s3://bucket/test.parquet \
           --set execution.device=cuda --workers 8
    ... -- python study.py --stage evaluate studies/faces.yaml --set storage=s3://bucket/studies --jobs 16

`--stage` is `all` (the default), `prepare`, `generate`, `evaluate` or `report`, and comes first; every other argument
is the subcommand's. The job needs ray_unlearn on every node, and a storage and data that every node sees. The driver
runs on the head node and needs no GPU; workers take the GPUs. Every stage does what is not done yet, so a job that is
submitted again after a stop or a crash goes on. The exit code is 3 where runs failed. studies/digits.yaml needs no data
and about 10 minutes of two CPU cores. `ray-unlearn submit STUDY --stage STAGE` submits the same without a checkout.
"""

import argparse
import sys

from ray_unlearn.cli import main


def run() -> int:
    """Hand the arguments to the stage's subcommand; return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--stage", choices=("all", "prepare", "generate", "evaluate", "report"), default="all")
    known, arguments = parser.parse_known_args()
    return main([known.stage, *arguments])


if __name__ == "__main__":
    sys.exit(run())
