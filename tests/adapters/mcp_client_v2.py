"""A client on the second generation of the official Python SDK: as mcp_client.py. What it is asked (elicitation) is
printed as {"asked"}; the next line of input is the answer. Arguments: URL, and "elicit" where it can be asked.
"""
import asyncio
import json
import sys

from mcp import Client
from mcp_types import ElicitResult


def say(value):
    print(json.dumps(value), flush=True)


async def line():
    return await asyncio.to_thread(sys.stdin.readline)


async def elicit(context, params):
    say({"asked": params.model_dump(mode="json", by_alias=True, exclude_none=True)})
    return ElicitResult(**json.loads(await line()))


async def main(url, *can):
    asked = {"elicitation_callback": elicit} if can else {}
    async with Client(url, mode="2026-07-28", **asked) as client:
        say({"tools": [tool.name for tool in (await client.list_tools()).tools]})
        while text := await line():
            what = json.loads(text)
            try:
                if "tool" in what:
                    result = await client.call_tool(what["tool"], what["arguments"])
                else:
                    result = await client.read_resource(what["resource"])
                say(result.model_dump(mode="json", by_alias=True, exclude_none=True))
            except Exception as error:
                say({"error": str(error), "code": getattr(getattr(error, "error", None), "code", None)})


asyncio.run(main(*sys.argv[1:]))
