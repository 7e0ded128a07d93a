"""A stand-in for a provider of models (no real one can be asked here): chat completions, responses, messages, embeddings
and the list of models over TLS, whole and streamed. Every answer is the same text, whose e-mail address is split over
several deltas; a prompt with an alias in it is answered with the alias, in pieces too; a prompt with tools by a call.
Responses are answered over WebSocket as well, with the framing of the package websockets: each in the order of its stream, two
for the model "both" mixed event by event, none to its end for the model "gone". Arguments: certificate, key, file for the log. The first line of output is the port.
"""
import json
import re
import ssl
import threading
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from websockets.frames import Opcode
from websockets.server import ServerProtocol

log = open(sys.argv[3], "a", buffering=1)
PIECES = ["Write to ad", "a@exam", "ple.", "com, then ", "wait"]
TEXT = "".join(PIECES)
local = threading.local()


def said():
    """The pieces of this answer."""
    alias = local.alias
    if alias is None:
        return PIECES
    return ["I write to ", alias[:9], alias[9:20], alias[20:] + ", then wait"]


def called():
    """The pieces of the arguments of a call."""
    return ['{"to": "', *said(), '"}']


def chat(stream):
    TEXT, PIECES = "".join(said()), said()
    head = {"id": "c", "created": 1, "model": "m"}
    if local.tools:
        function = {"name": "send", "arguments": ""}
        call = {"index": 0, "id": "t", "type": "function", "function": function}
        pieces = [{"index": 0, "function": {"arguments": piece}} for piece in called()]
        deltas = [{"role": "assistant", "tool_calls": [call]}, *({"tool_calls": [piece]} for piece in pieces), {}]
        reasons = [None] * (len(deltas) - 1) + ["tool_calls"]
        chunks = zip(deltas, reasons)
        return [
            (None, {**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": d, "finish_reason": r}]})
            for d, r in chunks
        ]
    if not stream:
        message = {"role": "assistant", "content": TEXT}
        written = 5000 if local.large else 34
        usage = {"prompt_tokens": 12, "completion_tokens": written, "total_tokens": 12 + written}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {**head, "object": "chat.completion", "choices": [choice], "usage": usage}

    def chunk(delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return None, {**head, "object": "chat.completion.chunk", "choices": [choice]}

    counted = {**head, "object": "chat.completion.chunk", "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 34}}
    count = [(None, counted)] if local.count else []
    return [chunk({"role": "assistant", "content": ""}), *(chunk({"content": p}) for p in PIECES), chunk({}, "stop"), *count]


def responses(stream):
    TEXT, PIECES = "".join(said()), said()
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


def calls(pieces):
    """The events of a response that calls a tool."""
    arguments = "".join(pieces)
    call = {"type": "function_call", "id": "f", "call_id": "t", "name": "send", "arguments": "", "status": "in_progress"}
    place = {"item_id": "f", "output_index": 0}
    done = {**call, "arguments": arguments, "status": "completed"}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": call},
        *({"type": "response.function_call_arguments.delta", "delta": p, **place} for p in pieces),
        {"type": "response.function_call_arguments.done", "arguments": arguments, "name": "send", **place},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
    ], done


def spoken(asked, nth):
    """The events with which a message in a WebSocket is answered."""
    set_local(asked)
    stream = {"stream_id": asked["stream_id"]} if "stream_id" in asked else {}
    events = [event for _, event in responses(True)]
    if local.tools:
        made, item = calls(called())
        events = [events[0], *made, events[-1]]
        events[-1]["response"]["output"] = [item]
    for n, event in enumerate(events):
        event.update(stream, sequence_number=n)
        if "response" in event:
            event["response"].update(id=f"r{nth}", previous_response_id=asked.get("previous_response_id"))
    if local.large:
        events[-1]["response"]["usage"] |= {"output_tokens": 5000, "total_tokens": 5012}
    return events


class Socket:
    """One WebSocket, its handshake answered."""

    def __init__(self, handler):
        self.handler, self.protocol = handler, ServerProtocol()
        head = f"GET {handler.path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in handler.headers.items())
        self.protocol.receive_data(head.encode() + b"\r\n")
        (request,) = self.protocol.events_received()
        self.protocol.send_response(self.protocol.accept(request))
        self.flush()

    def flush(self):
        for data in self.protocol.data_to_send():
            self.handler.wfile.write(data)

    def say(self, event):
        self.protocol.send_text(json.dumps(event).encode())
        self.flush()

    def hear(self):
        """Messages until the client leaves."""
        whole = b""
        while data := self.handler.connection.recv(65536):
            self.protocol.receive_data(data)
            for frame in self.protocol.events_received():
                if frame.opcode in (Opcode.TEXT, Opcode.CONT):
                    whole += frame.data
                    if frame.fin:
                        yield json.loads(whole)
                        whole = b""
            self.flush()

    def serve(self):
        nth, waiting = 0, None
        for asked in self.hear():
            log.write(json.dumps({"path": self.handler.path, "key": self.handler.headers["X-Api-Key"], "body": asked}) + "\n")
            nth += 1
            if asked["type"] == "response.steer":
                of = asked["previous_response_id"]
                self.say({"type": "response.steer.accepted", "sequence_number": 0, "steer": {"id": "s", "previous_response_id": of}})
            events = spoken(asked, nth)
            model = asked.get("model")
            if model == "gone":
                for event in events[:-3]:
                    self.say(event)
                return
            if model == "both" and waiting is None:
                waiting = events
                continue
            for pair in zip(*[waiting or events, events][not waiting:]):
                for event in pair:
                    self.say(event)
            waiting = None


def messages(stream):
    TEXT, PIECES = "".join(said()), said()
    text = {"type": "text", "text": ""}, [{"type": "text_delta", "text": p} for p in PIECES]
    tool = {"type": "tool_use", "id": "t", "name": "send", "input": {}}, [
        {"type": "input_json_delta", "partial_json": p} for p in called()
    ]
    block, deltas = tool if local.tools else text
    whole = {
        "id": "a", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn", "stop_sequence": None,
        "content": [{"type": "text", "text": TEXT}], "usage": {"input_tokens": 12, "output_tokens": 34},
    }
    if not stream:
        return whole
    events = [
        {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 34}},
        {"type": "message_stop"},
    ]
    return [(e["type"], e) for e in events]


def embeddings(stream):
    data = [{"object": "embedding", "index": 0, "embedding": [0.4532015112830366, -0.25]}]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 5, "total_tokens": 5}}


def set_local(asked):
    """What an answer depends on."""
    alias = re.search("Masked[A-Za-z]{14,}", json.dumps(asked))
    local.alias = alias and alias.group()
    local.large = asked.get("model") == "large"
    local.tools = bool(asked.get("tools"))
    local.count = (asked.get("stream_options") or {}).get("include_usage", False)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.headers["Upgrade"] == "websocket":
            self.close_connection = True
            assert self.headers["Sec-WebSocket-Extensions"] is None
            return Socket(self).serve()
        log.write(json.dumps({"path": self.path, "key": self.headers["X-Api-Key"], "body": None}) + "\n")
        one = {"id": "m", "object": "model", "created": 1, "owned_by": "x", "type": "model", "display_name": "M", "created_at": "2026-01-01T00:00:00Z"}
        body = json.dumps({"object": "list", "data": [one], "has_more": False, "first_id": "m", "last_id": "m"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        assert "Content-Encoding" not in self.headers
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        log.write(json.dumps({"path": self.path, "key": self.headers["X-Api-Key"], "body": asked}) + "\n")
        set_local(asked)
        apis = {
            "/v1/chat/completions": chat, "/v1/responses": responses, "/v1/messages": messages, "/v1/embeddings": embeddings,
        }
        api = apis[self.path]
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
