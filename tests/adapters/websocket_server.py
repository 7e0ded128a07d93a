"""A WebSocket server over TLS: echoes, and says things of its own. Arguments: certificate, key. First line: the port; then a
line for each close that it was told, with the code."""
import asyncio
import ssl
import sys

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


async def talk(connection):
    await connection.send("hello ada@example.com")
    await connection.send(["one ada@exam", "ple.com", " in parts"])
    await connection.send(b"\x00\x01 binary \xff")
    try:
        while True:
            message = await connection.recv()
            if message == "bye":
                return await connection.close(1000, "bye ada@example.com")
            await connection.send(f"you said {message}" if isinstance(message, str) else message)
    except ConnectionClosed as closed:
        print("closed", closed.rcvd and closed.rcvd.code, flush=True)


async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    async with serve(talk, "127.0.0.1", 0, ssl=context) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()


asyncio.run(main())
