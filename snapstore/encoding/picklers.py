"""A pickler that takes what JSON has, and nothing else."""

from __future__ import annotations

import pickle
from typing import Any

__all__ = ["StrictPickler"]


class StrictPickler(pickle.Pickler):
    """Takes None, bool, int, float, str, dict, list and tuple, and no subclass of them."""

    __slots__ = ()

    # Called for what pickle has no opcode for. It takes no argument, and so raises TypeError: it
    # is a function in C, so that a pickler runs no Python code at all.
    reducer_override: Any = [].clear
