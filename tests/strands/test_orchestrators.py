"""What a graph and a swarm of one SDK find in a session that one of the other SDK wrote.

A snapshot names the orchestrator and holds its progress, and the SDKs keep progress too
differently to go on with the other's: TypeScript's does not tell which nodes follow which, Python's
not which nodes there are. So each begins anew where the other one left off, as both do when a run
has ended.
"""

import json

import pytest

from snapstore.integrations.strands import convert_snapshot

LATEST = "multiAgent/work"
GRAPH = {"kind": "graph", "id": "work", "edges": [["a", "b"], ["b", "c"]]}
SWARM = {"kind": "swarm", "id": "work"}
OTHER = {"python": "typescript", "typescript": "python"}

BREAKS = {
    "fails": {"fails": "out of paper"},
    "asks": {"content": [{"toolUse": {"name": "book", "toolUseId": "t-1", "input": {}}}]},
}
"""How a run of an orchestrator may come to a stop before its end."""

EACH_ORCHESTRATOR = pytest.mark.parametrize("run", [GRAPH, SWARM], ids=["graph", "swarm"])
EACH_BREAK = pytest.mark.parametrize(
    # A swarm that has failed starts anew in its own SDK too.
    ("run", "how"),
    [(GRAPH, "fails"), (GRAPH, "asks"), (SWARM, "asks")],
    ids=["graph fails", "graph asks", "swarm asks"],
)
EACH_SDK = pytest.mark.parametrize("first", OTHER)


def says(text):
    return {"content": [{"text": text}]}


def hands_off(sdk, to):
    """What a model says in a swarm to have another agent go on, and what it says after that."""
    if sdk == "python":
        use = {"name": "handoff_to_agent", "input": {"agent_name": to, "message": f"{to}!"}}
    else:
        use = {"name": "strands_structured_output", "input": {"agentId": to, "message": f"{to}!"}}
    return [{"content": [{"toolUse": {"toolUseId": "t-0", **use}}]}, says("Handed off.")]


def ends(sdk):
    """What a model says in a swarm to be the last one."""
    if sdk == "python":
        return [says("Done.")]
    use = {"name": "strands_structured_output", "input": {"message": "Done."}}
    return [{"content": [{"toolUse": {"toolUseId": "t-0", **use}}]}]


def scripts(run, sdk, **others):
    """Three agents of which each does its part: in a graph by its edges, in a swarm by handoff."""
    if run is GRAPH:
        parts = {node: [says(f"{node} is done")] for node in "abc"}
    else:
        parts = {"a": hands_off(sdk, "b"), "b": hands_off(sdk, "c"), "c": ends(sdk)}
    return [{"id": node, "script": script} for node, script in (parts | others).items()]


async def go(session, sdk, run, input="Go on", **others):  # noqa: A002 -- its name there
    """Run in this SDK, and give what came of it."""
    side = session.typescript if sdk == "typescript" else session.python
    return await side(**run, agents=scripts(run, sdk, **others), input=input)


def at_work(outcome):
    """The agents whose models were asked."""
    return [node for node, calls in outcome.asked.items() if calls]


async def break_off(session, sdk, run, how):
    """Come to a stop in the second of three agents; return the interrupts."""
    if how == "fails" and sdk == "python" and run is GRAPH:
        with pytest.raises(RuntimeError, match="out of paper"):
            await go(session, sdk, run, b=[BREAKS[how]])
        return None
    outcome = await go(session, sdk, run, b=[BREAKS[how]])
    assert outcome.status.lower() == {"fails": "failed", "asks": "interrupted"}[how]
    return outcome.interrupts


@EACH_ORCHESTRATOR
@EACH_SDK
async def test_run_ended_is_followed_by_one_of_the_other_sdk(session, first, run):
    for sdk in (first, OTHER[first], first):
        outcome = await go(session, sdk, run)

        assert (outcome.status.lower(), at_work(outcome)) == ("completed", ["a", "b", "c"])


@EACH_BREAK
@EACH_SDK
async def test_run_not_ended_goes_on_after_the_other_sdk(session, stored, first, run, how):
    session.dialect = first
    interrupts = await break_off(session, first, run, how)
    document = await stored.read(LATEST)

    there = convert_snapshot(document, OTHER[first])
    back = convert_snapshot(there, first)

    assert json.loads(back) == json.loads(document)
    await stored.write(LATEST, back)
    answer = [
        {"interruptResponse": {"interruptId": interrupt["id"], "response": "Ann"}}
        for interrupt in interrupts or ()
    ]
    outcome = await go(session, first, run, answer or "Go on")
    assert at_work(outcome) == ["b", "c"]


@EACH_BREAK
@EACH_SDK
async def test_a_run_that_was_not_ended_begins_anew_in_the_other_sdk(
    session, stored, first, run, how
):
    session.dialect = first
    await break_off(session, first, run, how)
    there = convert_snapshot(await stored.read(LATEST), OTHER[first])
    await stored.write(LATEST, there)
    assert f"{first}_state" in json.loads(there)["data"]

    session.dialect = OTHER[first]
    outcome = await go(session, OTHER[first], run)

    assert (outcome.status.lower(), at_work(outcome)) == ("completed", ["a", "b", "c"])
    # What was carried along lasts until the other SDK saves.
    assert f"{first}_state" not in json.loads(await stored.read(LATEST))["data"]
