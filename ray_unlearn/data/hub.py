"""Files of a data set on the Hugging Face Hub: `hf://datasets/ORG/NAME/data/train-*.parquet`, at a stated commit.

    uri, revision = pinned("hf://datasets/ORG/NAME/data/train-*.parquet")
    uri                                          # hf://datasets/ORG/NAME@<40 hex digits>/data/train-*.parquet
    revision                                     # datasets/ORG/NAME@<40 hex digits>, as identities hold it

A branch moves, and a file that is replaced there may keep its size: so every path is read at the commit that its branch
(or `@REVISION`) named when it was opened. It needs the extra `hub`, and a network.

Does not cover: reading the files (`files`, `parquet`), models on the Hub, and logging in (`hf auth login`).
"""

from __future__ import annotations

import re

from ray_unlearn.errors import DataError
from ray_unlearn.study.uris import error_line, label

SCHEME = "hf://"
_PATH = re.compile(
    r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/(?:convert|pr)/[\w.-]+|[^/@]+))?(?P<inside>/[^@]*)?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub(path: str) -> bool:
    """Return whether a path is on the Hub."""
    return path.startswith(SCHEME)


def pinned(uri: str) -> tuple[str, str]:
    """Return the same path at the commit that its revision names now, and the data set with that commit.

    Raises:
        DataError: it is no path of a data set, the extra is not installed, or the Hub does not answer.

    """
    found = _PATH.fullmatch(uri)
    if found is None or not (found["inside"] or "").strip("/"):
        raise DataError(
            f"{label(uri)}: expected files of a data set, hf://datasets/ORG/NAME/data/train-*.parquet, with @REVISION "
            "after NAME where another than the newest is meant"
        )
    revision = found["revision"] or "main"
    commit = revision if _COMMIT.fullmatch(revision) else _commit(uri, found["repo"], revision)
    return f"hf://datasets/{found['repo']}@{commit}{found['inside']}", f"datasets/{found['repo']}@{commit}"


def _commit(uri: str, repo: str, revision: str) -> str:
    """Return the commit that a branch or tag names."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise DataError(
            f"{label(uri)}: reading from the Hub needs huggingface_hub ({error_line(error, uri)}): "
            "pip install 'ray-unlearn[hub]'"
        ) from error
    try:
        commit = HfApi().dataset_info(repo, revision=revision).sha
    except Exception as error:  # its client raises errors of several libraries
        kind, line = type(error).__name__, error_line(error, uri)[:200]
        if "NotFound" in kind:
            raise DataError(
                f"{label(uri)}: the Hub has no data set {repo} with revision {revision} that is public, or that you "
                "may read (`hf auth login`)"
            ) from error
        raise DataError(
            f"{label(uri)}: the Hub cannot be asked ({kind}: {line}); download the files, and name them here, if there "
            "is no network"
        ) from error
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise DataError(f"{label(uri)}: the Hub names no commit for revision {revision}; found {commit!r}")
    return commit
