"""A collector of traces (OTLP over HTTP, in JSON), which takes nothing that OpenTelemetry's own schema does not know.

Arguments: a file for what was taken (one span a line, with its resource), a file that says how to answer: "ok", or a status. The
first line of output is the port.
"""
import base64
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

log, mood = open(sys.argv[1], "a", buffering=1), sys.argv[2]


def ids(value):
    """In OTLP ids are hexadecimal; in protobuf's JSON bytes are base64: the only difference."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key in ("traceId", "spanId", "parentSpanId"):
                raw = bytes.fromhex(one)
                assert len(raw) == (16 if key == "traceId" else 8) and one == one.lower(), one
                value[key] = base64.b64encode(raw).decode()
            else:
                ids(one)
    elif isinstance(value, list):
        for one in value:
            ids(one)
    return value


def plain(value):
    """An AnyValue as Python has it."""
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, kind)


def attributes(all):
    names = [one.key for one in all]
    assert len(names) == len(set(names)), f"twice: {names}"
    return {one.key: plain(one.value) for one in all}


def spans(request):
    for resource in request.resource_spans:
        about = attributes(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert span.start_time_unix_nano <= span.end_time_unix_nano, span
                yield {
                    "resource": about,
                    "scope": scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "span": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "flags": span.flags,
                    "name": span.name,
                    "kind": span.kind,
                    "error": span.status.code == 2,
                    "events": [event.name for event in span.events],
                    "links": [[link.trace_id.hex(), link.span_id.hex()] for link in span.links],
                    "attributes": attributes(span.attributes),
                    "took": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open(mood) as file:
            answer = file.read().strip()
        status = 200 if answer == "ok" else int(answer)
        if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/json":
            status = 400
        if self.headers["Authorization"] != "Bearer of-the-collector":
            status = 401
        if status == 200:
            try:
                request = ExportTraceServiceRequest()
                json_format.Parse(json.dumps(ids(json.loads(body))), request)
                for span in spans(request):
                    log.write(json.dumps({**span, "raw": body.decode()}) + "\n")
            except Exception as error:
                print(error, file=sys.stderr)
                status = 400
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
