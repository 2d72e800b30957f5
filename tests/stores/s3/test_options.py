"""The options of S3: their names are checked, since a `TypedDict` of arguments checks none."""

import pytest

from snapstore import S3Storage
from snapstore.stores import S3ObjectStore, S3Options


@pytest.mark.parametrize("make", [S3Storage, S3ObjectStore])
def test_unknown_option_is_a_type_error_that_names_it(make) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'regoin'.* region, "):
        make("bucket", regoin="eu-central-1")


@pytest.mark.parametrize("make", [S3Storage, S3ObjectStore])
def test_every_option_may_be_left_out_or_be_its_default(make) -> None:
    defaults = dict.fromkeys(S3Options.__optional_keys__) | {"max_concurrency": 128, "direct": True}
    make("bucket")
    make("bucket", **defaults)


def test_options_are_documented_each() -> None:
    import ast
    import inspect

    from snapstore.stores.s3 import options

    documented = {
        field.target.id
        for kind in ast.parse(inspect.getsource(options)).body
        if isinstance(kind, ast.ClassDef) and "Options" in kind.name
        for field, text in zip(kind.body, kind.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    assert documented == S3Options.__optional_keys__
