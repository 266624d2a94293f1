"""Images whose pixels occur in two sets: forgotten images that are also retained, test images that are trained on.

    for line in copies(splits.sets, digests, ids):
        print(line)                              # "3 of 360 forget images are in retain too, ..."

Decoded pixels at the study's image_size are compared: a photograph saved twice counts where it decodes equally.

Does not cover: images that are nearly the same.
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


def straddling(sets: Mapping[str, np.ndarray], groups: Sequence[str]) -> Iterator[str]:
    """Yield a line for each set that shares groups (persons) with the forget set.

    Args:
        sets: int64 indexes of each set.
        groups: group of each image; empty where it has none.

    """
    members = {name: {groups[i] for i in indexes.tolist()} - {""} for name, indexes in sets.items()}
    forgotten = members.get("forget", set())
    for name, why in (("retain", "they are trained on all the same"), ("test", "the test shows what was forgotten")):
        if shared := sorted(forgotten & members.get(name, set())):
            yield (
                f"data: {len(shared):,} of {len(forgotten):,} groups in forget have images in {name} too, such as "
                f"{shared[0]!r}: {why}"
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
