"""A stand-in for a provider of models (no real one can be asked here): chat completions, responses and messages over
TLS, whole and streamed. Every answer is the same text, whose e-mail address is split over several deltas.
Arguments: certificate, key, file for the log. The first line of output is the port.
"""
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

log = open(sys.argv[3], "a", buffering=1)
PIECES = ["Write to ad", "a@exam", "ple.", "com, then ", "wait"]
TEXT = "".join(PIECES)


def chat(stream):
    head = {"id": "c", "created": 1, "model": "m"}
    if not stream:
        message = {"role": "assistant", "content": TEXT}
        usage = {"prompt_tokens": 12, "completion_tokens": 34, "total_tokens": 46}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return None, {**head, "object": "chat.completion.chunk", "choices": [choice]}

    return [chunk({"role": "assistant", "content": ""}), *(chunk({"content": p}) for p in PIECES), chunk({}, "stop")]


def responses(stream):
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
    usage = {
        "input_tokens": 12, "output_tokens": 34, "total_tokens": 46,
        "input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0},
    }
    whole = {
        "id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": [message],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage,
    }
    if not stream:
        return whole
    place = {"item_id": "m", "output_index": 0, "content_index": 0, "logprobs": []}
    started = {**whole, "status": "in_progress", "output": [], "usage": None}
    item = {**message, "status": "in_progress", "content": []}
    empty = {**part, "text": ""}
    events = [
        {"type": "response.created", "response": started},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", "part": empty, **place},
        *({"type": "response.output_text.delta", "delta": p, **place} for p in PIECES),
        {"type": "response.output_text.done", "text": TEXT, **place},
        {"type": "response.completed", "response": whole},
    ]
    return [(e["type"], {**e, "sequence_number": n}) for n, e in enumerate(events)]


def messages(stream):
    whole = {
        "id": "a", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn", "stop_sequence": None,
        "content": [{"type": "text", "text": TEXT}], "usage": {"input_tokens": 12, "output_tokens": 34},
    }
    if not stream:
        return whole
    events = [
        {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in PIECES),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 34}},
        {"type": "message_stop"},
    ]
    return [(e["type"], e) for e in events]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        log.write(json.dumps({"path": self.path, "key": self.headers["X-Api-Key"], "body": asked}) + "\n")
        api = {"/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages}[self.path]
        stream = asked.get("stream", False)
        answer = api(stream)
        if stream:
            lines = (("" if name is None else f"event: {name}\n") + f"data: {json.dumps(data)}\n\n" for name, data in answer)
            body = "".join(lines) + ("data: [DONE]\n\n" if api is chat else "")
        else:
            body = json.dumps(answer)
        body = body.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if stream else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
