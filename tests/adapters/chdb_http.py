"""ClickHouse's own engine (chdb) behind as much of its HTTP interface as an agent uses, with faults on demand.

POST /?query=INSERT…&setting=value with the rows as body; GET /fault?kind=drop|refuse|none&times=N; GET /count?query=SELECT….
A fault `drop` commits the insert and closes the connection without an answer. The engine has no users here: GET /rights?of=NAME&only=INSERT
stands in for the grants of deploy/clickhouse/002-access.sql, as a server answers them; any other user may do everything.
"""
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from chdb.session import Session

session = Session(sys.argv[1])
lock = threading.Lock()
fault = {"kind": "none", "times": 0}
rights = {}


def ask(query, fmt="TabSeparated"):
    with lock:
        return bytes(session.query(query, fmt).bytes())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        url = urlsplit(self.path)
        parameters = dict(parse_qsl(url.query))
        if url.path == "/fault":
            fault.update(kind=parameters["kind"], times=int(parameters["times"]))
            return self.reply(200, b"")
        if url.path == "/rights":
            rights[parameters["of"]] = parameters["only"].split(",")
            return self.reply(200, b"")
        return self.reply(200, ask(parameters["query"]))

    def body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        parameters = dict(parse_qsl(urlsplit(self.path).query))
        body = self.body()
        query = parameters.pop("query", "")
        if not query:
            query, body = body.decode(), b""
        only = rights.get(self.headers.get("X-ClickHouse-User", ""))
        if only is not None and query.startswith("CHECK GRANT "):
            return self.reply(200, b"1\n" if query[12:].split(" ON ")[0] in only else b"0\n")
        if only is not None and query.split()[0].upper() not in only:
            return self.reply(403, b"Code: 497. DB::Exception: Not enough privileges. (ACCESS_DENIED)")
        kind = "none"
        if fault["times"] > 0:
            fault["times"] -= 1
            kind = fault["kind"]
        if kind == "refuse":
            return self.reply(503, b"Code: 242. DB::Exception: Table is in readonly mode")
        settings = {k: v for k, v in parameters.items() if k not in ("database", "user", "password", "default_format")}
        if query.upper().startswith("INSERT"):
            into, _, fmt = query.rpartition(" FORMAT ")
            pairs = ", ".join(f"{k}='{v}'" for k, v in settings.items())
            query = f"{into} SETTINGS {pairs} FORMAT {fmt}\n" + body.decode()
        try:
            answer = ask(query)
        except Exception as error:  # what the engine says, as the server would say it
            return self.reply(404 if "UNKNOWN_TABLE" in str(error) else 500, str(error).encode())
        if kind == "drop":
            self.close_connection = True
            return self.connection.close()
        return self.reply(200, answer)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except OSError:  # an agent that ends does not wait for its answer
            self.close_connection = True

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Handler)
plain = "".join(line for line in open(sys.argv[2]) if not line.startswith("--"))
for statement in plain.split(";"):
    if statement.strip():
        ask(statement)
print(server.server_address[1], flush=True)
server.serve_forever()
