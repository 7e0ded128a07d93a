"""Asks for a WebSocket over HTTP/2 (RFC 8441), and for a tunnel. Arguments: port to connect to, name and port to ask for,
file of the CA. Prints whether the server offers the former, and what became of each."""
import socket
import ssl
import sys

import h2.config
import h2.connection
import h2.events
import h2.settings

port, authority, ca = sys.argv[1:]


def ask(headers):
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    raw = socket.create_connection(("127.0.0.1", int(port)), timeout=20)
    with context.wrap_socket(raw, server_hostname="localhost") as stream:
        config = h2.config.H2Configuration(header_encoding="utf-8", validate_outbound_headers=False)
        connection = h2.connection.H2Connection(config)
        connection.initiate_connection()
        connection.send_headers(1, [*headers, (":authority", authority)], end_stream=False)
        stream.sendall(connection.data_to_send())
        offers, status, text = False, None, b""
        while data := stream.recv(65536):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.RemoteSettingsChanged):
                    offers |= h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL in event.changed_settings
                elif isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[":status"]
                elif isinstance(event, h2.events.DataReceived):
                    text += event.data
                elif isinstance(event, h2.events.StreamEnded):
                    return offers, status, text.decode()
                elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return offers, status, f"{type(event).__name__} {int(event.error_code)}"
            stream.sendall(connection.data_to_send())
    return offers, status, "closed"


websocket = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/talk")]
for headers in (websocket, [(":method", "CONNECT")]):
    print(*ask(headers))
