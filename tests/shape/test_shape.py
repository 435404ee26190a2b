"""The shape of the source: which way imports point, where each dangerous verb lives, and how large things get."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "src" / "tieline"
POD = ROOT / "pods" / "oneroof" / "src" / "oneroof"

# From left to right; a module may know its own layer and those to its left.
LAYERS: dict[str, tuple[str, ...]] = {
    "words": (
        "errors",
        "declared",
        "subjects",
        "headers",
        "outcomes",
        "facts",
        "messages",
        "partial",
        "codec",
        "settings",
    ),
    "records": ("records",),
    "declared": ("stream", "tool", "context", "agent", "pod"),
    "models": ("models",),
    "wire": ("wire",),
    "diagnosis": ("diagnosis",),
    "runtime": ("runtime",),
    "views": ("views",),
    "services": ("services", "server", "operations"),
    "security": ("security",),
    "edges": ("cli", "dashboard", "deploy", "testing", "__init__", "__main__"),
}
ORDER = {part: place for place, parts in enumerate(LAYERS.values()) for part in parts}
# Within words and declared the modules are in the order they may know each other.
PURE = (*LAYERS["words"], *LAYERS["declared"])

IMPORT_NATSIO = {"wire"}  # nothing else in the library; benchmarks and tests are peers of their own
LINES, FUNCTION, PARAMETERS = 400, 40, 6
# Each needs a decision in docs/decisions; one that is needed no more fails its test.
EXCEPTIONS = {
    "src/tieline/stream.py default_streams": "a table, one row a stream",
    "src/tieline/pod.py __init__": "what a pod is, by keyword: each is one thing that two pods choose differently",
}
FORBIDDEN_NAMES = {"utils", "util", "common", "base", "manager", "managers", "helpers", "misc", "core"}


def modules() -> list[Path]:
    return sorted([*LIBRARY.rglob("*.py"), *POD.rglob("*.py")])


def library() -> list[Path]:
    return sorted(LIBRARY.rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """The first part of a module's name below ``tieline``: what the layers are made of."""
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every absolute module name that ``path`` imports, with each name a ``from`` import could mean a module by."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: a relative import"
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def parts_imported(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "tieline" and len(parts) > 1 and parts[1] in ORDER:
            yield parts[1], line


def code_of(path: Path) -> str:
    """The source without comments and docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            node.body and isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_every_module_has_a_layer() -> None:
    assert {part_of(path) for path in library()} - {*ORDER} == set()


@pytest.mark.parametrize("path", library(), ids=name_of)
def test_imports_point_one_way(path: Path) -> None:
    own = ORDER[part_of(path)]
    wrong = [f"{part} (line {line})" for part, line in parts_imported(path) if ORDER[part] > own]
    if part_of(path) == "testing":
        wrong = [each for each in wrong if not each.startswith("testing")]
    assert wrong == [], f"{name_of(path)} knows what is to its right"


def pure() -> list[Path]:
    return [path for path in library() if part_of(path) in PURE]


@pytest.mark.parametrize("path", pure(), ids=name_of)
def test_words_and_declared_know_each_other_one_way_too(path: Path) -> None:
    own = PURE.index(part_of(path))
    wrong = [f"{part} (line {line})" for part, line in parts_imported(path) if PURE.index(part) > own]
    assert wrong == []


def test_no_import_hides_a_cycle() -> None:
    hidden = [
        name_of(path)
        for path in library()
        if part_of(path) != "testing"
        for block in tree_of(path).body
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
        if isinstance(node, ast.Import | ast.ImportFrom) and "tieline" in ast.unparse(node)
    ]
    assert hidden == []  # an optional dependency may be named for type checkers alone


def test_words_do_no_input_and_output() -> None:
    for path in pure():
        names = {name.split(".")[0] for name, _ in imported(path)}
        assert names & {"asyncio", "socket", "subprocess", "threading", "natsio"} == set(), name_of(path)


def test_only_the_wire_knows_the_client_library() -> None:
    for path in modules():
        knows = {"natsio", "nats"} & {name.split(".")[0] for name, _ in imported(path)}
        if knows:
            assert path.is_relative_to(LIBRARY), name_of(path)
            assert part_of(path) in IMPORT_NATSIO, name_of(path)


def test_the_pod_uses_public_names_only() -> None:
    public = {
        "tieline",
        "tieline.cli.sum_table",
        "tieline.cli.up",
        "tieline.server",
        "tieline.services.accountant",
        "tieline.services.ledger",
        "tieline.services.letters.reading",
        "tieline.services.supervisor",
        "tieline.testing",
    }
    for path in sorted(POD.rglob("*.py")):
        modules_used = {
            node.module or "" for node in ast.walk(tree_of(path)) if isinstance(node, ast.ImportFrom) and node.module
        }
        private = {name for name in modules_used if name.split(".")[0] == "tieline"} - public
        assert private == set(), name_of(path)


def test_only_delivery_acknowledges() -> None:
    verbs = re.compile(r"\+ACK|-NAK|\+WPI|\+TERM|\+NXT")
    found = [name_of(path) for path in modules() if verbs.search(code_of(path))]
    assert found == ["src/tieline/wire/delivery.py"]


def test_only_the_runtime_decides_what_becomes_of_a_delivery() -> None:
    settles = re.compile(r"\b(?:delivery|advisory|_reply|popleft\(\))\.(ack|ack_kept|nak|extend)\(")
    found = {name_of(path) for path in modules() if settles.search(code_of(path))}
    assert found == {
        "src/tieline/runtime/settle.py",
        "src/tieline/runtime/worker.py",  # hands back what was interrupted
        "src/tieline/runtime/lease.py",
        "src/tieline/runtime/waker.py",  # the journal's news, which are records and no messages of a pod
        "src/tieline/wire/consumer.py",  # hands back what nobody took
        "src/tieline/services/deadletters.py",  # advisories, which are the server's and no messages of a pod
    }


def test_only_subjects_builds_subjects() -> None:
    ours = (
        "step.",
        "DLQ.",
        "tool.call.",
        "tool.result.",
        "call.audit.",
        "nudge.",
        "due.",
        "schedule.",
        "redrive.",
        "partial.",
    )
    found = {name_of(path) for path in modules() if any(text.startswith(ours) for text in formatted(path))}
    assert found == {"src/tieline/subjects.py"}


def formatted(path: Path) -> Iterator[str]:
    """How each f-string of a module begins."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.JoinedStr) and isinstance(node.values[0], ast.Constant):
            yield str(node.values[0].value)


def test_the_environment_is_read_in_one_place() -> None:
    reads = re.compile(r"\bos\.(environ|getenv)\b|\benviron\b")
    found = {name_of(path) for path in library() if reads.search(code_of(path))}
    gives_it_to_its_processes = "src/tieline/testing/torture/field.py"
    assert found - {gives_it_to_its_processes} == {"src/tieline/settings.py"}


def test_no_module_swallows_everything() -> None:
    for path in modules():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{name_of(path)}:{node.lineno}: a bare except"
                broad = ast.unparse(node.type) in ("Exception", "BaseException")
                silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass | ast.Continue)
                assert not (broad and silent), f"{name_of(path)}:{node.lineno}: an except that hides everything"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_sizes(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            where = f"{name_of(path)} {node.name}"
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            taken = [name for name in names if name not in ("self", "cls")]
            options = "cli" in path.parts  # typer reads a command's options from its parameters
            large = lines_of(node) > FUNCTION or (len(taken) > PARAMETERS and not options)
            assert large == (where in EXCEPTIONS), f"{where}: {lines_of(node)} lines, {len(taken)} parameters"


def lines_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its decorators, its docstring and the functions inside it."""
    last = node.end_lineno or node.lineno
    inner = 0
    if ast.get_docstring(node, clean=False) is not None:
        first = node.body[0]
        inner += (first.end_lineno or first.lineno) - first.lineno + 1
    return last - node.lineno + 1 - inner


def test_modules_are_named_by_what_they_do() -> None:
    parts = {part.removesuffix(".py") for path in modules() for part in path.relative_to(ROOT).parts}
    assert parts & FORBIDDEN_NAMES == set()


@pytest.mark.parametrize("path", [path for path in library() if "__all__" in path.read_text()], ids=name_of)
def test_public_names_are_sorted_and_there(path: Path) -> None:
    [names] = [
        ast.literal_eval(node.value)
        for node in tree_of(path).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    # As ruff sorts them: constants, then classes, then the rest.
    assert names == sorted(names, key=lambda name: (0 if name.isupper() else 1 if name[0].isupper() else 2, name))
    assert len(names) == len(set(names))


def test_every_module_says_what_it_is_for() -> None:
    silent = [name_of(path) for path in modules() if ast.get_docstring(tree_of(path)) is None]
    assert silent == []


def test_nothing_is_left_to_be_done() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|NotImplementedError")
    assert [name_of(path) for path in modules() if marks.search(path.read_text())] == []
