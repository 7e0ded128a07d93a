"""Calls tests/adapters/grpc_server.py by the name `localhost` and prints what it sees. Argument: the port."""
import sys

import grpc

channel = grpc.secure_channel(f"localhost:{sys.argv[1]}", grpc.ssl_channel_credentials())


def show(method):
    try:
        answer, call = channel.unary_unary(f"/t.T/{method}").with_call(b"hello", timeout=20)
        print(method, answer.decode(), dict(call.trailing_metadata()).get("x-trailer"))
    except grpc.RpcError as error:
        print(method, error.code().name, error.details())


show("Echo")
numbers = channel.unary_stream("/t.T/Count")(b"", timeout=20)
print("Count", b" ".join(numbers).decode(), dict(numbers.trailing_metadata()).get("x-trailer"))
everybody = channel.unary_stream("/t.T/People")(b"", timeout=20)
print("People", list(everybody), dict(everybody.trailing_metadata()).get("x-details-bin"))
show("Fail")
show("Secret")
