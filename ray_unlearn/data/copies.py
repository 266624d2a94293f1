"""What a reader of scores must know of the sets: images and groups that are in two of them, and sets of few images.

    for line in copies(splits.sets, digests, ids):
        print(line)                              # "3 of 360 forget images are in retain too, ..."

Decoded pixels at the study's image_size are compared: a photograph saved twice counts where it decodes equally.

Does not cover: images that are nearly the same (`near_copies`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

_WHY = {
    ("retain", "forget"): "what is to be forgotten is trained on all the same",
    ("retain", "test"): "the test measures memory",
    ("forget", "test"): "the test measures memory",
}


FEW_IMAGES = 20
"""Forget images below which a study is warned: a share of 20 images is known to 22 points at best."""


def few_images(sets: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield a line where the forget set is too small for shares of it (accuracies, attacks) to say much.

    The half width is that of the normal interval of a share of one half, 1.96 x 0.5 / sqrt(n), the widest.
    """
    count = len(sets["forget"])
    if count < FEW_IMAGES:
        yield (
            f"data.forget: {count} image{'s' * (count > 1)}: each is {100 / count:.0f} % of every score, and a share "
            f"of them (an accuracy, an attack's) is known to {98 / count**0.5:.0f} points at best; scores hold for "
            f"these images, and say little of others ({FEW_IMAGES} or more are not warned of)"
        )


def lone_batches(population: str, batch_size: int, sizes: Mapping[str, int]) -> Iterator[str]:
    """Yield a clause for each loader of a script whose last batch has one image."""
    for name in ("retain", "forget", "validation"):
        if sizes[name] % batch_size == 1:
            yield (
                f"populations.{population}: the last batch of the {name} loader has one image ({sizes[name]:,} images, "
                f"batch_size {batch_size})"
            )


def straddling(sets: Mapping[str, np.ndarray], groups: Sequence[str]) -> Iterator[str]:
    """Yield a line for each two sets that share groups (persons), where that says something else than it seems.

    Args:
        sets: int64 indexes of each set.
        groups: group of each image; empty where it has none.

    """
    members = {name: {groups[i] for i in indexes.tolist()} - {""} for name, indexes in sets.items()}
    forgotten = members.get("forget", set())
    whys = {"retain": "they are trained on all the same", "test": "the test shows what was forgotten"}
    for name in ("retain", "validation", "test"):
        if shared := sorted(forgotten & members.get(name, set())):
            why = f": {whys[name]}" if name in whys else ""
            yield (
                f"data: {len(shared):,} of {len(forgotten):,} groups in forget have images in {name} too, such as "
                f"{shared[0]!r}{why}"
            )
    tested = members.get("test", set())
    if shared := sorted(tested & members.get("retain", set())):
        yield (
            f"data: {len(shared):,} of {len(tested):,} groups in test have images in retain too, such as {shared[0]!r}"
            ": test accuracy is that of known groups"
        )


def words_of(tables: Sequence[pa.Table]) -> np.ndarray | None:
    """Return uint64 [N], the first half of each image's pixel digest; None where a shard lacks them."""
    if any("pixel_digest" not in table.column_names for table in tables):
        return None
    columns = [table.column("pixel_digest").combine_chunks() for table in tables]
    parts = [np.frombuffer(b"".join(chunk.to_pylist()), np.uint64)[::2] for chunk in columns]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def copies(sets: Mapping[str, np.ndarray], words_N: np.ndarray, ids: Sequence[str]) -> Iterator[str]:
    """Yield a line for each two sets that share pixels.

    Args:
        sets: int64 indexes of each set.
        words_N: uint64 of each image, equal for equal pixels.
        ids: id of each image.

    """
    for one, other in combinations(sets, 2):
        place_of = dict(zip(words_N[sets[other]].tolist(), sets[other].tolist(), strict=True))
        shared = [i for i in sets[one].tolist() if int(words_N[i]) in place_of]
        if not shared:
            continue
        first, second = ids[shared[0]], ids[place_of[int(words_N[shared[0]])]]
        among = {int(words_N[i]) for i in shared}
        count = sum(word in among for word in words_N[sets[other]].tolist())
        why = f": {_WHY[one, other]}" if (one, other) in _WHY else ""
        found = f"{count:,} of {len(sets[other]):,} {other} images are pixel by pixel in {one} too"
        yield f"data: {found}, such as {second!r} and {first!r}{why}"
