"""Outputs of shadows, read pair by pair, and fitted in blocks of images: memory does not grow with shadows.

    for pair in pairs_of(store, "shadows", records, sizes): ...        # one value inside and one outside for each image
    with ShadowPhi(store, "shadows", records, sizes) as phi:
        fits = phi.fits()                        # {"forget": ShadowFit(...), "test": ...}

Runs 2k and 2k+1 are trained on complementary halves, so each image has one model of the pair that was trained on it
and one that was not. phi of both goes to a scratch file in the folder for temporary files, 16 bytes for each image and
pair; medians are computed of blocks of images that fit into `BLOCK_BYTES`. Of an image that no shadow is trained on,
such as a test image, one model of the pair, drawn at random, counts as outside: fits of all images rest on equally many
models.

Shadows that another program made are not trained on complementary halves (`store.membership.stated_half`). Of each
image, the k-th run that was trained on it and the k-th that was not make its pair k; there are as many pairs as every
image has.

Does not cover: attacks (`shadow_attacks`), and which images a run was trained on (`store.membership`).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from ray_unlearn.errors import StoreError
from ray_unlearn.evaluation.confidence import probability_of
from ray_unlearn.evaluation.outputs import SplitOutputs, read_outputs, read_run, same_images
from ray_unlearn.evaluation.populations import FloatArray
from ray_unlearn.evaluation.shadow_fits import ShadowFit, Side
from ray_unlearn.store import Record, StudyStore
from ray_unlearn.store.membership import HALVED, half_of, members_of, stated_half

BLOCK_BYTES = 8 * 2**20
"""Bytes of phi that are in memory at once."""
LEAST_PAIRS = 4
"""Pairs below which nothing is fitted."""
_VALUE = 8
_READERS = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairSplit:
    """One split under a pair of models: for each image the one that was trained on it, and the one that was not."""

    positions_N: npt.NDArray[np.int64]
    labels_N: npt.NDArray[np.int64]
    inside_N: FloatArray
    """phi; of an image that neither was trained on, of either."""
    outside_N: FloatArray
    inside_correct_N: npt.NDArray[np.bool_]
    outside_correct_N: npt.NDArray[np.bool_]


def complete_pairs(records: Mapping[int, Record]) -> list[int]:
    """Return the numbers k of the pairs of which both runs, 2k and 2k + 1, are made, ascending."""
    return [index // 2 for index in sorted(records) if index % 2 == 0 and index + 1 in records]


def pairs_of(
    store: StudyStore,
    population: str,
    records: Mapping[int, Record],
    sizes: Mapping[str, int],
    shadows: str = "",
) -> Iterator[dict[str, PairSplit]]:
    """Yield each complete pair's outputs by split; two pairs at most are in memory.

    Args:
        store: the study's folder.
        population: shadows, or models that started from them.
        records: by run index.
        sizes: number of retain and forget images.
        shadows: name of the shadows, where they are another population.

    Raises:
        StoreError: a file is missing or damaged, a half differs from its record, or runs have outputs of other images.

    """
    pairs, shadows = complete_pairs(records), shadows or population
    if records and stated_half(next(iter(records.values())), sizes) is not None:
        yield from _stated_pairs(store, population, records, sizes)
        return

    def read(pair: int) -> dict[str, PairSplit]:
        runs = [read_run(store, population, index, records[index]) for index in (2 * pair, 2 * pair + 1)]
        members = members_of(records[2 * pair], shadows, sizes)
        members_of(records[2 * pair + 1], shadows, sizes)  # compared with its record
        seed = records[2 * pair].seeds["study"]
        if not same_images(*runs):
            raise StoreError(f"{store.uri}: {population}: runs of pair {pair} have outputs of other images")
        found = {}
        for name, even in runs[0].items():
            held_out = half_of(seed, shadows, 2 * pair, name, int(even.positions_N.max()) + 1)
            found[name] = _split(even, runs[1][name], members.get(name, held_out)[even.positions_N])
        return found

    first: dict[str, PairSplit] = {}
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(pairs), _READERS):
            some = pairs[start : start + _READERS]
            for pair, found in zip(some, list(readers.map(read, some)), strict=True):
                first = first or found
                if not same_images(first, found):
                    raise StoreError(f"{store.uri}: {population}: pair {pair} has outputs of other images than others")
                yield found


def _split(even: SplitOutputs, odd: SplitOutputs, mine_N: npt.NDArray[np.bool_]) -> PairSplit:
    """Return a split under a pair; `mine_N`: whether the even run was trained on the image."""
    phi, correct = (even.phi_RN[0], odd.phi_RN[0]), (even.correct_RN[0], odd.correct_RN[0])
    return PairSplit(
        positions_N=even.positions_N,
        labels_N=even.labels_N,
        inside_N=np.where(mine_N, *phi),
        outside_N=np.where(mine_N, *phi[::-1]),
        inside_correct_N=np.where(mine_N, *correct),
        outside_correct_N=np.where(mine_N, *correct[::-1]),
    )


def _stated_pairs(
    store: StudyStore, population: str, records: Mapping[int, Record], sizes: Mapping[str, int]
) -> Iterator[dict[str, PairSplit]]:
    """Yield pairs of shadows whose records hold what they were trained on; all outputs are in memory."""
    outputs = read_outputs(store, population, records)
    halves = [members_of(record, population, sizes) for record in outputs.records]
    members = {
        name: np.stack([half[name][split.positions_N] for half in halves])
        for name, split in outputs.splits.items()
        if name in HALVED
    }
    pairs = min(int(min(mine_RN.sum(0).min(), (~mine_RN).sum(0).min())) for mine_RN in members.values())
    orders = {
        name: [np.argsort(side, axis=0, kind="stable") for side in (~mine_RN, mine_RN)]
        for name, mine_RN in members.items()
    }
    for pair in range(pairs):
        found = {}
        for name, split in outputs.splits.items():
            columns = np.arange(len(split.positions_N))
            inside, outside = [order[pair] for order in orders[name]] if name in orders else (2 * pair, 2 * pair + 1)
            found[name] = PairSplit(
                positions_N=split.positions_N,
                labels_N=split.labels_N,
                inside_N=split.phi_RN[inside, columns],
                outside_N=split.phi_RN[outside, columns],
                inside_correct_N=split.correct_RN[inside, columns],
                outside_correct_N=split.correct_RN[outside, columns],
            )
        yield found


class ShadowPhi:
    """phi of all complete pairs in a scratch file, inside and outside, and what is fitted to it."""

    def __init__(
        self, store: StudyStore, population: str, records: Mapping[int, Record], sizes: Mapping[str, int]
    ) -> None:
        """Read all pairs; errors as `pairs_of`."""
        self.pairs = 0
        """Pairs that were read."""
        self._file = tempfile.TemporaryFile(prefix="ray-unlearn-shadows-")  # noqa: SIM115  `__exit__` closes it
        self._sizes: dict[str, int] = {}
        """Images by split, in the order of the file."""
        try:
            for pair in pairs_of(store, population, records, sizes):
                self._append(pair)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, pair: Mapping[str, PairSplit]) -> None:
        self.pairs += 1
        self._sizes = {name: len(split.positions_N) for name, split in pair.items()}
        for split in pair.values():
            self._file.write(split.inside_N.astype(np.float64).tobytes())
            self._file.write(split.outside_N.astype(np.float64).tobytes())

    def blocks(self, split: str) -> Iterator[tuple[slice, FloatArray]]:
        """Yield (images, phi [2, pairs, images]) of a split, inside first, a block of images at a time."""
        self._file.flush()
        images, row = self._sizes[split], 2 * _VALUE * sum(self._sizes.values())
        names = list(self._sizes)
        start = 2 * _VALUE * sum(self._sizes[name] for name in names[: names.index(split)])
        size = max(1, BLOCK_BYTES // (2 * _VALUE * max(1, self.pairs)))
        for first in range(0, images, size):
            last = min(images, first + size)
            block = np.empty((2, self.pairs, last - first))
            for side in range(2):
                for pair in range(self.pairs):
                    at = pair * row + start + _VALUE * (side * images + first)
                    data = os.pread(self._file.fileno(), _VALUE * (last - first), at)
                    block[side, pair] = np.frombuffer(data, dtype=np.float64)
            yield slice(first, last), block

    def fits(self) -> dict[str, ShadowFit]:
        """Return what the shadows make of every image, by split."""
        spreads = [_Spread(), _Spread()]
        sides = {name: self._sides(name, spreads if name in HALVED else []) for name in self._sizes}
        inside, outside = (one.value for one in spreads)
        return {
            name: ShadowFit(
                inside=both[0] if name in HALVED else None,
                outside=both[1],
                pairs=self.pairs,
                inside_spread=inside,
                outside_spread=outside,
            )
            for name, both in sides.items()
        }

    def _sides(self, split: str, spreads: list[_Spread]) -> list[Side]:
        """Return the inside and the outside of a split, and add its phi to the spreads."""
        numbers = np.empty((2, 3, self._sizes[split]))
        for images, block in self.blocks(split):
            for side in range(2):
                phi_KB = block[side]
                numbers[side, :, images] = np.median(phi_KB, 0), np.std(phi_KB, 0), probability_of(phi_KB).mean(0)
                if spreads:
                    spreads[side].add(phi_KB)
        return [Side(median_N=median, sd_N=sd, probability_N=mean) for median, sd, mean in numbers]


class _Spread:
    """Standard deviation, ddof 0, of numbers that arrive in blocks (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def add(self, values: FloatArray) -> None:
        """Add a block, which is not empty."""
        count, mean = values.size, float(values.mean())
        difference, total = mean - self._mean, self._count + count
        self._squares += float(values.var()) * count + difference**2 * self._count * count / total
        self._mean += difference * count / total
        self._count = total

    @property
    def value(self) -> float:
        """The standard deviation; 0 without a number."""
        return float((self._squares / self._count) ** 0.5) if self._count else 0.0
