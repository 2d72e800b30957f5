"""What the README says of one session for both SDKs, run as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from snapstore.testing.server import create_bucket

README = Path(__file__).parent.parent.parent / "README.md"


def chapter():
    text = README.read_text()
    return text[text.index("### One session, both SDKs") :]


def block(language):
    return re.search(rf"```{language}\n(.*?)```", chapter(), re.DOTALL)[1]


def run(*command, environment, cwd=None):
    done = subprocess.run(
        command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_two_agents_of_the_readme_share_a_session(s3_server):
    create_bucket(s3_server, "my-bucket")
    environment = os.environ | s3_server.environment()
    reference = Path(os.environ["SNAPSTORE_REFERENCE"])
    in_typescript = reference / "readme.mjs"
    in_typescript.write_text(
        block("typescript") + "\nawait agent.initialize()\n"
        "agent.messages.push(agent.messages[0].clone())\n"
        "await sessionManager.saveSnapshot({ target: agent, isLatest: true })\n"
        "console.log(JSON.stringify(agent.messages.map(({ content }) => content)))\n"
    )
    in_python = block("python") + (
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
