"""A gRPC server over TLS without generated code: /t.T/Echo answers what it got, /t.T/Count streams three messages,
/t.T/Fail ends with an error; each with a trailer. Arguments: certificate, key. The first line of output is the port.
"""
import sys
from concurrent import futures

import grpc


def echo(request, context):
    context.set_trailing_metadata((("x-trailer", "t ada@example.com"),))
    return b"got " + request


def count(request, context):
    for n in range(3):
        yield b"%d" % n
    context.set_trailing_metadata((("x-trailer", "t"),))


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


handlers = grpc.method_handlers_generic_handler(
    "t.T",
    {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Fail": grpc.unary_unary_rpc_method_handler(fail),
    },
)
with open(sys.argv[1], "rb") as certificate, open(sys.argv[2], "rb") as key:
    credentials = grpc.ssl_server_credentials([(key.read(), certificate.read())])
server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
server.add_generic_rpc_handlers((handlers,))
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print(port, flush=True)
server.wait_for_termination()
