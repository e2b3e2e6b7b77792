"""The built-in corpus `pydocs`: text that every Python installation carries.

Help topics (`pydoc_data.topics`) and the source, docstrings and comments of the standard library, cut into
documents: a section of a topic, a function, a method, the head of a class or of a module. Files are read,
never imported. What some distributions leave out or ship apart (test suites, Tk, IDLE, …) never counts.
"""

import ast
import gc
import hashlib
import os
import re
import sysconfig
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

MIN_CHARS = 60  # shorter scraps say nothing about a neuron
TARGET_CHARS = 1000  # a longer text is cut at the next blank line: about two windows of 128 tokens
MAX_CHARS = 1800  # and at any line end from here on

_SHIPPED_APART = {"distutils", "ensurepip", "idlelib", "lib2to3", "test", "tests", "tkinter", "turtledemo"}
_NO_TEXT = {
    "__phello__",
    "__pycache__",
    "dist-packages",
    "encodings",
    "lib-dynload",
    "pydoc_data",
    "site-packages",
}
_LEFT_OUT_FOLDERS = _SHIPPED_APART | _NO_TEXT
_LEFT_OUT_MODULES = {"_distutils_system_mod", "sitecustomize", "turtle", "usercustomize"}
_TABLES = {"html.entities", "re._casefix", "stringprep"}
_HEADING = re.compile(r"\n(?=[^\n]+\n(?:\*{4,}|={4,}|-{4,})\n)")

_Named = tuple[str, str]  # (name, text)


def documents(library: Path | None = None) -> Iterator[_Named]:
    """All documents of the running Python's `pydocs` (or of another standard library), as (name, text).

    Names are unique and readable: `topics/lambda`, `json.decoder/JSONDecoder.raw_decode`, `json.decoder` for
    what stands outside its functions; the later pieces of a text end in `#2`, `#3` and so on. No text comes
    twice. The order is a fixed shuffle, so that the first n documents are a fair sample. Texts and their
    number (some ten to twenty thousand) depend on the Python version. Takes about two seconds.

    Raises FileNotFoundError where the standard library has no source files.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    texts = [*_topics(library / "pydoc_data" / "topics.py"), *_library(library)]
    if not texts:
        raise FileNotFoundError(f"pydocs needs the standard library's source files, and {library} has none")
    return iter(sorted(_numbered(_cut(texts)), key=lambda document: _digest(document[0])))


def source_name(name: str) -> str:
    """The name of the text that document `name` is a piece of: the name without its `#2`."""
    return name.partition("#")[0]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _cut(texts: Iterable[_Named]) -> Iterator[_Named]:
    """The texts as pieces of a document's length, without repetitions and scraps."""
    seen: set[bytes] = set()
    for name, text in texts:
        for piece in _pieces(text):
            digest = _digest(piece)
            if len(piece) >= MIN_CHARS and digest not in seen:
                seen.add(digest)
                yield name, piece


def _pieces(text: str) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for line in text.split("\n"):
        if size >= MAX_CHARS or (size >= TARGET_CHARS and not line.strip()):
            yield _tidy(lines)
            lines, size = [], 0
        lines.append(line.rstrip())
        size += len(lines[-1]) + 1
    yield _tidy(lines)


def _tidy(lines: list[str]) -> str:
    return textwrap.dedent("\n".join(lines)).strip("\n\f")


def _numbered(texts: Iterable[_Named]) -> Iterator[_Named]:
    n_seen: Counter[str] = Counter()
    for name, text in texts:
        n_seen[name] += 1
        yield (name if n_seen[name] == 1 else f"{name}#{n_seen[name]}"), text


def _topics(path: Path) -> Iterator[_Named]:
    """The sections of pydoc's help topics. Long topics repeat short ones, which keep the text."""
    if not path.is_file():
        return
    seen: set[str] = set()
    for topic, text in sorted(_topic_texts(path).items(), key=lambda item: (len(item[1]), item[0])):
        for section in _HEADING.split(text):
            paragraphs = [p for p in section.split("\n\n") if p not in seen]
            seen.update(paragraphs)
            yield f"topics/{topic}", "\n\n".join(paragraphs)


def _topic_texts(path: Path) -> dict[str, str]:
    for node in _parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            topics: dict[str, str] = ast.literal_eval(node.value)
            return topics
    return {}


def _library(library: Path) -> Iterator[_Named]:
    for path in _source_files(library):
        module = ".".join(path.relative_to(library).with_suffix("").parts).removesuffix(".__init__")
        if module not in _TABLES:
            yield from module_texts(module, path.read_text("utf-8", errors="replace"))


def _source_files(library: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = sorted(s for s in subfolders if s not in _LEFT_OUT_FOLDERS and not s.startswith("config-"))
        for file in sorted(files):
            stem, extension = os.path.splitext(file)
            if extension == ".py" and stem not in _LEFT_OUT_MODULES and not stem.startswith("_sysconfigdata"):
                yield Path(folder, file)


def module_texts(module: str, source: str) -> Iterator[_Named]:
    """A module's source as consecutive texts of whole lines.

    Comments go with the definition below them; neighbours of one name, as a property and its setter, are one text.
    """
    lines = source.split("\n")  # not splitlines(): a form feed ends no line of Python
    name, first = module, 0
    for next_first, next_name in _marks(_parse(source).body, module, "/", 0):
        if next_name != name:
            yield name, "\n".join(lines[first:next_first])
            name, first = next_name, next_first
    yield name, "\n".join(lines[first:])


def _marks(body: list[ast.stmt], owner: str, separator: str, first: int) -> Iterator[tuple[int, str]]:
    """(index of its first line, name of its text) of each statement: functions and classes have their own."""
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield first, owner
        else:
            name = f"{owner}{separator}{node.name}"
            yield first, name
            if isinstance(node, ast.ClassDef):
                yield from _marks(node.body, name, ".", _first_line(node.body[0]) - 1)
        first = node.end_lineno or first


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _parse(source: str) -> ast.Module:
    """The syntax tree, without the collector, which a growing tree sets off again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules are not the reader's business
            return ast.parse(source)
    finally:
        if collecting:
            gc.enable()
