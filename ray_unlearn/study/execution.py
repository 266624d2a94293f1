"""Where and how fast a study's runs are made: its `execution` block.

    Execution(workers=4, gpus_per_worker=0.25)

Does not cover: keys that change results, which are in the other blocks (`schema`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ray_unlearn.study.recipe import Block, Float, Int


class Execution(Block):
    """Where and how fast runs are made; on the same kind of device, only the thread count changes results.

    `cuda_graph` and `deterministic` change the last bits on a GPU: leave them as they are inside a study.
    """

    workers: Annotated[Int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="Number of workers. auto: as many as the cluster has resources for."
    )
    cpus_per_worker: Int = Field(1, ge=1, description="CPU cores per worker; also the thread count of every run.")
    gpus_per_worker: Annotated[Float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="GPUs per worker. auto: 1 where the device is cuda, else 0."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device of the runs. auto: cuda where the cluster has GPUs."
    )
    interleave: bool = Field(
        True, description="Run 0 of every population, then run 1 of every, ..., so that all can be compared early."
    )
    max_attempts: Int = Field(2, ge=1, description="Tries per run before it is recorded as failed.")
    deterministic: bool = Field(True, description="Use deterministic algorithms on the GPU; CPUs always do.")
    device_budget_gib: Float = Field(
        8.0,
        ge=0,
        description="Largest set of decoded images, in GiB, that every worker keeps on its GPU.",
    )
    cuda_graph: bool = Field(
        True,
        description="On GPUs, replay the training step as one captured graph, where no Python code decides within it. "
        "Results with and without agree to rounding, and each repeats bit for bit where deterministic.",
    )
    run_timeout_s: Float | None = Field(
        None, gt=0, description="Seconds after which a run is ended with its worker; Ray only. Default: no limit."
    )
    recycle_growth_gib: Float = Field(
        4.0, gt=0, description="GiB of memory growth since its first run after which a worker is replaced."
    )
