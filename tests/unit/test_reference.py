"""The reference of the backend is made of its docstrings."""

from __future__ import annotations

from tools import reference


def test_the_page_says_what_the_docstrings_say() -> None:
    assert reference.FILE.read_text(encoding="utf-8") == reference.draw(), "run `make reference`"


def test_the_page_lists_every_error_that_a_docstring_names() -> None:
    page = reference.draw()

    for error in reference.ERRORS:
        assert f"| `{error}` |" in page
