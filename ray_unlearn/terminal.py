r"""The only module that writes to the terminal: standard output, standard error, and Rich's progress and tables.

    print_line(f"failed: {why}")                        # a line on standard output; print_error: on standard error
    run_script(main)                             # of a script
    console = open_console(error=True)           # a Rich console that escapes its texts in the same way
    visible("a\x1b[2Jb")                         # r"a\u001b[2Jb"

Names and messages come from other people's data: class names, column names, file names, other machines' records and
logs. A control character in one of them would move the cursor, clear the screen, set the window's title, or reorder a
line. Control characters are written as JSON escapes them, so that `--json` stays JSON; parts of a text that may be the
credentials of a URI are removed.

Does not cover: files (reports are escaped as HTML and Markdown need it), nor the direct output of libraries.
"""

from __future__ import annotations

import re
import sys
from typing import IO, TYPE_CHECKING, Any, NoReturn

from ray_unlearn.errors import Interrupted, RayUnlearnError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.console import Console

_CONTROLS = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and newline, and DEL
    "\x80-\x9f"  # C1: \x9b is another ESC [
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional: they reorder what is read
    "\u2028\u2029"  # line ends of Unicode
    "\ud800-\udfff"  # surrogates, such as bytes of a file's name that are not UTF-8
    "]"
)


def visible(text: str) -> str:
    """Return a text with its control characters escaped, except newline and tab."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def safe(text: str) -> str:
    """Return a text that is safe for a terminal: control characters escaped, credentials in URIs removed."""
    if "://" in text:
        from ray_unlearn.study.uris import without_keys  # imports pydantic

        text = without_keys(text)
    return visible(text)


def print_line(text: str) -> None:
    """Print a line, or several, on standard output."""
    show(text + "\n")


def print_error(text: str) -> None:
    """Print a line, or several, on standard error."""
    show(text + "\n", error=True)


def show(text: str, *, error: bool = False) -> None:
    """Print a text without adding a line end, such as a piece of a log."""
    stream = Escaping(sys.stderr if error else sys.stdout)
    stream.write(text)
    stream.flush()


def run_script(main: Callable[[], object]) -> NoReturn:
    """Run a script's main function and exit with the code that it returns, else 0.

    A user's error ends the script as it ends a command: one line on standard error, and the error's exit code.
    """
    try:
        code = main()
        sys.exit(code if isinstance(code, int) else 0)
    except (RayUnlearnError, Interrupted) as error:
        print_error(f"error: {error}")
        sys.exit(error.exit_code)


class Escaping:
    """A stream for libraries that print directly; their output is escaped in the same way."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text; characters outside the stream's encoding are escaped, too."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(safe(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""
        return self._stream.isatty()


def open_console(*, error: bool = False) -> Console:
    """Return a Rich console on standard output or standard error; its texts are escaped, its own codes are not."""
    from rich.console import Console
    from rich.segment import Segment

    class SafeConsole(Console):
        """A Rich console that escapes every piece of text before it is coloured."""

        def print(self, *objects: Any, **how: Any) -> None:
            """Print texts without the credentials of URIs."""
            super().print(*(safe(each) if isinstance(each, str) else each for each in objects), **how)

        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            """Yield segments whose texts are safe."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    return SafeConsole(stderr=error)
