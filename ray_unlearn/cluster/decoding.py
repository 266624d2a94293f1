"""Decode a large source as a Ray Data job: slices stream through the cluster, shards go straight to the storage.

    for part in decode_with_ray(source.slices, job):
        ...

A task gets only its own slice. It returns names, ids and hashes through Ray, as JSON, slice by slice and in order;
pixels never pass through Ray, and no task or driver needs memory for all slices.

Does not cover: decoding one slice, which is `data.decode.decode_slice`, with and without Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray.data
from ray.exceptions import RayError

from ray_unlearn.data.decode import DECODED, DecodedSlice, DecodeJob, decode_slice
from ray_unlearn.data.rows import Slice
from ray_unlearn.errors import ClusterError


def decode_with_ray(slices: Sequence[Slice], job: DecodeJob) -> Iterator[DecodedSlice]:
    """Decode every slice on the cluster that this process is connected to; yield them in order, as they are done.

    Raises:
        ClusterError: the Ray Data job failed. A refused image is no such failure: its `DecodedSlice` has the error.

    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its notes on operators are not about the study
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.preserve_order = True

    references = [ray.put(part) for part in slices]

    def decode_row(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["id"])
        return {"decoded": DECODED.dump_json(decode_slice(ray.get(references[number]), number, job)).decode()}

    try:
        for row in ray.data.range(len(slices), override_num_blocks=len(slices)).map(decode_row).iter_rows():
            yield DECODED.validate_json(row["decoded"])
    except RayError as error:
        raise ClusterError(f"decoding on Ray failed: {str(error).strip().splitlines()[-1]}") from error
