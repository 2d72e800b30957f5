"""The README's examples are run as they stand."""

import re
import textwrap
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


async def test_the_first_example_runs(s3_server, bucket, prefix, monkeypatch) -> None:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    source = examples()[0].replace('"my-bucket"', repr(bucket)).replace('"prod"', repr(prefix))
    assert bucket in source
    assert prefix in source
    scope: dict = {}
    exec(f"async def example():\n{textwrap.indent(source, '    ')}    return locals()", scope)
    names = await scope["example"]()
    assert names["snapshot"] == names["earlier"]
    assert names["ids"] == [names["saved"].snapshot_id]


def test_the_fastapi_example_is_the_tested_app() -> None:
    tested = README.parent / "tests" / "examples" / "fastapi_chat.py"
    assert tested.read_text() in examples()
