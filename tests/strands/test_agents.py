"""An agent of one SDK goes on where one of the other stopped, and then the first goes on again."""

import json

import pytest

from snapstore.integrations.strands import convert_interrupt_id, convert_snapshot

SYSTEM_PROMPT = "You know the weather. 🌧️"
STATE = {"turns": 1, "units": ["mm", "°C"], "like an image": {"source": {"bytes": "AAAA"}}}
QUESTION = "Is it raining in Zürich? 你好 🌧️"
RAIN = {"rain": True, "mm": 3.5, "until": None}
ARGUMENTS = {"city": "Zürich 🌧️", "source": {"bytes": "AAAA"}}


def agent(*script, **options):
    return [{"id": "weather", "script": list(script), **options}]


def says(text, **turn):
    return {"content": [{"text": text}], **turn}


def calls(*names, text="Let me see.", **arguments):
    uses = [
        {"toolUse": {"name": name, "toolUseId": f"t-{number}", "input": arguments}}
        for number, name in enumerate(names)
    ]
    return {"content": [{"text": text}, *uses]}


def told(messages):
    """What was said, by whom, without what the SDKs note about it."""
    return [(message["role"], message["content"]) for message in messages]


def result_of(number, *content, status="success"):
    return {"toolResult": {"toolUseId": f"t-{number}", "status": status, "content": list(content)}}


def answers(outcome, response, to):
    """The answer to the interrupt that a run ended with, for an agent of the other SDK."""
    [asked] = outcome.interrupts
    there = convert_interrupt_id(asked["id"], asked["name"], to=to)
    assert there != asked["id"]
    return [{"interruptResponse": {"interruptId": there, "response": response}}]


CONVERSATION = [
    ("user", [{"text": QUESTION}]),
    ("assistant", calls("weather", **ARGUMENTS)["content"]),
    ("user", [result_of(0, {"json": RAIN})]),
    ("assistant", [{"text": "It rains."}]),
    ("user", [{"text": "And now?"}]),
    ("assistant", [{"text": "Still. 🌧️"}]),
    ("user", [{"text": "Really?"}]),
    ("assistant", [{"text": "Yes."}]),
]


async def test_conversation_goes_from_typescript_to_python_and_back(session):
    begin = calls("weather", **ARGUMENTS), says("It rains.", responseId="r-1")
    first = await session.typescript(
        agents=agent(*begin, systemPrompt=SYSTEM_PROMPT, state=STATE), input=QUESTION
    )
    there = await session.python(agents=agent(says("Still. 🌧️", responseId="r-2")), input="And now?")
    back = await session.typescript(agents=agent(says("Yes.")), input="Really?")

    assert told(first.messages) == CONVERSATION[:4]
    assert told(there.messages) == CONVERSATION[:6]
    assert told(there.asked["weather"][0]["messages"]) == CONVERSATION[:5]
    assert told(back.messages) == CONVERSATION
    assert told(back.asked["weather"][0]["messages"]) == CONVERSATION[:7]
    tracked = [message["trackingId"] for message in back.messages]
    assert tracked[:4] == [message["trackingId"] for message in first.messages]
    assert tracked[:6] == [message["tracking_id"] for message in there.messages]
    assert first.state == there.state == back.state == STATE
    assert there.asked["weather"][0]["systemPrompt"] == SYSTEM_PROMPT
    assert first.system_prompt == SYSTEM_PROMPT
    assert there.system_prompt == back.system_prompt == [{"text": SYSTEM_PROMPT}]
    assert (first.model_state, there.model_state) == ({"responseId": "r-1"}, {"response_id": "r-2"})
    assert back.model_state == {"responseId": "r-2"}


async def test_conversation_goes_from_python_to_typescript_and_back(session):
    begin = calls("weather", **ARGUMENTS), says("It rains.", responseId="r-1")
    first = await session.python(
        agents=agent(*begin, systemPrompt=SYSTEM_PROMPT, state=STATE), input=QUESTION
    )
    there = await session.typescript(
        agents=agent(says("Still. 🌧️", responseId="r-2")), input="And now?"
    )
    back = await session.python(agents=agent(says("Yes.")), input="Really?")

    assert told(first.messages) == CONVERSATION[:4]
    assert told(there.messages) == CONVERSATION[:6]
    assert told(there.asked["weather"][0]["messages"]) == CONVERSATION[:5]
    assert told(back.messages) == CONVERSATION
    tracked = [message["tracking_id"] for message in back.messages]
    assert tracked[:4] == [message["tracking_id"] for message in first.messages]
    assert tracked[:6] == [message["trackingId"] for message in there.messages]
    usage = first.messages[3]["metadata"]
    assert usage == there.messages[3]["metadata"] == back.messages[3]["metadata"]
    assert first.state == there.state == back.state == STATE
    assert first.system_prompt == there.system_prompt == back.system_prompt
    assert back.asked["weather"][0]["systemPrompt"] == SYSTEM_PROMPT
    assert [first.model_state, there.model_state, back.model_state] == [
        {"response_id": "r-1"},
        {"responseId": "r-2"},
        {"response_id": "r-2"},
    ]


PNG = b"\x89PNG\x00\xff"
PNG_BASE64 = "iVBORwD/"


def seen(image):
    return [
        {"text": "Look:"},
        {"image": {"format": "png", "source": {"bytes": image}}},
        {"document": {"name": "notes", "format": "txt", "source": {"bytes": image}}},
    ]


THOUGHTS = {"text": "Rain has drops.", "signature": "c2lnbmVk"}


async def test_images_and_thoughts_survive_python(session):
    thinks = {"content": [{"reasoning": THOUGHTS}, {"text": "Rain."}]}
    await session.typescript(agents=agent(thinks), input=seen(PNG_BASE64))
    there = await session.python(agents=agent(says("Still.")), input=seen(PNG))
    back = await session.typescript(agents=agent(says("Yes.")), input="Really?")

    assert there.messages[0]["content"] == there.messages[2]["content"] == seen(PNG)
    assert there.messages[1]["content"][0] == {"reasoningContent": {"reasoningText": THOUGHTS}}
    assert back.messages[0]["content"] == back.messages[2]["content"] == seen(PNG_BASE64)
    assert back.messages[1]["content"][0] == {"reasoning": THOUGHTS}
    assert told(back.asked["weather"][0]["messages"])[:4] == told(back.messages)[:4]


async def test_images_and_thoughts_survive_typescript(session):
    thinks = {"content": [{"reasoning": THOUGHTS}, {"text": "Rain."}]}
    first = await session.python(agents=agent(thinks), input=seen(PNG))
    there = await session.typescript(agents=agent(says("Still.")), input=seen(PNG_BASE64))
    back = await session.python(agents=agent(says("Yes.")), input="Really?")

    assert there.messages[0]["content"] == there.messages[2]["content"] == seen(PNG_BASE64)
    assert there.messages[1]["content"][0] == {"reasoning": THOUGHTS}
    assert back.messages[:2] == first.messages
    assert back.messages[2]["content"] == seen(PNG)


async def test_a_system_prompt_with_a_cache_point_is_one_there(session):
    prompt = [{"text": SYSTEM_PROMPT}, {"cachePoint": {"type": "default"}}, {"text": "Be brief."}]
    await session.python(agents=agent(says("Hm."), systemPrompt=prompt), input="Hi")
    there = await session.typescript(agents=agent(says("Ha.")), input="Ho")
    back = await session.python(agents=agent(says("Oh.")), input="Hu")

    assert there.system_prompt == [prompt[0], {"cachePoint": {"cacheType": "default"}}, prompt[2]]
    assert back.system_prompt == prompt


async def test_cut_emoji_is_a_replacement_character_in_python(session):
    cut = "rain \ud83c", "\udf27 rain"
    first = await session.typescript(
        agents=agent(says(cut[1]), state={"cut": cut[0]}), input=f"{cut[0]} 🌧️"
    )
    assert (first.messages[0]["content"], first.state) == (
        [{"text": f"{cut[0]} 🌧️"}],
        {"cut": cut[0]},
    )

    there = await session.python(agents=agent(says("Hm.")), input="And now?")
    back = await session.typescript(agents=agent(says("Ha.")), input="Really?")

    for outcome in (there, back):
        assert told(outcome.messages)[:2] == [
            ("user", [{"text": "rain \ufffd 🌧️"}]),
            ("assistant", [{"text": "\ufffd rain"}]),
        ]
        assert outcome.state == {"cut": "rain \ufffd"}


BOOKED = [
    ("user", [{"text": "A room!"}]),
    ("assistant", calls("weather", "book")["content"]),
    ("user", [result_of(0, {"json": RAIN}), result_of(1, {"text": "booked for Ann"})]),
    ("assistant", [{"text": "Booked."}]),
]


async def test_what_a_tool_asked_in_typescript_is_answered_in_python(session):
    asked = await session.typescript(agents=agent(calls("weather", "book")), input="A room!")
    assert (asked.status, asked.interrupts[0]["reason"]) == ("interrupt", {"price": 3})

    there = await session.python(
        agents=agent(says("Booked.")), input=answers(asked, "Ann", "python")
    )
    assert told(there.messages) == BOOKED
    assert told(there.asked["weather"][0]["messages"]) == BOOKED[:3]
    assert there.interrupt_state == {"interrupts": {}, "context": {}, "activated": False}

    back = await session.typescript(agents=agent(says("Sure.")), input="Really?")
    assert told(back.messages)[:4] == BOOKED
    assert back.interrupt_state == {"interrupts": {}, "activated": False}


async def test_what_a_tool_asked_in_python_is_answered_in_typescript(session):
    asked = await session.python(agents=agent(calls("weather", "book")), input="A room!")
    assert (asked.status, asked.interrupts[0]["reason"]) == ("interrupt", {"price": 3})

    there = await session.typescript(
        agents=agent(says("Booked.")), input=answers(asked, "Ann", "typescript")
    )
    assert told(there.messages) == BOOKED
    assert told(there.asked["weather"][0]["messages"]) == BOOKED[:3]
    assert there.interrupt_state == {"interrupts": {}, "activated": False}

    back = await session.python(agents=agent(says("Sure.")), input="Really?")
    assert told(back.messages)[:4] == BOOKED
    assert back.interrupt_state == {"interrupts": {}, "context": {}, "activated": False}


@pytest.mark.parametrize(("response", "text"), [("yes", "deleted"), ("no", "not allowed")])
@pytest.mark.parametrize("to", ["python", "typescript"])
async def test_what_a_hook_asked_is_answered_by_the_other_sdk(session, to, response, text):
    here, there = session.typescript, session.python
    if to == "typescript":
        here, there = there, here
    asked = await here(agents=agent(calls("delete")), input="Away!")
    assert asked.interrupts[0]["name"] == "allow"

    done = await there(agents=agent(says("Done.")), input=answers(asked, response, to))

    assert done.messages[2]["content"][0]["toolResult"]["content"] == [{"text": text}]
    assert told(done.messages)[3] == ("assistant", [{"text": "Done."}])


async def test_a_question_may_go_there_and_back_before_it_is_answered(session):
    asked = await session.typescript(agents=agent(calls("weather", "book")), input="A room!")
    there = await session.python(agents=agent(), save="latest")
    assert there.interrupt_state["activated"]
    back = await session.typescript(
        agents=agent(says("Booked.")),
        input=[
            {"interruptResponse": {"interruptId": asked.interrupts[0]["id"], "response": "Ann"}}
        ],
    )

    assert told(back.messages) == BOOKED


async def test_the_other_sdk_refuses_what_is_not_translated(session, stored):
    session.dialect = "python"
    await session.python(agents=agent(says("Hm.")), input="Hi")
    with pytest.raises(RuntimeError, match="Unsupported snapshot schema version"):
        await session.typescript(agents=agent())

    document = await stored.read("agent/weather")
    await stored.write("agent/weather", convert_snapshot(document, "typescript"))

    there = await session.typescript(agents=agent(says("Ha.")), input="Ho")
    assert len(there.messages) == 4


async def test_each_goes_back_to_what_the_other_has_in_history(session):
    await session.typescript(agents=agent(says("One.")), input="1", save="history")
    there = await session.python(agents=agent(says("Two.")), input="2", save="history")
    back = await session.typescript(agents=agent(), restore=1)
    again = await session.python(agents=agent(says("Three.")), restore=0, input="3")

    assert (len(there.history), len(back.history)) == (1, 2)
    assert back.history[:1] == there.history
    assert back.history == again.history
    assert told(back.messages) == told(there.messages)
    texts = [message["content"][0]["text"] for message in again.messages]
    assert texts == ["1", "One.", "3", "Three."]


async def test_what_only_python_knows_lasts_until_typescript_saves(session, stored):
    await session.python(agents=agent(says("Hm.")), input="Hi")
    document = json.loads(await stored.read("agent/weather"))
    name = "conversation_manager_state"
    assert document["data"][name]["__name__"] == "SlidingWindowConversationManager"

    await session.typescript(agents=agent())
    assert json.loads(await stored.read("agent/weather")) == document
    await session.typescript(agents=agent(), save="latest")
    assert name not in json.loads(await stored.read("agent/weather"))["data"]

    back = await session.python(agents=agent(says("Ha.")), input="Ho")
    assert len(back.messages) == 4


@pytest.mark.parametrize("saves", ["typescript", "python"])
async def test_neither_keeps_the_data_of_the_application_when_it_saves(session, stored, saves):
    session.dialect = "python"
    side = session.typescript if saves == "typescript" else session.python
    await side(agents=agent(says("Hm.")), input="Hi")
    document = json.loads(await stored.read("agent/weather"))
    name = "appData" if saves == "typescript" else "app_data"
    await stored.write("agent/weather", json.dumps(document | {name: {"a": 1}}).encode())

    await side(agents=agent(), save="latest")

    assert json.loads(await stored.read("agent/weather"))[name] == {}


async def test_an_image_by_url_stays_in_the_messages_of_python(session):
    image = {"image": {"format": "png", "source": {"url": "https://example.com/a.png"}}}
    await session.typescript(agents=agent(says("Hm.")), input=[{"text": "Look"}, image])
    there = await session.python(agents=agent(says("Ha.")), input="Ho")
    back = await session.typescript(agents=agent())

    assert there.messages[0]["content"][1] == back.messages[0]["content"][1] == image


@pytest.mark.parametrize("asks", ["book", "delete", None])
@pytest.mark.parametrize("begins", ["typescript", "python"])
async def test_what_an_sdk_wrote_is_the_same_there_and_back(session, stored, begins, asks):
    session.dialect = begins
    begin = session.typescript if begins == "typescript" else session.python
    turns = [calls("weather", **ARGUMENTS), says("It rains."), calls(asks)]
    await begin(agents=agent(*turns[:2], systemPrompt=SYSTEM_PROMPT, state=STATE), input=QUESTION)
    if asks:
        await begin(agents=agent(turns[2]), input="And now?")
    document = await stored.read("agent/weather")

    other = "python" if begins == "typescript" else "typescript"
    assert convert_snapshot(document, begins) == document
    there = convert_snapshot(document, other)
    assert json.loads(convert_snapshot(there, begins)) == json.loads(document)
