# Sees every packet of its network namespace; told a port on standard input, says what came since the last time.
import json, struct, sys, threading, time
from socket import *

OUTSIDE = sys.argv[1] == 'outside'
s = socket(AF_PACKET, SOCK_RAW, htons(3))
s.setsockopt(SOL_SOCKET, 33, 1 << 24)
s.setblocking(False)

def layers(kind, data):
    """Protocol, destination and destination port; protocol None for what is no IP."""
    if kind == 0x0800 and len(data) >= 20:
        rest, protocol, to = data[(data[0] & 15) * 4:], data[9], inet_ntop(AF_INET, data[16:20])
    elif kind == 0x86dd and len(data) >= 40:
        rest, protocol, to = data[40:], data[6], inet_ntop(AF_INET6, data[24:40])
    else:
        return None, None, b''
    return protocol, to, rest

def seen(frame, name, kind, port):
    ether = struct.unpack('!H', frame[12:14])[0]
    protocol, to, rest = layers(ether, frame[14:])
    to_port = struct.unpack('!H', rest[2:4])[0] if protocol in (6, 17) and len(rest) >= 4 else None
    if OUTSIDE:
        # Addresses and groups are asked for by the host itself, for whoever sends.
        neighbours = ether == 0x0806 or protocol == 2 or (protocol == 0 and b'\x3a' == rest[:1]) or (
            protocol == 58 and rest[:1] and (130 <= rest[0] <= 137 or rest[0] == 143))
        # So is a reset, for a port that nobody listens on.
        reset = protocol == 6 and len(rest) == 20 and rest[13] & 4
        if name == 'lo' or kind == 4 or neighbours or reset: return None
    elif name != 'lo' or not (to_port == port or (b'interdict-escape' in frame and (protocol not in (6, 17) or to_port == 53))):
        # Questions for names come to a port of the agent's here; what it asks itself has the port of servers.
        return None
    return f'{to} protocol {protocol} port {to_port}' if protocol is not None else f'ethertype {ether:#x}'

def knock(port):
    """Connects to whoever listens at the other end, for a while, and hears what it says."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        for family, ip in ((AF_INET, '10.77.0.1'), (AF_INET6, 'fd77::1')):
            door = socket(family); door.settimeout(0.1)
            try: door.connect((ip, port)); door.recv(64)
            except OSError: pass
            door.close()
        time.sleep(0.05)

print('ready', flush=True)
for line in sys.stdin:
    if line.startswith('knock'):
        threading.Thread(target=knock, args=(int(line.split()[1]),), daemon=True).start()
        print('knocking', flush=True)
        continue
    port, found = int(line), set()
    while True:
        try: frame, (name, _, kind, _, _) = s.recvfrom(65536)
        except BlockingIOError: break
        found.add(seen(frame, name, kind, port))
    print(json.dumps(sorted(found - {None})), flush=True)
