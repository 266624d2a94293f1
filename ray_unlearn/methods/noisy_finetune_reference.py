"""The reference of certified noisy fine-tuning: the same noise and fine-tuning, after a start that knows nothing.

    populations:
      certified: {method: noisy_finetune, epsilon: 4.0, count: 64}
      reference: {method: noisy_finetune_reference, epsilon: 4.0, count: 64}
    evaluation: {reference: reference}

The statement of `noisy_finetune` holds for any two starts. This one is a fresh initialisation of the run's own, so that
nothing of the forget set is in it. Both populations have the same options; a study in which they differ is refused.

Source: Koloskova et al., Certified Unlearning for Neural Networks (ICML 2025), whose definition compares with an
algorithm that never saw the forget set. Read: stair-lab/certified-unlearning-neural-networks-icml-2025
src/training/trainer.py (the authors').

Caveats: the authors' definition leaves that algorithm open; another choice is the same noise after a retrained model.

Does not cover: retraining without noise (`retrain`).
"""

from __future__ import annotations

from ray_unlearn.methods.method import Method
from ray_unlearn.methods.noisy_finetune import PUBLISHED, NoisyFinetuneOptions, noisy_finetune

METHOD = Method(
    name="noisy_finetune_reference",
    run=noisy_finetune,
    options=NoisyFinetuneOptions,
    starts_from="scratch",
    summary="The reference of noisy_finetune: its noise and fine-tuning after a fresh start.",
    source="Koloskova et al., Certified Unlearning for Neural Networks, ICML 2025",
    opened="stair-lab/certified-unlearning-neural-networks-icml-2025 src/training/trainer.py (authors')",
    open=("what the statement compares with: an algorithm without the forget set, here the same from a fresh start",),
    cost="`steps` batches with noise, then `epochs` on retain",
    published=PUBLISHED,
)
