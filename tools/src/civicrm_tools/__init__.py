"""All programs of ours that run on the hosts. `__main__.COMMANDS` names them; tools/README.md is the map."""

from pathlib import Path

__version__ = "1.0.0"

# The program behind every command: it looks at the name by which it is called.
LAUNCHER = Path(__file__).resolve().parents[2] / "bin" / "civicrm-tools"
