"""A complete study on scikit-learn's digits: no download, under two minutes on two cores.

    summary = quickstart(Path("ray-unlearn-quickstart"))

It writes a study file, trains an original, and makes 16 retrained checkpoints and 16 of each of two unlearning methods,
with two workers: one method comes near retraining, the other does not.

Does not cover: scores and the report, which `ray-unlearn quickstart` adds.
"""

from __future__ import annotations

from pathlib import Path

from ray_unlearn.errors import write_text, writing
from ray_unlearn.generation import Summary, generate
from ray_unlearn.generation.backends import BackendName
from ray_unlearn.study import load_study

STUDY = """\
# The quickstart's study: 400 of scikit-learn's handwritten digits, one tenth of them to be forgotten.
# Change it and run `ray-unlearn all` on it: raise a count, add a population; only what is missing is made.
name: digits
storage: .
seed: 0
data:
  train: digits
  test: digits
  image_size: 16
  limit: 400
  forget: {fraction: 0.1}
model: {arch: small_cnn}
training: {epochs: 15, optimizer: adam, lr: 3.0e-3, weight_decay: 5.0e-4, schedule: cosine, batch_size: 64}
populations:
  original:  {method: train, on: train,  count: 1}
  retrained: {method: train, on: retain, count: 16}
  kookmin:   {method: kookmin, count: 16, epochs: 7, lr: 2.0e-2}
  ascent:    {method: negative_gradient_plus, count: 16, alpha: 0.8, epochs: 3, lr: 1.0e-2}
outputs: {splits: [retain, forget, test]}
execution: {workers: 2}
evaluation: {reference: retrained}
"""

READING = (
    "how to read it: F, between 0 and 1, is how hard it is to tell unlearned from retrained models by their answers on "
    "the forgotten images. null F is what retrained models get against each other, 8 against 8 in random halvings: "
    "compare F at 8 with it. score = F x RA x TA; RA and TA are accuracies on retained and on test images, divided by "
    "those of retrained models."
)
"""The sentences that say what the columns of the scores mean."""

WHY = (
    "why they differ: retrained models differ from one another, because each begins from other weights. kookmin draws "
    "a third of the original's weights anew for every seed and trains on, so its models differ as retrained ones do. "
    "ascent only pushes the original away from the forgotten images: it stays near the original with every seed."
)
"""The sentences below them: the mechanism, not the numbers, which are those of the machine."""


def why(file: Path) -> list[str]:
    """Return what the scores mean and why they differ, where the study file is still the one that was written."""
    return [READING, WHY] if file.read_text(encoding="utf-8") == STUDY else []


def quickstart(folder: Path, backend: BackendName = "auto") -> tuple[Path, Summary]:
    """Write the study file unless it exists, and generate the study; return the file and the summary.

    Raises:
        RayUnlearnError: the folder cannot be written, or anything that `generate` refuses.

    """
    file = folder / "study.yaml"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_text(file, STUDY)
    return file, generate(load_study(file), backend=backend)
