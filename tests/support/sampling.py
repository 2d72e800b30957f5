"""A sample of large matrices, and of long rows of steps, where `--full` runs all of it."""

import itertools
import os
import zlib

import pytest


def sample(params, one_in):
    """Mark all but one in so many parameters as `full`; for each row others, if it can be.

    Args:
        params: What `pytest.mark.parametrize` takes, each a `pytest.param` with an id.
        one_in: Should have no divisor in common with the length of a row.
    """
    return [
        param
        if number % one_in == 0
        else pytest.param(*param.values, id=param.id, marks=[*param.marks, pytest.mark.full])
        for number, param in enumerate(params)
    ]


def product(**axes):
    """All combinations of named values, each a `pytest.param`."""
    for names in itertools.product(*axes.values()):
        values = [axis[name] for axis, name in zip(axes.values(), names, strict=True)]
        yield pytest.param(*values, id="-".join(map(str, names)))


STRIDE = 3
"""Of so many steps one is taken. `--full` makes it 1."""


def steps(first=1):
    """Numbers of steps that something is interrupted at: a sample, and for each test another one.

    Args:
        first: The first number there is.
    """
    test = os.environ["PYTEST_CURRENT_TEST"].encode()
    return itertools.count(first + zlib.crc32(test) % STRIDE, STRIDE)
