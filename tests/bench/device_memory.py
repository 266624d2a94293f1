"""How much of a GPU's memory a block took at most, as nvidia-smi sees it: all processes, contexts included.

    with watched("cuda") as memory:
        ...                                      # starts processes that use the GPU
    memory.peak_mb                               # None on a CPU, and where nvidia-smi does not answer

Asked once a second; what was in use before is subtracted, so others should leave the device alone. This process needs
no context of its own for it.

Does not cover: what of it the allocator keeps and no one uses.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sampler import Sampler

_EVERY_S = 1.0
_ANSWER_S = 10.0


@dataclass(slots=True)
class Watched:
    """What was seen."""

    peak_mb: float | None = None
    """MB, 10^6 bytes, more than before the block; known after it."""


@contextmanager
def watched(device: str) -> Iterator[Watched]:
    """Watch the device's memory during the block."""
    found = Watched()
    before = used_mb() if device == "cuda" else None
    if before is None:
        yield found
        return
    with Sampler(used_mb, _EVERY_S) as sampler:
        yield found
    found.peak_mb = max([0.0, *(seen - before for seen in sampler.samples if seen is not None)])


def used_mb() -> float | None:
    """Return the memory in use on the first visible GPU, MB; None where nvidia-smi does not report it."""
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    command = ["nvidia-smi", f"--id={which}", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True)
        return float(done.stdout) * 2**20 / 1e6
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
