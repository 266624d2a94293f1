"""Toshi-K + Marvel: two methods share a population; one turns kernels over, the other teaches pseudo-labels.

    populations:
      toshi_marvel: {method: toshi_marvel, count: 512}                       # 246 transposed, 266 with pseudo-labels
      transposed:   {method: toshi_marvel, count: 64, variant: transpose}

`transpose` (Toshi-K):
1. Swap height and width of every convolution's kernel.
2. Minimise cross-entropy on the retain set.

`pseudo_label` (Marvel):
1. Fine-tune one copy of the original on the retain set, and train another there from scratch.
2. Choose the forget images that both copies get wrong; their labels become what the copy from scratch says.
3. Minimise cross-entropy on the retain set and the chosen images together. Where none is chosen, on retain alone.

`mix`: a run's index chooses the variant, so that any first N runs are in proportion (`shares`).

Citation: NeurIPS 2023 Machine Unlearning Challenge, 5th place, marvelworld/toshi-k-rotate-and-marvel-pseudo-blend48-52;
"CT" in the literature is the transposing half.

Caveats: rates and epochs of `pseudo_label` are not published; the defaults are the other half's, also for its copies.
The description does not say whether one copy's mistake suffices, nor whose label counts; both must err here, and the
copy from scratch names the label, because it alone never saw the image. `transpose` draws nothing but the order of
batches. Shares of 266 and 246 scored lower (0.0756). With several originals the index also chooses the original, and
nearly equal shares alternate: give an odd number of originals, or each variant a population of its own.

Does not cover: class weights, layer-wise rates, RelaxLoss, which the team tried and left out.
"""

from __future__ import annotations

import copy
from typing import Literal

import numpy as np
from pydantic import Field
from torch import nn

from ray_unlearn.data.images import ImageSet, RunData
from ray_unlearn.methods.method import Method
from ray_unlearn.methods.perturbations import scratch_copy, transpose_kernels
from ray_unlearn.methods.shares import part_of
from ray_unlearn.seeds import Seeds
from ray_unlearn.study.recipe import Float, Int, Optimizer, Recipe, Schedule
from ray_unlearn.training import fit, predict


class ToshiMarvelOptions(Recipe):
    """Defaults: as published for `transpose`; `pseudo_label` has the same for want of its own."""

    epochs: Float = Field(3.0, gt=0, description="Passes over what the variant trains on (published for transpose).")
    optimizer: Optimizer = Field("sgd", description="Published; momentum 0.9.")
    lr: Float = Field(1e-3, gt=0, description="Published for transpose.")
    weight_decay: Float = Field(5e-4, ge=0, description="Published for transpose.")
    schedule: Schedule = Field("cosine", description="Published for transpose.")
    variant: Literal["transpose", "pseudo_label", "mix"] = Field("mix", description="Published: mix.")
    transpose_share: Int = Field(246, ge=1, description="Runs of `transpose` in a mix (published: of 512).")
    pseudo_label_share: Int = Field(266, ge=1, description="Runs of `pseudo_label` in a mix (published: of 512).")
    scratch_epochs: Float = Field(3.0, gt=0, description="pseudo_label: passes of the copy from scratch over retain.")
    scratch_lr: Float = Field(1e-3, gt=0, description="pseudo_label: rate of the copy from scratch.")


def toshi_marvel(model: nn.Module, data: RunData, options: ToshiMarvelOptions, rng: Seeds) -> None:
    """Apply the variant, or the one that the run's index chooses."""
    part = part_of(rng.run, (options.transpose_share, options.pseudo_label_share))
    variant = ("transpose", "pseudo_label")[part] if options.variant == "mix" else options.variant
    if variant == "transpose":
        transpose_kernels(model)
        fit(model, data, options, rng)
    else:
        fit(model, data, options, rng, sets=(_with_pseudo_labels(model, data, options, rng),))


def _with_pseudo_labels(model: nn.Module, data: RunData, options: ToshiMarvelOptions, rng: Seeds) -> ImageSet:
    """Return the retain set, joined by the forget images that both helpers get wrong under the second's labels."""
    finetuned, scratch = copy.deepcopy(model), scratch_copy(model, rng, "scratch")
    recipe = options.model_copy(update={"epochs": options.scratch_epochs, "lr": options.scratch_lr})
    fit(finetuned, data.unobserved(), options, rng, purpose="finetuned")
    fit(scratch, data.unobserved(), recipe, rng, purpose="scratch")
    first, second = (predict(helper, data.forget).argmax(1) for helper in (finetuned, scratch))
    wrong = np.flatnonzero((first != data.forget.labels_N) & (second != data.forget.labels_N))
    return data.retain.joined(data.forget.subset(wrong).with_labels(second[wrong]))


METHOD = Method(
    name="toshi_marvel",
    run=toshi_marvel,
    options=ToshiMarvelOptions,
    starts_from="original",
    summary="Transpose the kernels and repair, or teach pseudo-labels; the run's index chooses, 246 to 266.",
    source="NeurIPS 2023 Machine Unlearning Challenge, 5th place (Toshi-K and Marvel)",
    cost="transpose: epochs on retain; pseudo_label: 2 x epochs + scratch_epochs on retain, and a few forget images",
    published={"competition": {}},
)
