"""JiT, worked by hand: the local Lipschitz constant on noisy copies of the forget images, and its steps."""

from __future__ import annotations

import torch
from nets import HandSGD, SmallConv, batch_of, close, copy_of
from samples import run_data

from ray_unlearn.methods.jit import JitOptions, jit
from ray_unlearn.seeds import Seeds

RNG = Seeds(study=0, population="jit")


def test_every_step_by_hand(tmp_path):
    """Law: plain SGD on the sum over images of the mean over copies of |f(x) - f(x')| / |x - x'|, f(x') held fixed.

    x' is x with noise, clamped to the batch's range.
    """
    data, model = run_data(tmp_path, forget=6), SmallConv()
    hand, generator = copy_of(model), RNG.torch("image-noise")
    jit(model, data, JitOptions(lr=0.01, noise_std=20.0, samples=2, batch_size=3, epochs=2.0), RNG)
    seen = [batch for batch in model.trained_on if len(batch) == 3]
    originals = seen[::3]  # each batch is followed by its two noisy copies
    assert len(originals) == 4
    assert all(min(batch) >= 20 for batch in originals)
    optimizer = HandSGD(hand, 0.0, 0.0)
    for indices in originals:
        images, _ = batch_of(data, indices)
        out, total = hand(images), 0.0
        for _ in range(2):
            noisy = images + 20.0 * torch.randn(images.shape, generator=generator)
            noisy = noisy.clamp(float(images.min()), float(images.max()))
            moved = hand(noisy).detach()
            for i in range(3):
                apart = float(((images[i] - noisy[i]) ** 2).sum()) ** 0.5
                total = total + ((out[i] - moved[i]) ** 2).sum().sqrt() / apart
        optimizer.step(total / 2, 0.01)
    assert close(model, hand)
    assert not close(model, SmallConv())
