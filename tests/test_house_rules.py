"""House rules that a machine can check, on every text file that git would track."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

LONGEST_FILE_LINES = 450
# Spelt in two halves so that this file does not name them itself.
FOREIGN = re.compile(
    "|".join(
        [
            "(?<![\\w.])/" + "work/",
            "(?<![\\w.])/" + "opt/(pypi|wheels)",
            "(?<![\\w.])/" + "root/",
            "(?<![\\w.])/" + "home/[a-z]",
            "pypi" + r"\.org",
            "python" + "hosted",
            r"download\." + "pytorch",
            r"registry\." + "npmjs",
        ]
    )
)


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=repository, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what is tracked cannot be told")
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return [repository / name for name in names if (repository / name).is_file()]


def rule_breaks(source: str) -> list[str]:
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Global):
            wrong.append(f"line {node.lineno}: global")
        if isinstance(node, ast.TryStar):
            inside = [n for handler in node.handlers for n in ast.walk(handler)]
            raised = [n for n in inside if isinstance(n, ast.Raise)]
            # Before Python 3.11.4 it stays in a group, so that no `except` for it finds it.
            wrong += [f"line {n.lineno}: raise inside except*" for n in raised]
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            wrong.append(f"line {node.lineno}: NotImplementedError")
        if isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "xfail"):
            text = ast.unparse(node)
            if text.startswith("pytest.mark.") or text in ("pytest.skip", "pytest.xfail"):
                wrong += [] if has_reason(source, node) else [f"line {node.lineno}: {text}"]
    return wrong


def has_reason(source: str, mark: ast.Attribute) -> bool:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.dump(node.func) == ast.dump(mark):
            if (node.func.lineno, node.func.col_offset) != (mark.lineno, mark.col_offset):
                continue
            named = any(word.arg == "reason" for word in node.keywords)
            return named or (mark.attr != "skipif" and len(node.args) >= 1)
    return False


def test_no_python_file_is_longer_than_the_limit(tracked: list[Path]) -> None:
    lengths = {
        path: len(path.read_text("utf-8").splitlines()) for path in tracked if path.suffix == ".py"
    }
    assert [path for path, lines in lengths.items() if lines > LONGEST_FILE_LINES] == []


def test_no_global_no_unfinished_code_and_no_skip_without_a_reason(tracked: list[Path]) -> None:
    wrong = {
        path.name: breaks
        for path in tracked
        if path.suffix == ".py" and (breaks := rule_breaks(path.read_text("utf-8")))
    }
    assert wrong == {}


def test_no_machine_path_or_registry_host_stands_in_a_tracked_text(tracked: list[Path]) -> None:
    wrong = []
    for path in tracked:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{path.name}: {found.group()}" for found in FOREIGN.finditer(text)]
    assert wrong == []


@pytest.mark.parametrize(
    "snippet",
    [
        "def f():\n    global x\n    x = 1\n",
        "def f():\n    raise " + "NotImplemented" + "Error\n",
        "try:\n    f()\nexcept* OSError as e:\n    raise e.exceptions[0]\n",
        "import pytest\npytest.skip()\n",
        "import pytest\n@pytest.mark.skip\ndef test_a(): pass\n",
        "import pytest\n@pytest.mark.skipif(True)\ndef test_a(): pass\n",
    ],
)
def test_a_broken_rule_is_found(snippet: str) -> None:
    assert len(rule_breaks(snippet)) == 1


@pytest.mark.parametrize(
    "snippet",
    ["import pytest\npytest.skip('why')\n", "import pytest\npytest.mark.skipif(1, reason='why')\n"],
)
def test_a_skip_with_a_reason_is_allowed(snippet: str) -> None:
    assert rule_breaks(snippet) == []


@pytest.mark.parametrize("text", ["see /" + "work/main", "https://" + "pypi" + ".org/simple"])
def test_a_machine_path_or_registry_host_is_found(text: str) -> None:
    assert FOREIGN.search(text)
