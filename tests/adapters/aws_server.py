"""An S3 of one bucket that answers only what is signed with the real key: AWS's own library computes the signature again.

Arguments: access key, secret, session token. The first line of output is the port. What reaches it is kept, and told to
who asks for /__seen.
"""
import hashlib
import json
import re
import sys
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

access_key, secret, token = sys.argv[1:4]
objects, seen = {}, []


def signed(handler, body):
    """Why the signature does not hold, or None."""
    value = handler.headers.get_all("Authorization") or []
    if len(value) != 1:
        return f"{len(value)} signatures"
    parts = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, SignedHeaders=([^,]+), Signature=(\w+)", value[0]
    )
    if not parts:
        return f"no signature: {value[0]}"
    key, _, region, names, signature = parts.groups()
    if key != access_key or handler.headers.get("X-Amz-Security-Token") != token:
        return f"another key: {key}"
    if "X-Amz-Signature" in handler.path:
        return "a signature in the query"
    content = handler.headers["X-Amz-Content-SHA256"]
    if content != hashlib.sha256(body).hexdigest():
        return f"another body: {content}"
    request = AWSRequest(handler.command, f"http://{handler.headers['Host']}{handler.path}", data=body)
    for name in names.split(";"):
        request.headers[name] = handler.headers[name]
    date = handler.headers["X-Amz-Date"]
    if abs((datetime.utcnow() - datetime.strptime(date, "%Y%m%dT%H%M%SZ")).total_seconds()) > 300:
        return f"another time: {date}"
    request.context["timestamp"] = date
    auth = S3SigV4Auth(Credentials(access_key, secret, token), "s3", region)
    expected = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return None if signature == expected else f"{signature} is not {expected}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", kind="application/xml"):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/__seen":
            return self.reply(200, json.dumps(seen).encode(), "application/json")
        why = signed(self, body)
        seen.append([self.command, self.path, why, str(self.headers)])
        if why:
            error = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{why}</Message></Error>"
            return self.reply(403, error.encode())
        path = self.path.split("?")[0]
        if self.command == "PUT":
            objects[path] = body
            return self.reply(200)
        if path in objects:
            return self.reply(200, objects[path], "text/plain")
        listed = "".join(f"<Contents><Key>{name.split('/', 2)[2]}</Key></Contents>" for name in objects)
        self.reply(200, f"<ListBucketResult><Name>b</Name><EncodingType>url</EncodingType>{listed}</ListBucketResult>".encode())

    do_GET = do_PUT = do_HEAD = answer


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
