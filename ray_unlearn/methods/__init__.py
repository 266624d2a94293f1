"""One file per method, and the registry that knows them all.

    use = resolve(study, "finetune")             # MethodUse: validated options, identity, what it starts from
    METHODS["finetune"].run(model, data, use.options, rng)

A method is `def method(model, data, options, rng) -> None`: it changes `model` in place, loops only through
`training.fit`, and takes all randomness from `rng`. To add one: a file with a `METHOD`, and its line below.

Does not cover: where a run's model comes from and where it goes (`ray_unlearn.worker`).
"""

from collections.abc import Mapping

from ray_unlearn.methods import finetune, negative_gradient_plus, train, weights
from ray_unlearn.methods.method import Method as Method

METHODS: Mapping[str, Method] = {
    module.METHOD.name: module.METHOD for module in (train, weights, finetune, negative_gradient_plus)
}
