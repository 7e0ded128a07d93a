"""The official Python client of OpenAI, responses over WebSocket. A line of JSON for each. Arguments: URL of the provider, and
what is tried: "plain", "masked" (prompts come back, a budget ends) or "held".
"""
import json
import sys

import openai
from websockets.exceptions import ConnectionClosed

url, what = sys.argv[1:3]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="placeholder")
KEY = "use AKIAIOSFODNN7" + "QWERTYZ for it"
DONE = ("response.completed", "response.failed", "response.incomplete", "error", "response.steer.failed")


def say(*told):
    print(json.dumps(told), flush=True)


def ended(connection, ends=1):
    """The pieces of each stream, and the last events."""
    texts, last = {}, []
    while len(last) < ends:
        event = json.loads(connection.recv_bytes())
        stream = event.get("stream_id")
        if event["type"].endswith(".delta"):
            texts[stream] = texts.get(stream, "") + event["delta"]
        if event["type"] in DONE:
            last.append(event)
    return texts, last


def whole(event):
    """What a response holds at its end."""
    item = event["response"]["output"][0]
    return item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]


def told(event):
    return [event["type"], event.get("status"), event["error"]["code"], event["error"]["message"]]


def ask(connection, ends=1, **more):
    connection.send({"type": "response.create", "model": "m", "input": "whom do I write to?", **more})
    texts, last = ended(connection, ends)
    return texts.get(more.get("stream_id")), last[-1]


def plain(connection):
    connection.response.create(model="m", input="whom do I write to?")
    events = iter(connection)
    text, event = "", next(events)
    while event.type != "response.completed":
        text += event.delta if event.type == "response.output_text.delta" else ""
        event = next(events)
    say("plain", text, event.response.output_text)
    connection.response.create(model="m", input=KEY)
    event = next(events)
    say("denied", event.type, event.code, event.message)
    text, last = ask(connection)
    say("again", text, whole(last))
    tool = {"type": "function", "name": "send", "parameters": {"type": "object"}}
    text, last = ask(connection, tools=[tool])
    say("tool", text, whole(last))
    for stream in ("a", "b"):
        connection.send({"type": "response.create", "model": "both", "input": "x", "stream_id": stream})
    texts, last = ended(connection, 2)
    say("streams", texts, [(event["stream_id"], whole(event)) for event in last])
    _, last = ask(connection, input=KEY, stream_id="c")
    say("denied", last["stream_id"], *told(last))
    connection.send({"type": "response.steer", "previous_response_id": "r1", "input": "and whom else?"})
    texts, last = ended(connection)
    say("steered", texts[None], whole(last[0]))
    connection.send({"type": "response.steer", "previous_response_id": "r1", "input": KEY})
    _, last = ended(connection)
    say("denied", last[0]["steer"]["input"] == KEY, *told(last[0]))
    connection.send({"type": "response.cancel"})
    _, last = ended(connection)
    say("unknown", *told(last[0]))
    _, last = ask(connection, background=True)
    say("unknown", *told(last))
    connection.send({"type": "response.create", "model": "gone", "input": "x"})
    try:
        ended(connection)
    except ConnectionClosed:
        say("gone")


def masked(connection):
    text, last = ask(connection, input="mail ada@example.com, key " + KEY[4:24])
    say("masked", text, whole(last))
    _, last = ask(connection, model="large")
    say("large", last["type"])
    _, last = ask(connection, model="large")
    say("large", *told(last))
    _, last = ask(connection, input="hello")
    say("small", last["type"])


def held(connection):
    """One stream waits for consent, pings and another stream do not."""
    connection.send({"type": "response.create", "model": "asked", "input": "x", "stream_id": "a"})
    connection.send({"type": "response.create", "model": "m", "input": "behind it", "stream_id": "a"})
    text, last = ask(connection, stream_id="b")
    say("beside", text, last["stream_id"])
    say("pinged", connection._connection.ping().wait(10))
    texts, last = ended(connection, 2)
    say("held", texts, [(event["stream_id"], event["response"]["id"]) for event in last])


def binary(connection):
    connection.send_raw(b"{}")
    try:
        ended(connection)
    except ConnectionClosed as error:
        say("binary", error.rcvd.code, error.rcvd.reason)


with client.responses.connect() as connection:
    {"plain": plain, "masked": masked, "held": held, "binary": binary}[what](connection)
