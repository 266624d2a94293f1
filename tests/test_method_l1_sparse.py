"""l1-sparse, worked by hand: the penalty, over which parameters, and how it fades."""

from __future__ import annotations

from itertools import chain

import pytest
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data, same_weights
from torch.nn import functional as F  # noqa: N812 - its usual name

from ray_unlearn.methods.finetune import FinetuneOptions, finetune
from ray_unlearn.methods.l1_sparse import L1SparseOptions, l1_sparse
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="sparse")
BASE = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1, "batch_size": 4, "schedule": "constant"}


@pytest.mark.parametrize(
    ("epochs", "gammas"), [(4, [0.08, 0.06, 0.04, 0.02]), (1, [0.08]), (2.5, [0.08, 0.048, 0.016])]
)
def test_every_step_by_hand(tmp_path, epochs, gammas):
    """Law: CE(retain) + 0.08 (1 - t / T) * sum |p| over all parameters, t counting whole epochs from 0."""
    data, model = run_data(tmp_path, retain=8, forget=5), SmallConv()
    hand = copy_of(model)
    l1_sparse(model, data, L1SparseOptions(**BASE, epochs=epochs, alpha=0.08), RNG)
    assert len(model.trained_on) == 2 * epochs
    assert set(chain(*model.trained_on)) == set(range(8))
    optimizer = HandSGD(hand, 0.9, 0.1)
    for step, indices in enumerate(model.trained_on):
        images, labels = batch_of(data, indices)
        norm = sum(p.abs().sum() for p in hand.parameters())
        optimizer.step(F.cross_entropy(hand(images), labels) + gammas[step // 2] * norm, 0.02)
    assert close(model, hand)


def test_without_penalty_it_is_finetuning(tmp_path):
    """Law: alpha 0 gives the bits of `finetune` with the same recipe."""
    data, model, plain = run_data(tmp_path), SmallConv(), SmallConv()
    l1_sparse(model, data, L1SparseOptions(**BASE, epochs=2, alpha=0.0), RNG)
    finetune(plain, data, FinetuneOptions(**BASE, epochs=2), RNG)
    assert same_weights(model.state_dict(), plain.state_dict())
