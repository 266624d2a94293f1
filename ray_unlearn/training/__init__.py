"""fit() and predict(): the only two places where a batch meets a model.

    fit(model, data, recipe, rng)                                    # cross-entropy on the retain set
    fit(model, data, recipe, rng, sets=("retain", "forget"), loss=my_loss)
    logits_NC = predict(model, data.forget)

Does not cover: which objective a method minimises (`ray_unlearn.methods`).
"""

from ray_unlearn.training.batches import Batch as Batch
from ray_unlearn.training.loop import Training as Training
from ray_unlearn.training.loop import fit as fit
from ray_unlearn.training.objective import class_weights as class_weights
from ray_unlearn.training.objective import cross_entropy as cross_entropy
from ray_unlearn.training.objective import inverse_counts as inverse_counts
from ray_unlearn.training.prediction import accuracy_and_loss as accuracy_and_loss
from ray_unlearn.training.prediction import predict as predict
from ray_unlearn.training.step import Hooks as Hooks
