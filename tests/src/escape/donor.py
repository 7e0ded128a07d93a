# A free process of the same user: it sends for whoever asks, hands out connected sockets, and holds one itself.
import os, select, sys
from socket import *

place = sys.argv[1]
held = socket(type=SOCK_DGRAM); held.connect(('198.51.100.9', 19999)); os.dup2(held.fileno(), 9)
doors = {}
os.mkdir(place + '/hidden')
for name in (place + '/daemon', place + '/hidden/daemon', '\0interdict-escape-daemon', place + '/donor'):
    door = socket(AF_UNIX); door.bind(name); door.listen(); doors[door] = name
datagrams = socket(AF_UNIX, SOCK_DGRAM); datagrams.bind(place + '/datagrams')
print('ready', flush=True)
while True:
    ready, _, _ = select.select([*doors, datagrams, sys.stdin], [], [])
    if sys.stdin in ready: break
    for door in ready:
        if door is datagrams:
            port = int(door.recv(16) or b'0')
            socket(type=SOCK_DGRAM).sendto(b'interdict-escape-%d' % port, ('198.51.100.9', port))
            continue
        peer, _ = door.accept()
        port = int(peer.recv(16) or b'0')
        s = socket(type=SOCK_DGRAM); s.connect(('198.51.100.9', port))
        if doors[door].endswith('donor'): send_fds(peer, [b'x'], [s.fileno()])
        else: s.send(b'interdict-escape-%d' % port); peer.sendall(b'x')
        peer.close()
