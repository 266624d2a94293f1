"""URIs as people may see them: without credentials, and without options, which may hold some.

    label("s3://key:secret@bucket/x?region=eu")  # s3://bucket/x
    told(error, uri)                             # the first line of what pyarrow says, which likes to repeat the URI
    labelled(study.model_dump())                 # every URI in a tree

Does not cover: secrets in environment variables; nothing reads those but the libraries that they are for.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit


def label(uri: str) -> str:
    """Return a path as it is, and a URI without its credentials and options."""
    if "://" not in uri:
        return uri
    try:
        parts = urlsplit(uri)
    except ValueError:  # brackets that do not close
        return f"{uri.partition('://')[0]}://..."
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"


def told(error: BaseException, uri: str) -> str:
    """Return the first line of an error about a URI, the URI as `label` writes it."""
    line = (str(error) or type(error).__name__).splitlines()[0]
    line = line.replace(uri, label(uri))
    try:
        parts = urlsplit(uri)
    except ValueError:
        return line
    for secret in (parts.query, parts.netloc.rpartition("@")[0], parts.password, parts.username):
        line = line.replace(secret, "...") if secret else line
    return line


def labelled(tree: Any) -> Any:
    """Return plain values with every URI as `label` writes it."""
    if isinstance(tree, str):
        return label(tree)
    if isinstance(tree, dict):
        return {key: labelled(value) for key, value in tree.items()}
    return [labelled(value) for value in tree] if isinstance(tree, list | tuple) else tree
