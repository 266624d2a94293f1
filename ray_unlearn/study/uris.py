"""URIs for messages: without credentials, and without options, which may hold some.

    label("s3://key:secret@bucket/x?region=eu")  # s3://bucket/x
    error_line(error, uri)                       # the first line of an error, in which pyarrow may repeat the URI
    labelled(study.model_dump())                 # every URI in a tree
    without_keys("cannot open s3://key:se/cr#et@bucket/x?token=y: no such")      # a text with URIs somewhere in it

Half of AWS's secret keys have a `/` in them, and people paste them as they are: no parser of URIs finds the end of such
a key. So everything up to the last `@` after `://` is cut; of a path with an `@` in it, only what follows is shown.

Does not cover: secrets in environment variables, which only the libraries that they are for read.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote, urlsplit

_NAMED = r"://(?!\[)[^\s/@:]*:(?!\d+(?:\W|$))[^\s@]"
"""name:key, not host:port."""
_KEYS = re.compile(rf"{_NAMED}[^\n]*@|://\S*@")
"""Credentials: up to the last @ of the line where a name and a key begin, which may hold spaces; else of the word."""
_HALF = re.compile(rf"(?<!http)(?<!https){_NAMED}\S*")
"""Credentials in a text that was cut off before the @; a web address may have a wrong port."""
_HUB = re.compile(r"hf://(?:datasets/|spaces/)?[\w.-]+/[\w.-]+@[\w./%*~-]+")
"""A path on the Hub with a revision, whose @ is before no host; the Hub's URIs hold no credentials."""
_REVISION = "\0"
_OPTIONS = re.compile(r"(://[^\s?'\"<>]*)\?[^\s'\"<>),;]+")


def label(uri: str) -> str:
    """Return a path as it is, and a URI without its credentials and options."""
    scheme, mark, rest = uri.partition("://")
    if not mark or _HUB.fullmatch(uri):
        return uri
    try:
        parts = urlsplit(f"{scheme}://{rest.rpartition('@')[2]}")
    except ValueError:  # brackets that do not close
        return f"{scheme}://..."
    return f"{parts.scheme}://{parts.netloc}{unquote(parts.path)}"


def without_keys(text: str) -> str:
    """Return a text without the parts that may be credentials or options of a URI, word by word."""
    if "://" not in text:
        return text
    kept = _HUB.sub(lambda found: found[0].replace("@", _REVISION), text)
    return _OPTIONS.sub(r"\1?...", _HALF.sub("://...", _KEYS.sub("://", kept))).replace(_REVISION, "@")


def error_line(error: BaseException, uri: str) -> str:
    """Return the first line of an error about a URI, the URI as `label` writes it."""
    text = str(error) or type(error).__name__
    return without_keys((text.replace(uri, label(uri)) if "://" in uri else text).splitlines()[0])


def last_line(error: BaseException) -> str:
    """Return the last line of an error's text, without credentials: of a server's traceback, the most informative."""
    lines = [line.strip() for line in without_keys(str(error)).splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else type(error).__name__


def labelled(tree: Any) -> Any:
    """Return plain values with every URI as `label` writes it."""
    if isinstance(tree, str):
        return label(tree)
    if isinstance(tree, dict):
        return {key: labelled(value) for key, value in tree.items()}
    return [labelled(value) for value in tree] if isinstance(tree, list | tuple) else tree
