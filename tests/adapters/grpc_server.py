"""A gRPC server over TLS without generated code: /t.T/Echo answers what it got, /t.T/Count streams three messages,
/t.T/People streams two messages with somebody's address in a message within, compressed; /t.T/Fail ends with an error;
each with a trailer. Arguments: certificate, key. The first line of output is the port.
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


def people(request, context):
    context.set_compression(grpc.Compression.Gzip)
    for n in range(2):
        yield b"\x08%c\x0a\x11\x12\x0fada@example.com\x1d\x01\x02\x03\x04" % (n + 1)
    context.set_trailing_metadata((("x-details-bin", b"\x0a\x0fada@example.com"),))


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")


handlers = grpc.method_handlers_generic_handler(
    "t.T",
    {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "People": grpc.unary_stream_rpc_method_handler(people),
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
