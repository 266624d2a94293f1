"""Decode a large source as a Ray Data job: slices stream through the cluster, shards go straight to the storage.

    for part in decode_with_ray(source.slices, job):
        ...

Only names, ids and hashes come back through Ray, as JSON; pixels never do.

Does not cover: how a slice is decoded; that is `data.decode.decode_slice`, here and in place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import ray.data
from pydantic import TypeAdapter
from ray.exceptions import RayError

from ray_unlearn.data.decode import DecodedSlice, DecodeJob, decode_slice
from ray_unlearn.data.rows import Slice
from ray_unlearn.errors import ClusterError

_DECODED = TypeAdapter(DecodedSlice)


def decode_with_ray(slices: Sequence[Slice], job: DecodeJob) -> Iterable[DecodedSlice]:
    """Decode every slice on the cluster that this process is connected to; return them in order.

    Raises:
        ClusterError: the Ray Data job failed (not: an image was refused, which a `DecodedSlice` says).

    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its notes on operators are not about the study
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False

    def decode_row(row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["id"])
        decoded = decode_slice(slices[number], number, job)
        return {"number": number, "decoded": _DECODED.dump_json(decoded).decode()}

    try:
        rows = ray.data.range(len(slices), override_num_blocks=len(slices)).map(decode_row).take_all()
    except RayError as error:
        raise ClusterError(f"decoding on Ray failed: {str(error).strip().splitlines()[-1]}") from error
    return [_DECODED.validate_json(row["decoded"]) for row in sorted(rows, key=lambda row: int(row["number"]))]
