"""Where and how fast a study's runs are made: its `execution` block.

    Execution(workers=4, gpus_per_worker=0.25)

Does not cover: anything that changes a result; the other blocks do (`schema`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ray_unlearn.study.recipe import Block, Float, Int


class Execution(Block):
    """Where and how fast; never changes a result on the same kind of device, but for the thread count.

    `cuda_graph` and `deterministic` change the last bits on a GPU: leave them as they are inside a study.
    """

    workers: Annotated[Int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="auto: as many as the cluster has room for."
    )
    cpus_per_worker: Int = Field(1, ge=1, description="Also the thread count of a run, on every backend.")
    gpus_per_worker: Annotated[Float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="auto: 1 where the device is cuda, else 0."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where the cluster has GPUs.")
    interleave: bool = Field(
        True, description="Run 0 of every population, then run 1 of every, ..., so that all can be compared early."
    )
    max_attempts: Int = Field(2, ge=1, description="Tries per run before it is recorded as failed.")
    deterministic: bool = Field(True, description="Deterministic algorithms on the GPU; the CPU always is.")
    device_budget_gib: Float = Field(
        8.0, ge=0, description="Decoded images up to this size live on the GPU, once per worker that shares it."
    )
    cuda_graph: bool = Field(
        True,
        description="GPUs replay the training step as one captured graph where nothing in it is Python's to decide; "
        "with and without agree to rounding, and each repeats itself bit for bit where deterministic.",
    )
    run_timeout_s: Float | None = Field(
        None, gt=0, description="A run that takes longer is ended with its worker; Ray only. Default: no limit."
    )
    recycle_growth_gib: Float = Field(
        4.0, gt=0, description="A worker that holds this much more memory than after its first run is replaced."
    )
