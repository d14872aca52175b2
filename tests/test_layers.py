"""The tree is the diagram: who may import whom, read from the source, also inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGES = ("omnidrop_stream", "runtime", "clients")
LIBRARY_LAYERS = {"types": 0, "errors": 0, "yaml_file": 0, "method": 1, "model": 2, "cache": 2}
OPEN_TO_ALL = ("omnidrop_stream.types", "omnidrop_stream.errors")


def layer_of(module: str) -> int | None:
    """Rank of a module of ours (higher may import lower), None for other people's."""
    parts = module.split(".")
    if parts[0] == "clients":
        return 5
    if parts[0] == "runtime":
        return 4
    if parts[0] == "omnidrop_stream":
        return LIBRARY_LAYERS.get(parts[1], 3) if len(parts) > 1 else 3
    return None


def imports_of(source: str, module: str, is_package: bool) -> list[tuple[str, int]]:
    """Every module named by an import statement or by import_module("..."), made absolute."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
            if base in PACKAGES:
                found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((base, node.lineno))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else name
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                found.append((node.args[0].value, node.lineno))
    return found


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    wrong = []
    own = layer_of(module)
    assert own is not None
    for target, line in imports_of(source, module, is_package):
        root = target.split(".")[0]
        where = f"{module}:{line} imports {target}"
        their = layer_of(target)
        if their is not None and not target.startswith(OPEN_TO_ALL):
            if own == 0:
                wrong.append(f"{where}: types and errors import nothing of ours")
            elif their > own:
                wrong.append(f"{where}: arrows point the other way")
            if module.startswith("omnidrop_stream.cache") and "omnidrop_stream.model" in target:
                wrong.append(f"{where}: the cache knows no model")
        if root == "torch" and module.startswith("clients"):
            wrong.append(f"{where}: clients never import torch")
        if root == "transformers" and not module.startswith("omnidrop_stream.model"):
            wrong.append(f"{where}: only omnidrop_stream/model knows transformers")
        if root in ("asyncio", "av", "sounddevice") and module.startswith("omnidrop_stream"):
            wrong.append(f"{where}: the library does no input or output")
    return wrong


def module_name(path: Path, root: Path) -> tuple[str, bool]:
    parts = list(path.relative_to(root).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if is_package else parts), is_package


def test_every_import_in_the_tree_follows_the_arrows(repository: Path) -> None:
    wrong = []
    files = [path for package in PACKAGES for path in sorted((repository / package).rglob("*.py"))]
    for path in files:
        name, is_package = module_name(path, repository)
        wrong += violations(path.read_text("utf-8"), name, is_package)
    assert len(files) > 5
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "snippet"),
    [
        ("omnidrop_stream.stream", "def f():\n    from runtime import sources\n"),
        ("omnidrop_stream.method.policy", "from omnidrop_stream.cache import budget\n"),
        ("omnidrop_stream.method.policy", "from ..model.base import OmniModel\n"),
        ("omnidrop_stream.method.policy", "from omnidrop_stream import config\n"),
        ("omnidrop_stream.model.base", "import omnidrop_stream.stream\n"),
        ("omnidrop_stream.model.base", "from omnidrop_stream import OmniStream\n"),
        ("omnidrop_stream.cache.budget", "from ..model import base\n"),
        ("omnidrop_stream.types", "from . import config\n"),
        ("runtime.session", "import clients.cli\n"),
        ("runtime.session", "import importlib\nimportlib.import_module('clients.cli')\n"),
        ("runtime.session", "if True:\n    import transformers\n"),
        ("clients.cli", "def f():\n    import torch.nn\n"),
        ("omnidrop_stream.lab.bench", "from transformers import AutoConfig\n"),
        ("omnidrop_stream.world.render", "import av\n"),
        ("omnidrop_stream.stream", "import asyncio\n"),
    ],
)
def test_an_import_against_the_arrows_is_found(module: str, snippet: str) -> None:
    assert len(violations(snippet, module)) == 1


@pytest.mark.parametrize(
    ("module", "snippet"),
    [
        ("clients.cli", "from runtime.sources import open_source\nimport omnidrop_stream.config\n"),
        ("runtime.chunks", "import av\nimport asyncio\nfrom omnidrop_stream import chunker\n"),
        ("omnidrop_stream.model.qwen", "import transformers\nfrom ..types import Chunk\n"),
        (
            "omnidrop_stream.method.policy",
            "from ..errors import Busy\nfrom . import intra\n",
        ),
    ],
)
def test_an_import_along_the_arrows_is_allowed(module: str, snippet: str) -> None:
    assert violations(snippet, module) == []
