"""Decode a study's images and draw its splits, as a Ray job. The same as `ray-unlearn prepare`, with its arguments.

    ray job submit --address http://127.0.0.1:8265 --working-dir jobs \
        -- python prepare.py studies/faces.yaml --set storage=s3://bucket/studies \
           --set data.train=s3://bucket/train.parquet --set data.test=s3://bucket/test.parquet

Needs: ray_unlearn installed on every node, storage and data that every node sees; no GPU, no worker: from 16,000 images
on, Ray Data decodes on all CPUs there are. Prints classes and the size of every set. What is decoded already stays.
`ray-unlearn submit STUDY --stage prepare` submits the same and needs no checkout.
"""

import sys

from ray_unlearn.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
