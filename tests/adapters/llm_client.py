"""The official Python clients of OpenAI and Anthropic: each API whole and streamed, then a prompt with a key in it. A
line of JSON for each. Argument: URL of the provider.
"""
import json
import sys

import anthropic
import openai

url = sys.argv[1]
one = openai.OpenAI(base_url=f"{url}/v1", api_key="placeholder")
other = anthropic.Anthropic(base_url=url, api_key="placeholder")
MODEL = {"model": "m"}
TURN = [{"role": "user", "content": "whom do I write to?"}]


def say(*what):
    print(json.dumps(what), flush=True)


say("chat", one.chat.completions.create(messages=TURN, **MODEL).choices[0].message.content)
chunks = one.chat.completions.create(messages=TURN, stream=True, **MODEL)
say("chat", "".join(c.choices[0].delta.content or "" for c in chunks))
say("responses", one.responses.create(input="whom?", **MODEL).output_text)
with one.responses.stream(input="whom?", **MODEL) as stream:
    text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
    say("responses", text)
    say("responses", stream.get_final_response().output_text)
say("messages", other.messages.create(messages=TURN, max_tokens=9, **MODEL).content[0].text)
with other.messages.stream(messages=TURN, max_tokens=9, **MODEL) as stream:
    say("messages", "".join(stream.text_stream))
    say("messages", stream.get_final_message().content[0].text)

KEY = "use AKIAIOSFODNN7" + "QWERTYZ for it"
SECRET = [{"role": "user", "content": KEY}]
for ask in (
    lambda: one.chat.completions.create(messages=SECRET, stream=True, **MODEL),
    lambda: one.responses.create(input=KEY, **MODEL),
    lambda: other.messages.create(messages=SECRET, max_tokens=9, **MODEL),
):
    try:
        ask()
        say("allowed")
    except (openai.PermissionDeniedError, anthropic.PermissionDeniedError) as error:
        say("denied", error.status_code, error.body.get("error", error.body)["message"])
