"""A client on the official Python SDK: prints the names of the tools, then does what each line of input asks for
({"tool", "arguments"} or {"resource"}) and prints what came of it. What the server says by itself is printed when it
comes. Argument: URL.
"""
import asyncio
import json
import sys

from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client


def say(value):
    print(json.dumps(value), flush=True)


async def said(params):
    say({"said": params.data})


async def main(url):
    async with streamablehttp_client(url) as (read, write, _):
        async with ClientSession(read, write, logging_callback=said) as session:
            await session.initialize()
            say({"tools": [tool.name for tool in (await session.list_tools()).tools]})
            while line := await asyncio.to_thread(sys.stdin.readline):
                asked = json.loads(line)
                try:
                    if "tool" in asked:
                        result = await session.call_tool(asked["tool"], asked["arguments"])
                    else:
                        result = await session.read_resource(asked["resource"])
                    say(result.model_dump(mode="json", by_alias=True, exclude_none=True))
                except Exception as error:
                    say({"error": str(error), "code": getattr(getattr(error, "error", None), "code", None)})


asyncio.run(main(sys.argv[1]))
