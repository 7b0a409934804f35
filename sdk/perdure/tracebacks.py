"""Source lines of code that travels by value, for tracebacks.

A pickled code object carries the name of its file and the lines of its function, with every release of cloudpickle. So
a traceback on a worker shows the lines that ran, also if the worker does not have the file or has another version of
it.

- Pickling: `Reducer` adds the file name to every code object, and the text to the outermost one, which contains the
  nested functions. Text that may differ from what was compiled is left out.
- Unpickling: `restore` remembers the text of each code object, and gives it to `linecache` if the file does not exist.
- Formatting: `stack` prefers the remembered text to the file. Modules that travelled are in folders of the worker,
  which mean nothing to the user, so their files are named by their path in the package.
"""

from __future__ import annotations

import io
import linecache
import os
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType, TracebackType
from typing import Any, Final

TEXT_CHARS_MAX: Final = 64 * 1024
"""The text of a longer function does not travel."""

_STARTED: Final = time.time()
_IMPORTING: Final = "<frozen importlib"
"""So begin the file names of Python's own frames in an import."""
_NO_LINES: Final = (1, "")

Text = tuple[int, str]
"""The number of the first line, and the lines."""


# ------------------------------------------------------------------------------ what is known of a code object


class _Key(weakref.ref[CodeType]):
    """A weak reference that remembers the id() of its code object."""

    __slots__ = ("id",)
    id: int


class _Texts:
    """Texts by code object. Code objects compare by value, so the keys are their ids."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[_Key, Text]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, code: CodeType) -> Text | None:
        known = self._texts.get(id(code))
        return known[1] if known is not None and known[0]() is code else None

    def put(self, code: CodeType, text: Text) -> None:
        key = _Key(code, self._forget)
        key.id = id(code)
        self._texts[key.id] = (key, text)

    def _forget(self, key: weakref.ref[CodeType]) -> None:
        assert isinstance(key, _Key)
        known = self._texts.get(key.id)
        if known is not None and known[0] is key:  # else the id was reused
            del self._texts[key.id]


_texts: Final = _Texts()


def text_of(code: CodeType) -> Text:
    """The lines of a function as they were compiled; none if they are not certain. Cached."""
    text = _texts.get(code)
    if text is not None and (text is _NO_LINES or text[0] == code.co_firstlineno):
        return text
    found = _read(code) if text is None else _part(text[0], _lines(text[1]), code)  # of a nested function
    _texts.put(code, found)
    return found


def note(function: object) -> None:
    """Remember a function's text now, before its file is edited."""
    code = getattr(function, "__code__", None)
    if isinstance(code, CodeType):
        text_of(code)


def _read(code: CodeType) -> Text:
    path = code.co_filename
    cached = linecache.cache.get(path)
    try:
        linecache.checkcache(path)
        candidates = [linecache.getlines(path)]
    except (OSError, ValueError):  # not a valid file name
        return _NO_LINES
    if cached is not None and len(cached) == 4:
        candidates.append(cached[2])
    for lines in candidates:
        if lines and (_is_old(path) or _is_compiled_from(code, path, lines)):
            return _part(1, lines, code)
    return _NO_LINES


def _part(first: int, lines: list[str], code: CodeType) -> Text:
    """The lines of one function, out of `lines`, whose first line has the number `first`."""
    begin = code.co_firstlineno
    text = "".join(lines[begin - first : _last_line(code) - first + 1])
    return (begin, text) if len(text) <= TEXT_CHARS_MAX else _NO_LINES


def _is_old(path: str) -> bool:
    """Whether linecache's lines of a path cannot have changed since they were compiled: the file is older than the
    process, or there is no file (notebooks register their cells without files)."""
    entry = linecache.cache.get(path)
    if entry is None or len(entry) != 4:
        return False
    _, modified, _, found = entry
    return modified is None or (found == path and modified < _STARTED)


def _is_compiled_from(code: CodeType, path: str, lines: list[str]) -> bool:
    return code in _codes("".join(lines), path).get((code.co_qualname, code.co_firstlineno), ())


@lru_cache(maxsize=16)
def _codes(text: str, path: str) -> dict[tuple[str, int], list[CodeType]]:
    """Code objects of a file by qualified name and first line."""
    found: dict[tuple[str, int], list[CodeType]] = {}
    try:
        module = compile(text, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return found
    for code in _with_nested(module):
        found.setdefault((code.co_qualname, code.co_firstlineno), []).append(code)
    return found


def _with_nested(code: CodeType) -> Iterator[CodeType]:
    waiting = [code]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += (constant for constant in code.co_consts if isinstance(constant, CodeType))


def _last_line(code: CodeType) -> int:
    ends = (end for part in _with_nested(code) for _, end, _, _ in part.co_positions())
    return max((end for end in ends if end is not None), default=code.co_firstlineno)


# ------------------------------------------------------------------------------ pickling


class Reducer:
    """Reduces the code objects of one pickle. The same code gives the same pickle in every process."""

    __slots__ = ("_nested", "_paths", "_reduce")

    def __init__(self, reduce: Callable[[CodeType], Any]) -> None:
        self._reduce = reduce
        self._nested: set[int] = set()
        self._paths: dict[str, str] = {}

    def __call__(self, code: CodeType) -> tuple[Callable[..., CodeType], tuple[Any, ...]]:
        make, parts = self._reduce(code)[:2]
        # Always the same copy of the name: pickles differ for equal and for identical objects.
        path = self._paths.setdefault(code.co_filename, "".join(code.co_filename))
        if id(code) in self._nested:
            return restore, (make, parts, path)
        self._nested.update(map(id, _with_nested(code)))
        first, text = text_of(code)
        return (restore, (make, parts, path, first, text)) if text else (restore, (make, parts, path))


def restore(
    make: Callable[..., CodeType], parts: tuple[Any, ...], path: str, first: int = 1, text: str = ""
) -> CodeType:
    """Rebuild a pickled code object. Pickles refer to this function, so its name and parameters must not change."""
    code = make(*parts).replace(co_filename=path)
    if text:
        whole = (first, text)
        for part in _with_nested(code):
            _texts.put(part, whole)
        _show(path, whole)
    else:
        _texts.put(code, _NO_LINES)
    return code


def _lines(text: str) -> list[str]:
    """The lines as `readlines` gives them. (`splitlines` splits at characters that do not end lines of Python
    source.)"""
    return io.StringIO(text).readlines()


def _show(path: str, text: Text) -> None:
    """Register the lines of a file that this machine does not have with `linecache`, for tracebacks."""
    entry = linecache.cache.get(path)
    if entry is None:
        if os.path.exists(path):
            return
        shown = _Lines()
        linecache.cache[path] = (0, None, shown, path)  # no time of change: linecache never reads it from disk
    elif len(entry) == 4 and isinstance(entry[2], _Lines):
        shown = entry[2]
    else:
        return
    begin, lines = text[0] - 1, _lines(text[1])
    shown.extend(["\n"] * (begin + len(lines) - len(shown)))
    shown[begin : begin + len(lines)] = lines


class _Lines(list[str]):
    """Lines that travelled with code. More lines of the same file may follow."""


# ------------------------------------------------------------------------------ formatting

_unpacked: Final[list[str]] = []


def is_unpacked_at(folder: str) -> None:
    """Name files below this folder relative to it from now on: it contains modules that travelled."""
    prefix = os.path.join(folder, "")
    if prefix not in _unpacked:
        _unpacked.append(prefix)


def shown(path: str) -> str:
    """The path of a file as users know it."""
    for prefix in _unpacked:
        if path.startswith(prefix):
            return path.removeprefix(prefix)
    return path


def stack(trace: TracebackType | None, skip_frames: int = 0) -> str:
    """A traceback as text, without its first frames."""
    summaries = traceback.extract_tb(trace)[skip_frames:]
    frames = [frame for frame, _ in traceback.walk_tb(trace)][skip_frames:]
    keys: dict[Text, str] = {}
    try:
        for i, (frame, summary) in enumerate(zip(frames, summaries, strict=True)):
            text = _texts.get(frame.f_code)
            if text is not None:
                if text not in keys:
                    keys[text] = key = f"<lines that came with code {id(keys)}-{len(keys)}>"
                    numbered = ["\n"] * (text[0] - 1) + _lines(text[1])
                    linecache.cache[key] = (0, None, numbered, key)
                summary = summaries[i] = _with_lines(summary, keys[text])
            summary.filename = shown(summary.filename)
    finally:
        for key in keys.values():
            linecache.cache.pop(key, None)
    return "".join(traceback.format_list(summaries))


def of_import(thread_id: int) -> str:
    """The stack of a thread of this process below its first import, as text; "" if it imports nothing."""
    frames = traceback.extract_stack(sys._current_frames().get(thread_id))
    first = next((at for at, frame in enumerate(frames) if frame.filename.startswith(_IMPORTING)), len(frames))
    inner = [frame for frame in frames[first:] if not frame.filename.startswith(_IMPORTING)]
    for frame in inner:
        frame.filename = shown(frame.filename)
    return "".join(traceback.format_list(inner))


def _with_lines(summary: traceback.FrameSummary, key: str) -> traceback.FrameSummary:
    """The same frame, with the lines that linecache has under a key."""
    made = traceback.FrameSummary(
        key,
        summary.lineno,
        summary.name,
        end_lineno=summary.end_lineno,
        colno=summary.colno,
        end_colno=summary.end_colno,
    )  # which looks its lines up
    made.filename = summary.filename
    return made
