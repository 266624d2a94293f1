"""Task-vector negation: fine-tune on the forget set, and go as far the other way; NegMerge merges several such vectors.

    populations:
      negation: {method: task_vector, count: 64, lrs: [1.0e-3]}
      negmerge: {method: task_vector, preset: published_negmerge, count: 64}

1. For each rate in `lrs`, `repeats` times: fine-tune a copy of the original on the forget set; its task vector is its
   weights minus the original's.
2. Merge the vectors element by element. `mean`: their mean. `consensus`: their mean where all have the same sign, else
   zero.
3. Subtract `scale` times the merged vector from the original's weights. Running statistics stay the original's.

Source: Ilharco et al., Editing Models with Task Arithmetic (ICLR 2023); Kim et al., NegMerge: Sign-Consensual Weight
Merging for Machine Unlearning (ICML 2025). Read: naver-ai/negmerge README.md (the authors' prose; their code is not
there), Harry24k/machine-unlearning-pytorch torchunlearn/unlearn/nontrainers/negmerge.py (a port).

Caveats:
- Rates, epochs and scale have to be searched. The defaults are the port's, which merges repeats of one rate, picks that
  rate by retain minus forget accuracy, and has no weight decay.
- The paper merges models of different settings, as `published_negmerge` does.
- No step uses the retain set, so nothing protects its accuracy.

Does not cover: choosing `scale` by accuracy.
"""

from __future__ import annotations

import copy
import itertools
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.published import PLAIN, pinned
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule, unused
from ray_unlearn.training import fit


class TaskVectorOptions(Recipe):
    """Defaults: the port's, with one vector."""

    lr: Annotated[Float, unused(1e-4, "lrs")] = Field(1e-4, description="Not used: `lrs` is.")
    epochs: Float = Field(1.0, gt=0, description="Passes of each copy over forget.")
    optimizer: Optimizer = "sgd"
    lrs: tuple[Annotated[Float, Field(gt=0)], ...] = Field((1e-3,), min_length=1, description="Rates of the copies.")
    weight_decay: Float = Field(0.0, ge=0)
    schedule: Schedule = "constant"
    repeats: Int = Field(1, ge=1, description="Copies at each rate, which differ by the order of batches.")
    merge: Literal["mean", "consensus"] = Field(
        "mean", description="consensus: only where all have one sign (NegMerge)."
    )
    scale: Float = Field(1.0, ge=0, description="What the merged vector is multiplied by.")


def task_vector(model: nn.Module, data: RunData, options: TaskVectorOptions, rng: Seeds) -> None:
    """Subtract the merged task vector of copies that were fine-tuned on the forget set."""
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total, signs = ([torch.zeros_like(parameter) for parameter in own] for _ in range(2))
    settings = list(itertools.product(options.lrs, range(options.repeats)))
    for number, (lr, _) in enumerate(settings):
        tuned = copy.deepcopy(model)
        recipe = options.model_copy(update={"lr": lr})
        fit(tuned, data.unobserved(), recipe, rng, sets=("forget",), purpose=f"copy-{number}")
        moved = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for before, after, sums, agreed in zip(own, moved, total, signs, strict=True):
                sums.add_((after - before) / len(settings))
                agreed.add_((after - before).sign())
    with torch.no_grad():
        for parameter, mean, agreed in zip(own, total, signs, strict=True):
            keeps = torch.ones_like(agreed) if options.merge == "mean" else (agreed.abs() == len(settings))
            parameter.sub_(options.scale * keeps * mean)
    model.train()


METHOD = Method(
    name="task_vector",
    run=task_vector,
    options=TaskVectorOptions,
    starts_from="original",
    summary="Fine-tune copies on the forget set and subtract their merged task vector.",
    source="Ilharco et al., Editing Models with Task Arithmetic, ICLR 2023; Kim et al., NegMerge, ICML 2025",
    aliases={"NegMerge": {"merge": "consensus", "lrs": (1e-4, 5e-4, 1e-3), "repeats": 3}},
    opened="Harry24k/machine-unlearning-pytorch negmerge.py (port); naver-ai/negmerge README.md (authors' prose)",
    open=(
        "rates, epochs and scale: searched in the paper; the port's here",
        "which copies are merged: of all rates (paper) rather than of one (port)",
    ),
    cost="epochs x rates x repeats on forget",
    published={
        "published_negmerge": pinned(
            TaskVectorOptions, PLAIN, batch_size=128, lrs=(1e-4, 5e-4, 1e-3), repeats=3, merge="consensus"
        )
    },
)
