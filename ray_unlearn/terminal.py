r"""The one door for text to a terminal: standard output, standard error, and Rich's progress and tables.

    say(f"failed: {why}")                        # a line on standard output; say_error: on standard error
    console = open_console(error=True)           # a Rich console whose texts pass through the same door
    visible("a\x1b[2Jb")                         # r"a\u001b[2Jb"

Names and messages come from strangers: class names, column names, file names, other machines' records and logs. A
control character in one of them would move the cursor, clear the screen, set the window's title, or show a line in
another order than it has. Here each becomes what JSON writes for it, so that `--json` stays JSON; and whatever in a
text may be the key of a URI is cut out.

Does not cover: files (reports are escaped as HTML and Markdown need it), nor what libraries print themselves.
"""

from __future__ import annotations

import re
import sys
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

_CONTROLS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and newline, and DEL
    "\x80-\x9f"  # C1: \x9b is another ESC [
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional: they reorder what is read
    "\u2028\u2029"  # line ends of Unicode
    "\ud800-\udfff"  # halves of characters, such as bytes of a file's name that are no UTF-8
    "]"
)


def visible(text: str) -> str:
    """Return a text whose control characters are written out, newline and tab apart."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def safe(text: str) -> str:
    """Return a text as a terminal may get it: its control characters written out, keys of URIs cut out."""
    if "://" in text:
        from ray_unlearn.study.uris import without_keys  # brings pydantic

        text = without_keys(text)
    return visible(text)


def say(text: str) -> None:
    """Print a line, or several, on standard output."""
    show(text + "\n")


def say_error(text: str) -> None:
    """Print a line, or several, on standard error."""
    show(text + "\n", error=True)


def show(text: str, *, error: bool = False) -> None:
    """Print a text as it comes, such as a piece of a log."""
    stream = Escaping(sys.stderr if error else sys.stdout)
    stream.write(text)
    stream.flush()


class Escaping:
    """A stream for libraries that write for themselves: what they write goes through the door."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; what the stream's encoding does not have is written out, too."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(safe(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush it."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._stream.isatty()


def open_console(*, error: bool = False) -> Console:
    """Return a Rich console on standard output or standard error, whose texts are safe; its own codes pass."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """Rich lays out and colours; every piece of text passes through the door before it is coloured."""

        def print(self, *objects: Any, **how: Any) -> None:
            """Print, keys of URIs cut out of texts."""
            super().print(*(safe(each) if isinstance(each, str) else each for each in objects), **how)

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            """Yield segments whose texts are safe."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    return SafeConsole(stderr=error)
