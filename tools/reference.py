"""The page ``docs/reference/backend.md``, made of docstrings. ``python -m tools.reference`` writes it anew."""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_type_hints, is_typeddict

import attrs

from swh_sched_runner import backend, exc, journal_client, model
from swh_sched_runner.backend import SchedulerBackend
from tests.support.sources import CHECKOUT

FILE = CHECKOUT / "docs" / "reference" / "backend.md"
WIDTH = 100
HEAD = """\
# Python: the backend

<!-- Made of docstrings by `make reference`; a test compares. -->

```python
from swh_sched_runner.backend import SchedulerBackend

with SchedulerBackend("postgresql:///scheduler") as backend:
    backend.get_task_types()
```

All is typed. What goes in and comes out is described under [data](#data), what is raised under [errors](#errors).
[Test your code](../how-to/test-your-code.md) shows the fixtures that come along.
"""
# What programs that call the backend don't meet.
INTERNAL = {"Evidence"}
ERRORS = (
    *("InvalidArgument", "UnknownTaskType", "UnknownQueue", "UnknownTask", "DuplicateBackendId", "UnknownLister"),
    *("UnknownPolicy", "StaleData", "DatabaseUnavailable", "LockTimeout", "StatementTimeout", "TransactionConflict"),
    *("ConnectionUnusable", "StatementRefused", "DataRefused"),
)


def draw() -> str:
    """The page as it should be."""
    return "\n".join([HEAD, *_class(), *_functions(), *_data(), *_errors()])


def _class() -> Iterator[str]:
    tree = ast.parse(Path(inspect.getfile(SchedulerBackend)).read_text(encoding="utf-8"))
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SchedulerBackend"]
    methods = [node for node in found.body if isinstance(node, ast.FunctionDef)]
    titles = _titles(found)
    yield "## SchedulerBackend\n"
    yield from _code(_signature(methods[0], "SchedulerBackend"))
    yield _prose(ast.get_docstring(found))
    yield "| attribute | |\n|---|---|"
    for name in ("current_version", *(name for name in vars(SchedulerBackend) if name.endswith("_keys"))):
        value = getattr(SchedulerBackend, name)
        yield f"| `{name}` | {', '.join(f'`{key}`' for key in value) if isinstance(value, list) else f'`{value}`'} |"
    yield ""
    for method in methods[1:]:
        if method.name.startswith("_"):
            continue
        while titles and titles[0][0] < method.lineno:
            yield f"## {titles.pop(0)[1]}\n"
        yield f"### {method.name}\n"
        yield from _code(_signature(method, method.name))
        yield _prose(ast.get_docstring(method)) + _source(method)


def _titles(found: ast.ClassDef) -> list[tuple[int, str]]:
    """Line and text of the comments that part the class."""
    lines = inspect.getsource(backend).splitlines()
    return [
        (number, line[6:])
        for number, line in enumerate(lines, 1)
        if re.match(r"    # [A-Z]", line) and found.lineno < number
    ]


def _signature(method: ast.FunctionDef, name: str) -> str:
    method.args.args = [arg for arg in method.args.args if arg.arg not in ("self", "cls")]
    returned = "" if method.returns is None or name == "SchedulerBackend" else f" -> {ast.unparse(method.returns)}"
    pairs = [None] * (len(method.args.args) - len(method.args.defaults)) + list(method.args.defaults)
    parts = [
        ast.unparse(arg) + ("" if default is None else f" = {ast.unparse(default)}")
        for arg, default in zip(method.args.args, pairs, strict=True)
    ]
    line = f"{name}({', '.join(parts)}){returned}"
    return line if len(line) <= WIDTH else "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){returned}"])


def _source(method: ast.FunctionDef) -> str:
    """Where the work is done: the function that the method runs in its transaction."""
    for node in ast.walk(method):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._db.run":
            behind = eval(ast.unparse(node.args[0]), vars(backend))
            return f"\n[Source]({_path(behind)})\n"
    return ""


def _functions() -> Iterator[str]:
    yield "## Functions\n"
    for module, function in (
        (backend, backend.adapt_LastVisitStatus),
        (journal_client, journal_client.process_journal_objects),
    ):
        yield f"### {module.__name__}.{function.__name__}\n"
        yield from _code(f"{function.__name__}{inspect.signature(function)}".replace("'", ""))
        yield _prose(inspect.getdoc(function)) + f"\n[Source]({_path(function)})\n"


def _data() -> Iterator[str]:
    yield "## Data\n"
    yield f"In `swh_sched_runner.model` ([source]({_path(model)})). Without a time zone a time is a `ValueError`.\n"
    for name, found in vars(model).items():
        if (
            name in INTERNAL
            or name.startswith("_")
            or getattr(found, "__module__", None) != model.__name__
            or not isinstance(found, type)
        ):
            continue
        yield f"### {name}\n"
        yield _prose(found.__doc__ or "")
        if is_typeddict(found):
            rows = [(key, _shown(kind), "") for key, kind in get_type_hints(found).items()]
            yield from _table(("key", "type"), [row[:2] for row in rows])
        elif attrs.has(found):
            hints = get_type_hints(found)
            yield from _table(
                ("field", "type", "default"),
                [(field.name, _shown(hints[field.name]), _default(field)) for field in attrs.fields(found)],
            )
        elif issubclass(found, enum.Enum):
            yield from _table(("value",), [(f"{name}.{member.name}",) for member in found])


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield (
        f"In `swh_sched_runner.exc` ([source]({_path(exc)})), all of them `SchedulerException`. What an error tells in "
        "braces is an attribute of it too; the driver's error is its `__cause__`.\n"
    )
    rows = []
    for name in ERRORS:
        error = getattr(exc, name)
        above = ", ".join(base.__name__ for base in error.__bases__ if base is not exc.SchedulerException)
        rows.append((name, above, (error.__doc__ or "").splitlines()[0]))
    yield "| error | is a | message |\n|---|---|---|"
    for name, above, message in rows:
        yield f"| `{name}` | {above and f'`{above}`'} | {message.replace('|', chr(92) + '|')} |"
    yield ""


def _table(head: tuple[str, ...], rows: list[Any]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}"
    for row in rows:
        cells = [f"`{cell}`" if cell else "" for cell in row]
        yield f"| {' | '.join(cells)} |".replace(" | None", " \\| None")
    yield ""


def _shown(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    return re.sub(r"\b(?:datetime|uuid|typing|swh_sched_runner\.model)\.(?=[A-Za-z])", "", text)


def _default(field: attrs.Attribute[Any]) -> str:
    if field.default is attrs.NOTHING:
        return ""
    return "{}" if isinstance(field.default, attrs.Factory) else repr(field.default)  # type: ignore[arg-type]


def _code(text: str) -> Iterator[str]:
    yield f"```python\n{text}\n```\n"


def _prose(docstring: str | None) -> str:
    text = inspect.cleandoc(docstring or "").replace("``", "`")
    text = text.replace("docs/state-machine.md", "[states of tasks and runs](../state-machine.md)")
    return text + "\n"


def _path(of: ModuleType | FunctionType | Any) -> str:
    return f"../../{Path(inspect.getfile(of)).resolve().relative_to(CHECKOUT)}"


def main() -> None:
    FILE.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
