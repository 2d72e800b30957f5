"""The tree of errors, what each carries, and the public names."""

import ast
import copy
import pickle
import types
from itertools import pairwise
from pathlib import Path

import pytest

import snapstore
import snapstore.errors
from snapstore.errors import shown
from snapstore.stores import PreconditionFailedError

TREE = """\
SnapstoreError
├── InvalidIdentifierError (ValueError)
├── ScopeMismatchError (ValueError)
├── SnapshotEncodeError (ValueError)
├── SnapshotDecodeError (ValueError)
├── InvalidExportError (ValueError)
├── LifecycleError (RuntimeError)
│   ├── StorageClosedError
│   └── WrongEventLoopError
└── StorageError
    ├── BucketNotFoundError
    ├── AccessDeniedError (PermissionError)
    ├── SnapshotConflictError
    │   ├── SnapshotExistsError
    │   └── SessionDeletedError
    ├── SnapshotNotFoundError (LookupError)
    ├── OutcomeUnknownError
    ├── StorageTimeoutError (TimeoutError)
    ├── StorageUnavailableError
    ├── InvalidResponseError
    ├── UnsupportedOperationError
    └── PartialDeleteError
"""
FACTS = {
    "operation": "PutObject",
    "bucket": "bucket",
    "key": "s/scopes/agent/a/snapshots/snapshot_latest.json",
    "code": "SlowDown",
    "status": 503,
    "request_id": "0000-1111",
    "retry_after": 1.5,
    "outcome": "unknown",
    "snapshot_id": "01912a3b-0000-7000-8000-000000000001",
}
# What the class says of itself, whatever is given.
OWN_FACTS = {PreconditionFailedError: {"outcome": "not applied"}}
PUBLIC = {name: getattr(snapstore, name) for name in snapstore.__all__}
CLASSES = [value for value in PUBLIC.values() if isinstance(value, type)]
ERRORS = [value for value in CLASSES if issubclass(value, snapstore.SnapstoreError)]
STORAGE_ERRORS = [error for error in ERRORS if issubclass(error, snapstore.StorageError)]


def drawn(error, before="", branch=""):
    """The tree of the errors of `snapstore.errors` from here down."""
    foreign = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
    shown = f" ({', '.join(foreign)})" if foreign and error is not snapstore.SnapstoreError else ""
    lines = [f"{before}{branch}{error.__name__}{shown}"]
    before += {"": "", "├── ": "│   ", "└── ": "    "}[branch]
    children = [child for child in error.__subclasses__() if child.__module__ == "snapstore.errors"]
    for child in children:
        lines += drawn(child, before, "└── " if child is children[-1] else "├── ")
    return lines


def make(error):
    if error is snapstore.PartialDeleteError:
        return error("message", failed={"a": "AccessDenied", "b": "Unconfirmed"}, **FACTS)
    if issubclass(error, snapstore.StorageError):
        return error("message", **FACTS)
    if error is snapstore.SnapshotDecodeError:
        return error("message", key="s/manifest.json")
    return error("message")


def test_the_tree_is_the_one_that_is_documented():
    assert drawn(snapstore.SnapstoreError) == TREE.splitlines()


def test_the_documentation_of_the_module_draws_the_tree():
    documented = [" ".join(line.split()) for line in snapstore.errors.__doc__.splitlines()]

    for line in TREE.splitlines():
        assert " ".join(line.split()) in documented


def test_each_error_of_the_tree_is_public():
    for name in snapstore.errors.__all__:
        assert getattr(snapstore, name) is getattr(snapstore.errors, name)


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_is_caught_as_its_builtin_kind_and_as_ours(error):
    kinds = [
        kind
        for kind in (ValueError, RuntimeError, PermissionError, TimeoutError)
        if issubclass(error, kind)
    ]

    for kind in (snapstore.SnapstoreError, *kinds):
        with pytest.raises(kind, match="message"):
            raise make(error)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("again", [lambda made: pickle.loads(pickle.dumps(made)), copy.copy])
def test_an_error_survives_pickling_and_copying(error, again):
    made = make(error)

    other = again(made)

    assert type(other) is error
    assert str(other) == str(made) == "message"
    assert other.args == made.args
    assert vars(other) == vars(made)


@pytest.mark.parametrize("error", STORAGE_ERRORS)
def test_a_storage_error_carries_the_facts_of_the_request(error):
    made = make(error)

    facts = FACTS | OWN_FACTS.get(error, {})
    assert made.facts == facts
    for name, value in facts.items():
        assert getattr(made, name) == value


@pytest.mark.parametrize("error", STORAGE_ERRORS)
def test_a_fact_that_is_not_known_is_none(error):
    assert error("message").facts == dict.fromkeys(FACTS) | OWN_FACTS.get(error, {})


@pytest.mark.parametrize("error", STORAGE_ERRORS)
def test_what_may_be_over_at_the_next_call_is_retryable(error):
    transient = (
        snapstore.StorageTimeoutError,
        snapstore.StorageUnavailableError,
        snapstore.PartialDeleteError,
    )

    assert error("message").retryable is issubclass(error, transient)
    assert error("message", retryable=True).retryable is True
    assert error("message", retryable=False).retryable is False


def test_a_partial_delete_names_what_failed():
    made = make(snapstore.PartialDeleteError)

    assert made.failed == {"a": "AccessDenied", "b": "Unconfirmed"}
    assert snapstore.PartialDeleteError("message").failed == {}


def test_a_decode_error_names_the_key():
    assert make(snapstore.SnapshotDecodeError).key == "s/manifest.json"
    assert snapstore.SnapshotDecodeError("message").key is None


@pytest.mark.parametrize("name", snapstore.__all__)
def test_a_public_name_is_documented(name):
    value = getattr(snapstore, name)
    if isinstance(value, type | types.FunctionType):
        assert value.__doc__
    else:
        assert is_documented_alias(name)


@pytest.mark.parametrize("public", CLASSES)
def test_every_method_of_a_public_class_is_documented(public):
    undocumented = [
        name
        for name, member in vars(public).items()
        if not name.startswith("_")
        and isinstance(member, types.FunctionType | classmethod | staticmethod | property)
        and not member.__doc__
    ]

    assert undocumented == []


def is_documented_alias(name):
    """Whether a string stands under the assignment of a type alias, as in `Scope = Literal[…]`."""
    for path in Path(snapstore.__file__).parent.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for statement, following in pairwise(body):
            match statement, following:
                case (
                    ast.Assign(targets=[ast.Name(id=found)]),
                    ast.Expr(value=ast.Constant(value=str())),
                ) if found == name:
                    return True
    return False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s-1/scopes/agent/Zürich 你好", "s-1/scopes/agent/Zürich 你好"),
        ("a\nb\r\tc\x00", r"a\nb\r\tc\x00"),
        ("\x1b[31mred\x9b", r"\x1b[31mred\x9b"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("invoice\u202egpj.exe", r"invoice\u202egpj.exe"),
        ("half \ud83d", r"half \ud83d"),
        ("a\\nb", r"a\nb"),
        ("x" * 1024, "x" * 1024),
    ],
)
def test_message_shows_foreign_text_as_one_printable_line(text, expected):
    assert shown(text) == expected
    assert shown(expected) == expected


@pytest.mark.parametrize("text", ["x" * 200_000, "\n" * 200_000, "\n" * 1_000])
def test_what_a_message_shows_of_others_text_is_not_long(text):
    once = shown(text)
    assert len(once) <= 1024
    assert once.endswith(f"({len(text):,} characters)")
    assert shown(once) == once
    assert len(shown(text, 100)) <= 100


@pytest.mark.parametrize("error", ERRORS)
def test_a_message_is_one_line_whatever_is_in_it(error):
    made = error("PutObject of bucket/a\nFATAL: b\u2028c: " + "x" * 200_000)

    assert str(made).splitlines() == [str(made)]
    assert str(made).isprintable()
    assert len(str(made)) <= 4096
    again = pickle.loads(pickle.dumps(made))
    assert (str(again), vars(again)) == (str(made), vars(made))
