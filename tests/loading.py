"""Load what is tested from where it lies: plugins and the lab's tools are files, not packages."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
# For processes of their own; pytest itself finds the host tools by pyproject.toml.
TOOLS = ROOT / "tools" / "src"


def load(path: str) -> ModuleType:
    """Return the Python file at `path`, relative to the project's root, as a module; a suffix is not needed."""
    name = "under_test_" + Path(path).stem.replace("-", "_")
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / path))
    spec = importlib.util.spec_from_loader(name, loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    loader.exec_module(module)
    return module
