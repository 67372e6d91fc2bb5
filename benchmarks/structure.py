"""Count structural figures of the code: modules, importers, progress types, dispatches on file suffixes.

    python -m benchmarks.structure [REPOSITORY]

Reads sources only, so any earlier checkout can be compared.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOMS = ("hemf", "train", "calibration", "engines", "hemf_export")
LISTENERS = re.compile(r"^(\w*Listener|\w*Progress|Step|Silent|Talk|PhaseBar)$")
SUFFIXES = re.compile(r"\.suffix\b|endswith\(\(?\"\.|kind_of\(|\.kind [!=]= \"")


def sources(root: Path) -> dict[str, Path]:
    """Map module names to files; symbolic links within hemf_export aren't followed twice."""
    files = {}
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            linked = (root / "hemf_export" / room).is_symlink()
            files[f"hemf_export.{name}" if linked else name] = path
    return files


def importers(files: dict[str, Path]) -> dict[str, set[str]]:
    """Map each module to the modules that import it."""
    by = defaultdict(set)
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    by[full if full in files else node.module].add(name)
            elif isinstance(node, ast.Import):
                for alias in node.names:
                    by[alias.name].add(name)
    return by


def docstrings(tree: ast.Module) -> list[str]:
    """List all docstrings of a module."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, kinds) and (text := ast.get_docstring(node))]


def progress_types(tree: ast.Module) -> int:
    """Count the classes and aliases that receive progress."""
    count = 0
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            count += (
                bool(LISTENERS.match(node.name.lstrip("_"))) and "dataclass" not in ast.unparse(node).split("\n")[0]
            )
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            count += bool(LISTENERS.match(node.targets[0].id)) and "Callable" in ast.unparse(node.value)
    return count


def main() -> None:
    """Print the counts, one per line."""
    files = sources(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    imported = importers(files)
    modules = [name for name, path in files.items() if path.name != "__init__.py"]
    opening = [text for tree in trees.values() for text in docstrings(tree) if re.match(r"(Of|The same)\b", text)]
    counts = {
        "modules": len(modules),
        "lines": sum(text.count("\n") for text in texts.values()),
        "modules with one importer": sum(len(imported[name]) == 1 for name in modules),
        "listener and progress types": sum(progress_types(tree) for tree in trees.values()),
        "suffix and kind dispatches": sum(len(SUFFIXES.findall(text)) for text in texts.values()),
        "docstrings that open with Of or The same": len(opening),
    }
    for name, count in counts.items():
        print(f"{name:42}{count:8,}")


if __name__ == "__main__":
    main()
