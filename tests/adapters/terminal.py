"""A terminal for a program that wants one: `terminal.py SECONDS KEYS TEXT… -- COMMAND…` runs the command in 110 columns and 30 lines,
waits until every TEXT is on the screen, prints the screen, types KEYS, waits for the end, and ends with the command's status. The last
line says whether the screen was given back."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

import pyte

COLUMNS, LINES = 110, 30


def main():
    seconds, keys, *rest = sys.argv[1:]
    at = rest.index("--")
    wanted, command = rest[:at], rest[at + 1 :]
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    until = time.monotonic() + float(seconds)
    raw, typed = b"", False
    while time.monotonic() < until:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                read = os.read(terminal, 65536)
            except OSError:  # EIO: the other end is closed
                break
            if not read:
                break
            raw += read
            stream.feed(read)
        if not typed and all(text in "\n".join(screen.display) for text in wanted):
            print("\n".join(line.rstrip() for line in screen.display))
            os.write(terminal, keys.encode())
            typed = True
    if not typed:
        print("\n".join(line.rstrip() for line in screen.display))
        os.kill(pid, 9)
    _, status = os.waitpid(pid, 0)
    print("given back" if raw.rstrip().endswith((b"\x1b[?1049l", b"\x1b[?25h\x1b[?1049l")) else f"kept: {raw[-40:]!r}")
    sys.exit(os.waitstatus_to_exitcode(status) if typed else 99)


main()
