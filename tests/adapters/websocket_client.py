"""Talks to tests/adapters/websocket_server.py by the name `localhost` and prints what it sees. Argument: the port."""
import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus


async def main():
    url = f"wss://localhost:{sys.argv[1]}"
    async with connect(url + "/talk") as socket:
        for _ in range(3):
            print(await socket.recv())
        await socket.send("x" * 200_000)
        print(len(await socket.recv()))
        await socket.send("bye")
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            print(closed.rcvd.code, closed.rcvd.reason)
    async with connect(url + "/talk") as socket:
        for _ in range(3):
            await socket.recv()
        await socket.send('{"op": "read"}')
        print(await socket.recv())
        await socket.ping()
        await socket.send(['{"op": ', '"drop"}'])
        try:
            await socket.recv()
        except ConnectionClosed as closed:
            print(closed.rcvd.code, closed.rcvd.reason)
    try:
        await connect(url + "/secret")
    except InvalidStatus as refused:
        print(refused.response.status_code, b"no-secrets" in refused.response.body)


asyncio.run(main())
