"""The built-in corpus: what it holds, and that it is the same each time."""

import ast
import time
from pathlib import Path

import pytest

from polysem.server.corpus import pydocs


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str]]:
    return list(pydocs.documents())


def _module(tmp_path: Path, source: str) -> dict[str, str]:
    """The documents of a library that holds nothing but this source, as module `m`."""
    (tmp_path / "m.py").write_text(source, "utf-8")
    return dict(pydocs.documents(tmp_path))


def _lines(n: int) -> str:
    return "\n".join(f"value_{i} = {i * 10**30}" for i in range(n))


def test_it_has_thousands_of_documents(documents):
    assert len(documents) > 8_000
    assert sum(len(text) for _, text in documents) > 4_000_000


def test_names_are_unique_and_no_text_comes_twice(documents):
    assert len({name for name, _ in documents}) == len(documents)
    assert len({text for _, text in documents}) == len(documents)


def test_every_text_says_something_and_few_are_long(documents):
    assert all(isinstance(text, str) and len(text.strip()) > 20 for _, text in documents)
    lengths = sorted(len(text) for _, text in documents)
    assert lengths[len(lengths) * 9 // 10] <= pydocs.MAX_CHARS
    assert all(text.encode().decode() == text for _, text in documents)


def test_topics_functions_methods_and_modules_are_named_readably(documents):
    texts = dict(documents)
    assert "lambda" in texts["topics/lambda"]
    assert texts["json.decoder/JSONDecoder.raw_decode"].startswith("def raw_decode(self")
    assert texts["json.decoder/JSONDecoder"].startswith("class JSONDecoder")
    assert "def wraps(" in texts["functools/wraps"]
    assert texts["json.decoder"].startswith('"""Implementation of JSONDecoder')


def test_two_readings_agree_in_text_and_order_and_take_seconds(documents):
    started = time.process_time()  # this process alone: other work on the machine does not count
    assert list(pydocs.documents()) == documents
    assert time.process_time() - started < 10


def test_the_first_thousand_are_a_fair_sample(documents):
    share = sum(name.startswith("topics/") for name, _ in documents) / len(documents)
    first = sum(name.startswith("topics/") for name, _ in documents[:1000]) / 1000
    assert first == pytest.approx(share, abs=0.03)
    assert len({name.partition("/")[0] for name, _ in documents[:1000]}) > 100


def test_what_some_installations_lack_is_left_out(documents):
    modules = {name.partition("/")[0].partition("#")[0] for name, _ in documents}
    folders = {part for module in modules for part in module.split(".")}
    assert not folders & {"test", "tests", "idlelib", "tkinter", "turtle", "lib2to3", "ensurepip", "site-packages"}
    assert "numpy" not in folders


def test_the_files_are_not_imported(tmp_path):
    assert "m" in _module(tmp_path, f'raise RuntimeError("this module was run")\n{_lines(3)}\n')


def test_a_comment_goes_with_the_definition_below_it(tmp_path):
    texts = _module(tmp_path, "import os\n\n\n# Why this is needed.\ndef f():\n    return 'a long enough body'\n")
    assert texts == {"m/f": "# Why this is needed.\ndef f():\n    return 'a long enough body'"} | texts
    assert all("Why" not in text for name, text in texts.items() if name != "m/f")


def test_a_class_is_its_head_and_its_methods(tmp_path):
    head = '@decorated\nclass C(Base):\n    """A docstring that is long enough to count as a document."""\n'
    method = "@property\ndef f(self):\n    return self.something_long_enough_to_count"
    texts = _module(tmp_path, f"{head}\n" + "\n".join(f"    {line}" for line in method.split("\n")) + "\n")
    assert texts == {"m/C": head.strip(), "m/C.f": method}


def test_a_form_feed_ends_no_line(tmp_path):
    body = "def f():\n    return 'a body that is certainly long enough to count'"
    assert _module(tmp_path, f"x = 1\n\f\n{body}\n")["m/f"] == body


def test_nothing_of_a_module_is_lost(tmp_path):
    source = f"import a\n\nclass C:\n    x = 1\n    def f(self): pass\n    y = 2\n\ndef g():\n    pass\n{_lines(80)}\n"
    (tmp_path / "m.py").write_text(source)
    pieces = [text for _, text in pydocs.module_texts("m", source)]
    assert "\n".join(pieces) == source


def test_a_long_text_becomes_numbered_pieces(tmp_path):
    texts = _module(tmp_path, _lines(200))
    assert set(texts) == {"m", *(f"m#{i}" for i in range(2, len(texts) + 1))}
    assert max(len(text) for text in texts.values()) < pydocs.MAX_CHARS + 100
    assert {pydocs.source_name(name) for name in texts} == {"m"}


def test_a_property_and_its_setter_stand_together(tmp_path):
    parts = ["@property\ndef f(self):\n    return self.a_name_that_is_long_enough", "@f.setter\ndef f(self, f): ..."]
    assert _module(tmp_path, "\n\n".join(parts)) == {"m/f": "\n\n".join(parts)}


def test_a_later_definition_of_the_same_name_is_numbered(tmp_path):
    body = "def f(self):\n    return 'a body that is certainly long enough to count', {}"
    source = f"{body}\ndef g(): pass\n{body.replace('{}', '[]')}\n"
    assert set(_module(tmp_path, source)) == {"m/f", "m/f#2"}


def test_topics_repeat_nothing(tmp_path):
    (tmp_path / "pydoc_data").mkdir()
    shared = "A paragraph that both topics hold and that is long enough to count."
    topics = {"long": f"Long\n****\n\n{shared}\n\n{'Only in the long one. ' * 9}", "short": f"Short\n*****\n\n{shared}"}
    (tmp_path / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n")
    texts = dict(pydocs.documents(tmp_path))
    assert shared in texts["topics/short"]
    assert shared not in texts["topics/long"]


def test_a_library_without_source_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="source files"):
        pydocs.documents(tmp_path)


def test_function_documents_are_python(documents):
    functions = [text for name, text in documents if "/" in name and "#" not in name and text.startswith("def ")]
    n_parsed = 0
    for text in functions[:300]:
        try:
            ast.parse(text)
        except SyntaxError:  # a long function is cut
            continue
        n_parsed += 1
    assert n_parsed > 250
