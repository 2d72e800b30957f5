"""The command line: `snapstore …`. It needs the extra `cli`.

Exit status: 0 when all was done, 1 when something failed, 2 when the arguments are wrong, 130 when
it was interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments after the program's name; `None` for those of this process.

    Returns:
        The exit status.
    """
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        print(
            f"snapstore: the command line needs {' and '.join(missing)}: "
            "pip install 'snapstore[cli]'",
            file=sys.stderr,
        )
        return 2
    from snapstore.cli.app import run

    return run(argv)
