"""A stand-in for journald in a mount namespace of its own: runs a command whose standard error is "the journal", and prints the fields
of what was sent, one JSON object an entry."""

import json
import os
import socket
import subprocess
import sys
import tempfile

os.makedirs("/run/systemd/journal")
listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
listening.bind("/run/systemd/journal/socket")
listening.setblocking(False)
with tempfile.TemporaryFile() as stream:
    found = os.fstat(stream.fileno())
    environment = dict(os.environ, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
    status = subprocess.run(sys.argv[1:], stderr=stream, env=environment).returncode
    stream.seek(0)
    left = stream.read().decode()
while True:
    try:
        data = listening.recv(1 << 20)
    except BlockingIOError:
        break
    fields = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:  # NAME, then a length of eight bytes, then the value
            length = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + length], data[9 + length :]
        fields[name.decode()] = value.decode()
    print(json.dumps(fields))
print(json.dumps({"status": status, "stderr": left}))
