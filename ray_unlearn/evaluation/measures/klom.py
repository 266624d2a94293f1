"""KLOM: how differently margins are distributed over models, per example, as a divergence of histograms.

    result = klom(unlearned_UE, retrained_RE)           # margins, or phi, which is the margin up to its clipping
    result.retrained_to_unlearned.p95                   # KL(retrained || unlearned)
    result.unlearned_to_retrained.p95                   # KL(unlearned || retrained)
    null = klom(retrained_RE[::2], retrained_RE[1::2])  # never zero: it falls as runs are added

"Attribute-to-Delete" (arXiv 2410.23232) and "Easy Data Unlearning Bench" (arXiv 2602.16400). Margins are clipped to
+-100 and counted in 20 equal bins from the smallest to the largest of both populations; the divergence is in nats. The
second histogram's share is raised to 1e-5 wherever the first has any, and not renormalised, so that a result is
between 0 and log(1e5) = 11.5. The largest margin belongs to the last bin; both published programs lose it.

Read in RoyRin/data-unlearning-bench and in its successor, easydub/EasyDUB-code. KL(unlearned || retrained) is that of
the audit program, `unlearning/auditors/direct.py` at 09aa166, of the first commits of `src/run.py` with `src/eval.py`
(up to 9933524), and of EasyDUB, `easydub/eval.py` at 5de3c4c. From 6207d7d to the newest commit that was read, eb261f9,
data-unlearning-bench's `run.py` (in `src`, later in `unlearning_bench`) gives `kl_from_margins` the retrained models
first, which names them second, and computes KL(retrained || unlearned). On purpose different from all: the largest
margin is counted. From `direct.py`: 20 edges there make 19 bins, and the first sample alone is clipped. Both programs
of data-unlearning-bench renormalise the raised shares, EasyDUB does not: that changes 2e-4 at most.

Empty bins decide the value when runs are few. Between two samples of one Gaussian the mean over examples was 3.85 nats
at 16 runs each, 0.64 at 64, 0.26 at 128 and 0.05 at 512 (1000 examples, 5 draws): compare at equal numbers of runs.

Does not cover: which examples (forget, retain, validation: one call each), intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ray_unlearn.evaluation.compiled import pays
from ray_unlearn.evaluation.measures.measure import Measure, Pair
from ray_unlearn.evaluation.populations import FloatArray, compared
from ray_unlearn.evaluation.together import together

BINS = 20
CLIP = 100.0
"""Margins beyond +-100 count as +-100."""
FLOOR = 1e-5
"""Smallest share of a bin in the second histogram."""


def _p95(of_E: FloatArray) -> float:
    return float(np.percentile(of_E, 95))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Divergence:
    """KL of each example in one direction, in nats."""

    per_example: FloatArray
    """[E], float64."""

    @property
    def p95(self) -> float:
        """95th percentile over examples, linear between order statistics: the published summary."""
        return _p95(self.per_example)

    @property
    def mean(self) -> float:
        """Mean over examples."""
        return float(self.per_example.mean())


@dataclass(frozen=True, kw_only=True, slots=True)
class Klom:
    """KLOM in both directions, because published numbers use either."""

    retrained_to_unlearned: Divergence
    """KL(retrained || unlearned): large where retrained models are and unlearned ones are not."""
    unlearned_to_retrained: Divergence
    """KL(unlearned || retrained): large where unlearned models are and retrained ones are not."""


def klom(unlearned_UE: npt.ArrayLike, retrained_RE: npt.ArrayLike) -> Klom:
    """Return the divergence between the two populations' histograms for each example, in both directions.

    Args:
        unlearned_UE: margins of U unlearned models on E examples; U >= 1, but 100 is what the authors ask for.
        retrained_RE: margins of R retrained models on the same examples.

    Raises:
        EvaluationError: wrong shapes, no run, different examples, NaN or infinity.

    """
    unlearned_UE, retrained_RE = compared(unlearned_UE, retrained_RE)
    unlearned_EB, retrained_EB = _histograms(unlearned_UE, retrained_RE)
    return Klom(
        retrained_to_unlearned=Divergence(per_example=_kl(retrained_EB, unlearned_EB)),
        unlearned_to_retrained=Divergence(per_example=_kl(unlearned_EB, retrained_EB)),
    )


def _histograms(unlearned_UE: FloatArray, retrained_RE: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return each example's histograms over the runs of both sides as shares, [E, BINS], of clipped values."""
    if pays(unlearned_UE.size + retrained_RE.size):
        from ray_unlearn.evaluation.compiled.counts import binned

        unlearned_EB, retrained_EB = binned(unlearned_UE, retrained_RE, CLIP, BINS)
        return unlearned_EB / len(unlearned_UE), retrained_EB / len(retrained_RE)
    unlearned_UE, retrained_RE = np.clip(unlearned_UE, -CLIP, CLIP), np.clip(retrained_RE, -CLIP, CLIP)
    low_E = np.minimum(unlearned_UE.min(axis=0), retrained_RE.min(axis=0))
    high_E = np.maximum(unlearned_UE.max(axis=0), retrained_RE.max(axis=0))
    return _shares(unlearned_UE, low_E, high_E), _shares(retrained_RE, low_E, high_E)


def _shares(margins_RE: FloatArray, low_E: FloatArray, high_E: FloatArray) -> FloatArray:
    """Return each example's histogram over runs as shares, [E, BINS]; bins are left-closed, the last one closed."""
    runs, examples = margins_RE.shape
    width_E = np.where(high_E > low_E, high_E - low_E, 1)  # one value everywhere: all in the first bin
    place_RE = margins_RE - low_E
    place_RE *= BINS
    place_RE /= width_E
    np.minimum(place_RE, BINS - 1, out=place_RE)
    flat_RE = place_RE.astype(np.intp)
    flat_RE += np.arange(examples) * BINS
    counts_EB = np.bincount(flat_RE.ravel(), minlength=examples * BINS).reshape(examples, BINS)
    return np.asarray(counts_EB / runs, dtype=np.float64)


def _kl(first_EB: FloatArray, second_EB: FloatArray) -> FloatArray:
    """Return sum of first * log(first / max(second, FLOOR)) over the bins where first is not empty, [E]."""
    total_E: FloatArray = _terms(first_EB, second_EB).sum(axis=1)
    return total_E


def _terms(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return what a bin adds by its shares in both histograms."""
    ratio = np.where(first > 0, first, 1) / np.where(first > 0, np.maximum(second, FLOOR), 1)
    return np.asarray(first * np.log(ratio))


@lru_cache(maxsize=4)
def _terms_by_count(first: int, second: int) -> FloatArray:
    """Return what a bin adds by the runs in it, of so many on either side, [first + 1, second + 1]."""
    return _terms((np.arange(first + 1) / first)[:, None], (np.arange(second + 1) / second)[None, :])


def klom_together(pairs: Sequence[Pair], split: str) -> list[Klom] | None:
    """Return `klom` of each of several subsets of the same runs; None where one by one is the way."""
    if split not in pairs[0].unlearned.splits or split not in pairs[0].reference.splits:
        return None
    sizes = {(len(pair.unlearned), len(pair.reference)) for pair in pairs}
    (unlearned, retrained), images = max(sizes), len(pairs[0].unlearned.splits[split].labels_N)
    if len(sizes) > 1 or not pays((unlearned + retrained) * images) or not (found := together(pairs, split)):
        return None
    from ray_unlearn.evaluation.compiled.histograms import divergences

    both = _terms_by_count(retrained, unlearned), _terms_by_count(unlearned, retrained)
    sides, members = (found.unlearned.ordered, found.reference.ordered), (found.member_KU, found.member_KR)
    return [
        Klom(
            retrained_to_unlearned=Divergence(per_example=one_E), unlearned_to_retrained=Divergence(per_example=other_E)
        )
        for one_E, other_E in zip(*divergences(*sides, members, CLIP, BINS, both), strict=True)
    ]


def _direction(found: Klom, way: str) -> Divergence:
    return found.retrained_to_unlearned if way == "retrained_to_unlearned" else found.unlearned_to_retrained


def on_forget(pair: Pair) -> Klom:
    """Return both directions on the forget images."""
    return klom(*pair.phi("forget"))


def on_retain(pair: Pair) -> Klom:
    """Return both directions on retain images."""
    return klom(*pair.phi("retain"))


def on_validation(pair: Pair) -> Klom:
    """Return both directions on validation images."""
    return klom(*pair.phi("validation"))


def on_test(pair: Pair) -> Klom:
    """Return both directions on test images."""
    return klom(*pair.phi("test"))


ON = {"forget": on_forget, "retain": on_retain, "validation": on_validation, "test": on_test}
"""Computation of both directions by split, shared by their measures."""


def _computation(split: str, way: str) -> tuple[Callable[[Pair], float], Callable[[Pair], tuple[float, float] | None]]:
    """Return one direction's summary of one split, and that on two halves of its images."""

    def compute(pair: Pair) -> float:
        return _direction(pair.once(ON[split]), way).p95

    def halves(pair: Pair) -> tuple[float, float] | None:
        half_E, of_E = pair.half_of(split), _direction(pair.once(ON[split]), way).per_example
        return None if half_E is None else (_p95(of_E[half_E]), _p95(of_E[~half_E]))

    return compute, halves


_DEVIATION = (
    "the largest margin is counted in the last bin, and the published programs lose it; a raised share of an empty bin "
    "is not renormalised, which changes 2e-4 at most"
)


def _measures(split: str) -> dict[str, Measure]:
    ending, on = ("", "") if split == "forget" else (f"_{split}", f" on {split}")
    directions = (
        ("retrained_to_unlearned", "retrained || unlearned", "data-unlearning-bench, as its program computes it"),
        (
            "unlearned_to_retrained",
            "unlearned || retrained",
            "Attribute-to-Delete, 2024; EasyDUB, 2026",
        ),
    )
    return {
        f"klom_{name}{ending}": Measure(
            label=f"KLOM ({sides}){on}",
            better="low",
            meaning=f"95th percentile over {split} images of the KL divergence of binned margins, nats",
            source=source,
            deviation=_DEVIATION,
            needs=(split,),
            error=0.5,
            compute=compute,
            halves=halves,
        )
        for name, sides, source in directions
        for compute, halves in [_computation(split, name)]
    }


MEASURES = {name: one for split in ON for name, one in _measures(split).items()}
