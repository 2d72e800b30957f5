"""Transcripts of the Claude Agent SDK: keys, entries, and the parts they lie in."""

import json
import re

PROJECT = "-home-user-project"
SESSION = "f03debf3-b7d7-4dc4-97fe-a195534eb0a3"
KEY = {"project_key": PROJECT, "session_id": SESSION}
SUBAGENT = {**KEY, "subpath": "subagents/agent-a1b2c3"}
DIRECTORY = f"{PROJECT}/{SESSION}/"
SUMMARY = f"@snapstore/summaries/{PROJECT}/{SESSION}.json"
RECORD = f"@snapstore/compactions/{PROJECT}/{SESSION}/transcript.json"
PART = re.compile(r"part-\d{13}-[0-9a-f]{6}\.jsonl")


def entry(number, **fields):
    return {"type": "user", "uuid": f"uuid-{number}", "n": number, **fields}


def without_uuid(number, **fields):
    return {"type": "mode", "n": number, **fields}


def part_of(*entries):
    return "".join(json.dumps(found) + "\n" for found in entries).encode()


def parts_in(memory, directory=DIRECTORY):
    """The names of the parts of a transcript in memory, in their order."""
    names = [key.removeprefix(directory) for key in memory.objects if key.startswith(directory)]
    return sorted(name for name in names if "/" not in name)
