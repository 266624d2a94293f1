#!/bin/sh
# Every figure of a GPU in one table, in 12 minutes: tests/bench/on_gpu.py says what it measures. Needs no Ray.
#   tests/bench/on_gpu.sh                              # a GPU, and cifar10/train.parquet and test.parquet in --cifar FOLDER
#   tests/bench/on_gpu.sh --dry                        # the same rows on two CPU cores, tiny, in some minutes
set -e
cd "$(dirname "$0")/../.."
exec uv run --no-sync python tests/bench/on_gpu.py "$@"
