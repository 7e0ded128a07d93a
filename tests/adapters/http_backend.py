"""An HTTP/1.1 target: serves the files of a directory in the form that is asked for, and writes down what reached it.

GET /file/NAME?type=TYPE&coding=CODING&step=BYTES: the file; in chunks of so many bytes, or with its length (step=0).
GET /sse: an event, and after POST /release another. /sink/…: a body of any length, in the log by its length and digest.
/git/…: repositories in `git` beside that directory. Everything else: 200 with JSON, 204 for DELETE.
Arguments: directory, file for the log. The first line of output is the port.
"""
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile
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

    def pieces(self):
        """The body as it comes."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.line(), 16):
                yield self.some(size)
                self.line()
            self.line()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self.some(min(left, 1 << 16))
            left -= len(piece)
            yield piece

    def line(self):
        if not (line := self.rfile.readline()):
            raise ConnectionError
        return line

    def some(self, size):
        if len(piece := self.rfile.read(size)) < size:
            raise ConnectionError
        return piece

    def sink(self):
        digest, length = hashlib.sha256(), 0
        try:
            for piece in self.pieces():
                digest.update(piece)
                length += len(piece)
        except ConnectionError:
            self.close_connection = True
            return
        seen = {"line": self.requestline, "headers": {k.lower(): v for k, v in self.headers.items()}}
        log.write(json.dumps(seen | {"length": length, "sha256": digest.hexdigest()}) + "\n")
        self.reply(201, b"stored", Content_Type="text/plain")

    def git(self, url):
        with tempfile.TemporaryFile() as body:
            for piece in self.pieces():
                body.write(piece)
            length = body.tell()
            body.seek(0)
            log.write(json.dumps({"line": self.requestline, "length": length}) + "\n")
            variables = {
                "GIT_PROJECT_ROOT": os.path.join(os.path.dirname(directory), "git"),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": url.path.removeprefix("/git"),
                "QUERY_STRING": url.query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(length),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "HTTP_GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "agent",
                "REMOTE_ADDR": "127.0.0.1",
                "PATH": os.environ["PATH"],
            }
            out = subprocess.run(["git", "http-backend"], stdin=body, env=variables, capture_output=True, check=True).stdout
        head, _, answer = out.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(fields.pop("Status", "200").split()[0])
        self.reply(status, answer, **{name: value for name, value in fields.items() if name != "Content-Length"})

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
        if self.path.startswith("/sink/"):
            return self.sink()
        if self.path.startswith("/git/"):
            return self.git(urlsplit(self.path))
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
