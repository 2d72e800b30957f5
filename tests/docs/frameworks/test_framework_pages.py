"""The pages on other frameworks: their code runs, on models that are on this machine."""

from claude_model import running_model


def test_python_blocks_run(page, run_page, tmp_path_factory, monkeypatch):
    with running_model(tmp_path_factory.mktemp("home")) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run_page(page)
