"""A stand-in for an API server with one node, and for an agent that is ready at the third question: prints its port, then one line for each
request; ends when the node has no taint of ours."""

import http.server
import json

TAINTS = [
    {"key": "other", "effect": "NoSchedule"},
    {"key": "interdict.dev/not-ready", "effect": "NoSchedule"},
    {"key": "interdict.dev/not-ready", "effect": "NoExecute"},
]
asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        token = self.headers.get("Authorization")
        print(self.command, self.path, status, token, json.dumps(TAINTS), flush=True)

    def do_GET(self):
        global asked
        if self.path == "/readyz":
            asked += 1
            self.reply(200 if asked >= 3 else 503, "")
        elif self.path == "/api/v1/nodes/node-1" and self.headers.get("Authorization") == "Bearer t0ken":
            self.reply(200, {"kind": "Node", "spec": {"taints": TAINTS}})
        else:
            self.reply(403, {"kind": "Status"})

    def do_PATCH(self):
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Content-Type"] == "application/json-patch+json"
        # Somebody else takes a taint off between the look and the first patch.
        if TAINTS[0]["key"] == "other":
            TAINTS.pop(0)
        for step in patch:
            at = int(step["path"].rsplit("/", 1)[1])
            if step["op"] == "test" and (at >= len(TAINTS) or TAINTS[at] != step["value"]):
                return self.reply(422, {"kind": "Status"})
            if step["op"] == "remove":
                TAINTS.pop(at)
        self.reply(200, {"kind": "Node"})

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
