"""An HTTP/1.1 target: serves the files of a directory in the form that is asked for, and writes down what reached it.

GET /file/NAME?type=TYPE&coding=CODING&step=BYTES: the file; in chunks of so many bytes, or with its length (step=0).
GET /sse: an event, and after POST /release another. Everything else: 200 with JSON, 204 for DELETE.
Arguments: directory, file for the log. The first line of output is the port.
"""
import base64
import json
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

directory, log = sys.argv[1], open(sys.argv[2], "a", buffering=1)
released = threading.Semaphore(0)
PERSON = {"id": 7, "email": "ada@example.com", "card": "4111 1111 1111 1111", "total": 12.5}


def coded(body, coding):
    wbits = {"gzip": 31, "deflate": 15}.get(coding)
    if wbits is None:
        return body
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(body) + packer.flush()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def log_message(self, *_):
        pass

    def read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, piece):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def file(self, name, type="application/octet-stream", coding="", step="0", **_):
        try:
            with open(f"{directory}/{name}", "rb") as file:
                body = coded(file.read(), coding)
        except OSError:
            return self.reply(404)
        self.send_response(200)
        self.send_header("Content-Type", type)
        self.send_header("ETag", '"abc"')
        if coding:
            self.send_header("Content-Encoding", coding)
        if step == "0":
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        step = int(step)
        for at in range(0, len(body), step):
            self.chunk(body[at : at + step])
        self.chunk(b"")

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.chunk(b'data: {"first":"ada@example.com"}\n\n')
        released.acquire(timeout=30)
        self.chunk(b'data: {"second":"bob@example.org"}\n\n')
        self.chunk(b"")

    def answer(self):
        body = self.read_body()
        seen = {"line": self.requestline, "headers": {k.lower(): v for k, v in self.headers.items()}}
        seen["body"] = base64.b64encode(body).decode() if len(body) > 4096 else body.decode("utf-8", "replace")
        log.write(json.dumps(seen) + "\n")
        url = urlsplit(self.path)
        if url.path.startswith("/file/"):
            self.file(url.path.removeprefix("/file/"), **dict(parse_qsl(url.query)))
        elif url.path == "/sse":
            self.events()
        elif url.path == "/release":
            released.release()
            self.reply(204)
        elif url.path == "/echo":
            sent = {k.lower(): v for k, v in self.headers.items()}
            self.reply(200, json.dumps(sent).encode(), Content_Type="application/json", X_Sent=str(sent))
        elif url.path == "/gone":
            self.reply(404, b'{"error":"no ada@example.com here"}', Content_Type="application/json")
        elif self.command == "DELETE":
            self.reply(204)
        else:
            self.reply(
                200,
                json.dumps(PERSON).encode(),
                Content_Type="application/json",
                X_Owner="ada@example.com",
                Content_MD5="abc",
            )

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_PROPFIND = answer


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
