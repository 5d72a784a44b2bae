"""Read a long list out of a JSON file element by element, in little memory.

The standard library's decoder does the work, on a window of text that grows until the element at
hand fits. (ijson was tried: it turns lone surrogates into "?" without a word, and 100 kB of nested
brackets make it use all memory.)
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from qa_lightning.errors import UserError

CHUNK = 1 << 20  # characters read at a time, at least

_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def elements(path: Path, key: str, name: str) -> Iterator[Any]:
    """The elements of the list under `key` in the object that a JSON file holds.

    Args:
        path: A JSON file in UTF-8, gzipped or not.
        key: A key of the object at the top level.
        name: What messages call the file.

    Raises:
        UserError: The file cannot be read, is damaged, cut off, empty or not JSON, or has no such
            list. What comes after the list is read too, so this may come after its last element.
    """
    with _open_text(path, name) as stream:
        yield from _elements(_JsonText(stream, name), key)


@contextmanager
def _open_text(path: Path, name: str) -> Iterator[TextIO]:
    """The text of a file; whatever turns out to be wrong with its bytes becomes a UserError."""
    try:
        with path.open("rb") as file:
            gzipped = file.peek(2)[:2] == b"\x1f\x8b"
            content = gzip.GzipFile(fileobj=file) if gzipped else file
            # utf-8-sig: some editors put a byte order mark in front.
            yield io.TextIOWrapper(cast(io.BufferedReader, content), encoding="utf-8-sig")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(
            f"{name}: a damaged or truncated gzip file ({error}). Fetch it again."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text ({error.reason})") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: cannot be read ({error})") from error


class _JsonText:
    """Walks through JSON text value by value."""

    def __init__(self, stream: TextIO, name: str) -> None:
        self.name = name
        self._stream = stream
        self._text = ""  # the window
        self._at = 0
        self._before = 0  # characters before the window

    def peek(self) -> str:
        """The next character that is not blank, or "" at the end."""
        while True:
            self._at += len(_BLANK.match(self._text, self._at)[0])  # type: ignore[index]
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, character: str) -> None:
        """Step over `character`, which must come next."""
        if (found := self.peek()) != character:
            raise self.error(f"expected {character!r}, found {found!r}", cut_off=not found)
        self._at += 1

    def value(self) -> Any:
        """Decode the value that comes next."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._more():
                    last = len(self._text.rstrip())
                    cut_off = error.pos >= last or error.msg.startswith("Unterminated")
                    self._at = error.pos
                    raise self.error(error.msg, cut_off) from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            except ValueError as error:  # a number of thousands of digits
                raise self.error(str(error)) from None
            else:
                # A number near the end of the window may go on behind it: 1, 1e+, 1e+5.
                if len(self._text) - end > len("e+") or not self._more():
                    self._at = end
                    return value

    def error(self, message: str, cut_off: bool = False) -> UserError:
        position = self._before + self._at
        if cut_off:
            return UserError(
                f"{self.name}: the file is cut off: it ends in the middle of its JSON, near "
                f"character {position:,}. Fetch it again."
            )
        return UserError(f"{self.name}: not valid JSON at character {position:,}: {message}")

    def _more(self) -> bool:
        """Forget what was walked over and read on; False at the end."""
        rest = self._text[self._at :]
        # At least as much again, so that a long value is not decoded too many times.
        more = self._stream.read(max(CHUNK, len(rest)))
        if more:
            self._text = rest + more
            self._before += self._at
            self._at = 0
        return bool(more)


def _elements(text: _JsonText, key: str) -> Iterator[Any]:
    if not text.peek():
        raise UserError(f"{text.name}: the file is empty")
    no_list = f'{text.name}: there is no list "{key}" at the top level'
    if text.peek() != "{":
        text.value()  # not JSON at all is another mistake
        raise UserError(no_list)
    seen = False
    for _ in _items(text, "{}"):
        if text.peek() not in ('"', ""):
            raise text.error("expected a key in double quotes")
        found = text.value()
        text.take(":")
        if found != key:
            text.value()
        elif seen:
            raise UserError(f'{text.name}: "{key}" appears twice at the top level')
        elif text.peek() not in ("[", ""):
            raise UserError(no_list)
        else:
            seen = True
            for _ in _items(text, "[]"):
                yield text.value()
    if text.peek():
        raise text.error("more text after the end")
    if not seen:
        raise UserError(no_list)


def _items(text: _JsonText, brackets: str) -> Iterator[None]:
    """Stand before each item between `brackets` in turn; the caller walks over it."""
    text.take(brackets[0])
    more = text.peek() != brackets[1]
    while more:
        yield
        more = text.peek() != brackets[1]
        if more:
            text.take(",")
    text.take(brackets[1])
