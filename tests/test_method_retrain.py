"""retrain: `train` on the retain set, by another name."""

from __future__ import annotations

import pytest
from conftest import TINY, merged
from nets import Linear
from samples import digit_runs, run_data, same_weights

from ray_unlearn.errors import StudyError
from ray_unlearn.methods import METHODS
from ray_unlearn.methods.resolve import method_of, resolve
from ray_unlearn.methods.retrain import RetrainOptions
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import parse_study


def test_it_sees_each_retain_image_once_per_epoch_and_no_other(tmp_path):
    """Law: a retrained model never sees the forget set, nor a held-out image."""
    model = Linear()
    METHODS["retrain"].run(model, run_data(tmp_path), RetrainOptions(epochs=2.0, batch_size=5), Seeds(study=0))
    assert sorted(model.seen) == sorted(2 * list(range(20)))


def test_it_is_train_on_retain(tmp_path):
    """Law: the same weights, bit for bit, as `{method: train, on: retain}` of the same study, population and run."""
    how = {"epochs": 2.0, "lr": 3e-3, "batch_size": 8}
    first, again, other = digit_runs(tmp_path, "retrain", **how)
    assert same_weights(first, again)
    assert not same_weights(first, other)

    def uses(**spec):
        tree = merged(TINY, {"populations": {"retrained": {**spec, "count": 2}}})
        return resolve(parse_study(tree, where="test"), "retrained")

    alias, plain = uses(method="retrain"), uses(method="train", on="retain")
    assert alias.options.model_dump() == plain.options.model_dump()
    assert alias.starts_from == plain.starts_from == "scratch"
    assert method_of(alias).run is method_of(plain).run
    assert method_of(alias).inherits == method_of(plain).inherits
    assert alias.options.optimizer == TINY["training"]["optimizer"]
    assert alias.options.lr == TINY["training"]["lr"]


def test_the_forget_set_cannot_be_asked_for():
    """Law: `on` is fixed."""
    tree = merged(TINY, {"populations": {"mine": {"method": "retrain", "on": "train"}}})
    with pytest.raises(StudyError, match=r"populations\.mine\.on: input should be 'retain'; found"):
        resolve(parse_study(tree, where="test"), "mine")
