"""The pages on Strands agents: their code runs on the SDKs of both languages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from strands.models import Model

from snapstore.testing.server import create_bucket


class Echo(Model):
    """Stands for the model that an agent has if it is given none."""

    def get_config(self):
        return {}

    def update_config(self, **config):
        """There is nothing to be changed."""

    def structured_output(self, *args, **kwargs):
        raise NotImplementedError

    async def stream(self, messages, *args, **kwargs):
        yield {"messageStart": {"role": "assistant"}}
        yield {"contentBlockDelta": {"delta": {"text": "Yes."}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "end_turn"}}


def test_python_blocks_run(page, run_page, monkeypatch):
    monkeypatch.setattr("strands.agent.agent.BedrockModel", Echo)
    names = run_page(page)
    assert names.get("agent") is None or names["agent"].messages[-1]["content"] == [
        {"text": "Yes."}
    ]


@pytest.mark.blocks("prints ")
def test_a_program_prints_what_it_should(block, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(block.text)

    done = run(sys.executable, "-W", "error", str(path), environment=os.environ)

    assert re.search(block.test.removeprefix("prints "), done)


@pytest.mark.blocks("takes turns")
def test_two_languages_take_turns_in_one_session(block, s3_server, every_block):
    [typescript] = [
        other.text
        for other in every_block
        if other.page == block.page and other.language == "typescript"
    ]
    create_bucket(s3_server, "my-bucket")
    environment = os.environ | s3_server.environment()
    reference = Path(os.environ["SNAPSTORE_REFERENCE"])
    in_typescript = reference / "page.mjs"
    in_typescript.write_text(
        typescript + "\nawait agent.initialize()\n"
        "agent.messages.push(agent.messages[0].clone())\n"
        "await sessionManager.saveSnapshot({ target: agent, isLatest: true })\n"
        "console.log(JSON.stringify(agent.messages.map(({ content }) => content)))\n"
    )
    in_python = block.text + (
        "if not agent.messages:\n"
        '    agent.messages.append({"role": "user", "content": [{"text": "Grüezi"}]})\n'
        "    session.sync_agent(agent)\n"
        "storage.close()\n"
        "print(len(agent.messages))\n"
    )

    assert run(sys.executable, "-c", in_python, environment=environment) == "1\n"
    there = run("node", in_typescript.name, environment=environment, cwd=reference)
    assert json.loads(there.splitlines()[-1]) == [[{"text": "Grüezi"}]] * 2
    assert run(sys.executable, "-c", in_python, environment=environment) == "2\n"


def run(*command, environment, cwd=None):
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
