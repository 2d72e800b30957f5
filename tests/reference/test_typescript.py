"""What snapstore wrote, the Strands SDK for TypeScript reads, and the other way round."""

import msgspec
import pytest

from snapstore import (
    Snapshot,
    SnapshotConflictError,
    SnapshotExistsError,
    SnapshotLocation,
    SnapshotManifest,
)

AGENT = SnapshotLocation.agent("session-1", "weather")
GRAPH = SnapshotLocation.multi_agent("session-1", "graph_1")
SIBLING = SnapshotLocation.agent("session-10", "weather")
CREATED_AT = "2026-11-22T11:13:20.403Z"
IDS = [f"01912a3b-{n:04x}-7000-8000-{n:012x}" for n in range(5)]

CONTENTS = {
    "nothing": {},
    "a conversation with a tool": {
        "messages": [
            {"role": "user", "content": [{"text": "Is it raining in Zürich?"}]},
            {
                "role": "assistant",
                "content": [
                    {"text": "Let me look."},
                    {"toolUse": {"toolUseId": "t-1", "name": "weather", "input": {"in": "Zürich"}}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "toolResult": {
                            "toolUseId": "t-1",
                            "status": "success",
                            "content": [{"json": {"rain": True, "mm": 3.5, "until": None}}],
                        }
                    }
                ],
            },
        ],
        "state": {},
        "systemPrompt": None,
    },
    "Unicode": {"text": 'Zürich 雨 🌧️ "\\/ \x00\x1f\x7f\u2028\ufeff\U0010ffff', "ключ 🔑": 1},
    "emojis cut in half": {"cut": "rain \ud83c", "rest": "\udf27 rain", "key \ud83c": ["\udf27"]},
    "numbers": {
        "integers": [0, -1, 2**31, 2**53 - 1, -(2**53) + 1],
        "fractions": [0.1, -0.1, 1 / 3, 1e21, 1e-7, 5e-324, 1.7976931348623157e308, -0.0],
    },
    "other values": {"list": [None, True, False, "", [], {}], "": "", "__proto__": {"a": 1}},
    "190 objects in each other": {"deep": msgspec.json.decode(b'{"a":' * 190 + b"1" + b"}" * 190)},
    "more than a megabyte": {"text": "Regen über Zürich. " * 100_000},
}


@pytest.fixture(params=CONTENTS.values(), ids=CONTENTS.keys())
def contents(request):
    return request.param


def snapshot_of(data, scope="agent"):
    return Snapshot(scope, "1.0", CREATED_AT, data, {"tenant": "acme"})


def document_of(data, scope="agent"):
    return {
        "scope": scope,
        "schemaVersion": "1.0",
        "createdAt": CREATED_AT,
        "data": data,
        "appData": {"tenant": "acme"},
    }


async def test_they_load_what_we_save(sides, contents):
    saved = await sides.ours.checkpoint(location=AGENT, snapshot=snapshot_of(contents))

    assert sides.theirs.load(AGENT) == document_of(contents)
    assert sides.theirs.load(AGENT, saved.snapshot_id) == document_of(contents)


async def test_we_load_what_they_save(sides, contents):
    sides.theirs.save(AGENT, document_of(contents))
    sides.theirs.save(AGENT, document_of(contents), IDS[0])

    latest = await sides.ours.load_snapshot(location=AGENT)
    assert latest == snapshot_of(contents)
    assert latest.dialect == "typescript"
    in_history = await sides.ours.load_snapshot(location=AGENT, snapshot_id=IDS[0])
    assert in_history == snapshot_of(contents)


async def test_what_they_load_and_save_again_is_still_what_we_saved(sides, contents):
    await sides.ours.save_snapshot(location=AGENT, snapshot=snapshot_of(contents), is_latest=True)

    sides.theirs.save(AGENT, sides.theirs.load(AGENT))

    assert await sides.ours.load_snapshot(location=AGENT) == snapshot_of(contents)


async def test_large_integers_are_exact_here_and_rounded_there(sides):
    snapshot = snapshot_of({"n": 2**53 + 1})
    await sides.ours.save_snapshot(location=AGENT, snapshot=snapshot, is_latest=True)

    assert await sides.ours.load_snapshot(location=AGENT) == snapshot
    assert sides.theirs.load(AGENT)["data"] == {"n": 2**53}


async def test_both_write_the_same_keys(sides):
    manifest = SnapshotManifest("1.0", CREATED_AT)
    for location in (AGENT, GRAPH):
        snapshot = snapshot_of({}, location.scope)
        await sides.ours.checkpoint(location=location, snapshot=snapshot, snapshot_id=IDS[0])
        await sides.ours.save_manifest(location=location, manifest=manifest)
    ours = await sides.keys()
    await sides.ours.delete_session(session_id=AGENT.session_id)
    assert await sides.keys() == set()

    for location in (AGENT, GRAPH):
        sides.theirs.save(location, document_of({}, location.scope))
        sides.theirs.save(location, document_of({}, location.scope), IDS[0])
        sides.theirs.save_manifest(location, {"schemaVersion": "1.0", "updatedAt": CREATED_AT})

    assert await sides.keys() == ours
    assert len(ours) == 6


async def test_snapshots_of_an_orchestrator_go_both_ways(sides):
    sides.theirs.save(GRAPH, document_of({"orchestratorId": "graph_1"}, "multiAgent"))
    loaded = await sides.ours.load_snapshot(location=GRAPH)
    assert loaded == snapshot_of({"orchestratorId": "graph_1"}, "multiAgent")

    await sides.ours.checkpoint(location=GRAPH, snapshot=loaded, snapshot_id=IDS[0])
    assert sides.theirs.load(GRAPH, IDS[0]) == document_of(
        {"orchestratorId": "graph_1"}, "multiAgent"
    )
    assert sides.theirs.load(AGENT) is None


async def test_both_find_nothing_where_nothing_is(sides):
    assert sides.theirs.load(AGENT) is None
    assert sides.theirs.list(AGENT) == []
    assert await sides.ours.load_snapshot(location=AGENT) is None
    assert await sides.ours.list_snapshot_ids(location=AGENT) == []


async def test_both_list_a_history_that_both_have_written(sides):
    minted = [
        (
            await sides.ours.save_snapshot(
                location=AGENT, snapshot=snapshot_of({"n": n}), is_latest=False
            )
        ).snapshot_id
        for n in range(3)
    ]
    for snapshot_id in reversed(IDS):
        sides.theirs.save(AGENT, document_of({}), snapshot_id)
    await sides.ours.save_snapshot(location=AGENT, snapshot=snapshot_of({}), is_latest=True)

    ids = IDS + minted  # of 2024, and of now
    for limit, start_after in [
        (None, None),
        (3, None),
        (0, None),
        (None, IDS[3]),
        (2, IDS[4]),
        (9, minted[-1]),
    ]:
        page = await sides.ours.list_snapshot_ids(
            location=AGENT, limit=limit, start_after=start_after
        )
        assert page == sides.theirs.list(AGENT, limit, start_after)
        assert page == [i for i in ids if start_after is None or i > start_after][:limit]


async def test_a_manifest_goes_both_ways(sides):
    assert sides.theirs.load_manifest(AGENT)["schemaVersion"] == "1.0"
    assert (await sides.ours.load_manifest(location=AGENT)).schema_version == "1.0"

    await sides.ours.save_manifest(location=AGENT, manifest=SnapshotManifest("1.0", CREATED_AT))
    assert sides.theirs.load_manifest(AGENT) == {"schemaVersion": "1.0", "updatedAt": CREATED_AT}

    sides.theirs.save_manifest(AGENT, {"schemaVersion": "1.1", "updatedAt": "later", "new": [1]})
    loaded = await sides.ours.load_manifest(location=AGENT)
    assert loaded == SnapshotManifest("1.1", "later", {"new": [1]})


async def test_we_delete_what_they_wrote_and_no_other_session(sides):
    sides.theirs.save(SIBLING, document_of({}))
    sibling = await sides.keys()
    for location in (AGENT, GRAPH):
        sides.theirs.save(location, document_of({}, location.scope))
        sides.theirs.save(location, document_of({}, location.scope), IDS[0])
        sides.theirs.save_manifest(location, {"schemaVersion": "1.0", "updatedAt": CREATED_AT})

    deleted = await sides.ours.delete_session(session_id=AGENT.session_id)

    assert (deleted.objects, deleted.kept) == (6, 0)
    assert await sides.keys() == sibling
    assert sides.theirs.load(AGENT) is None


async def test_they_delete_what_we_wrote_and_no_other_session(sides):
    await sides.ours.save_snapshot(location=SIBLING, snapshot=snapshot_of({}), is_latest=True)
    sibling = await sides.keys()
    for location in (AGENT, GRAPH):
        await sides.ours.checkpoint(location=location, snapshot=snapshot_of({}, location.scope))

    sides.theirs.delete_session(AGENT.session_id)

    assert await sides.keys() == sibling
    assert await sides.ours.load_snapshot(location=AGENT) is None
    # And the place can be used again.
    saved = await sides.ours.checkpoint(location=AGENT, snapshot=snapshot_of({}))
    assert sides.theirs.list(AGENT) == [saved.snapshot_id]


async def test_a_session_that_they_began_goes_on_here_and_there(sides):
    sides.theirs.save(AGENT, document_of({"turns": 1}))

    def count(snapshot):
        return msgspec.structs.replace(snapshot, data={"turns": snapshot.data["turns"] + 1})

    ours = await sides.ours.update_latest(location=AGENT, update=count)
    assert sides.theirs.load(AGENT) == document_of({"turns": 2})

    sides.theirs.save(AGENT, document_of({"turns": 3}))
    with pytest.raises(SnapshotConflictError):
        await sides.ours.save_snapshot(
            location=AGENT, snapshot=snapshot_of({"turns": 3}), is_latest=True, if_match=ours
        )
    await sides.ours.update_latest(location=AGENT, update=count)
    assert sides.theirs.load(AGENT) == document_of({"turns": 4})


async def test_we_do_not_overwrite_history_that_they_wrote(sides):
    sides.theirs.save(AGENT, document_of({"turns": 1}), IDS[0])

    with pytest.raises(SnapshotExistsError):
        await sides.ours.save_snapshot(
            location=AGENT, snapshot=snapshot_of({}), is_latest=False, snapshot_id=IDS[0]
        )

    assert sides.theirs.load(AGENT, IDS[0]) == document_of({"turns": 1})
