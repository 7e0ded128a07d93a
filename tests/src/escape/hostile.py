# What every hostile program begins with. A program that gets out prints ESCAPED, or its packets are seen outside.
import ctypes, errno, glob, mmap, os, select, struct, sys, time
from socket import *

libc = ctypes.CDLL(None, use_errno=True)
PORT = int(os.environ['PORT'])
MARK = b'interdict-escape-%d' % PORT
os.environ['MARK'] = MARK.decode()
# Numbers that differ between architectures; those from 424 on do not.
BPF, EXIT = (321, 60) if os.uname().machine == 'x86_64' else (280, 93)
# Routed to the other end of the cable; the last two are the metadata service and a daemon on this host.
V4, V6, MAPPED, META, HERE4, HERE6 = '198.51.100.9', '2001:db8::9', '::ffff:198.51.100.9', '169.254.169.254', '127.0.0.1', '::1'
DONOR = os.environ.get('DONOR', '/nonexistent')
DONOR_PID = int(os.environ.get('DONOR_PID', '0'))

def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def call(number, *arguments):
    return check(libc.syscall(ctypes.c_long(number), *arguments))

def tcp(family=AF_INET, protocol=0):
    s = socket(family, SOCK_STREAM, protocol); s.settimeout(2)
    return s

def udp(family=AF_INET):
    s = socket(family, SOCK_DGRAM); s.settimeout(2)
    return s

def talk(s):
    s.sendall(MARK)
    s.recv(1)

def disconnect(s):
    check(libc.connect(s.fileno(), struct.pack('=H14x', 0), 16))

def sa4(ip, port): return struct.pack('=HH4s8x', AF_INET, htons(port), inet_aton(ip))
def sa6(ip, port): return struct.pack('=HHI16sI', AF_INET6, htons(port), 0, inet_pton(AF_INET6, ip), 0)

def listeners():
    """Ports that somebody listens on here: the agent's, in a namespace where nobody else does."""
    rows = open('/proc/net/tcp').readlines()[1:] + open('/proc/net/tcp6').readlines()[1:]
    fields = [row.split() for row in rows]
    return [(AF_INET if len(f[1]) < 20 else AF_INET6, int(f[1].rsplit(':', 1)[1], 16)) for f in fields if f[3] == '0A']

def checksum(data):
    if len(data) % 2: data += b'\0'
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

def echo_request(kind=8):
    body = struct.pack('!BBHHH', kind, 0, 0, 7, 7) + MARK
    return body[:2] + struct.pack('!H', checksum(body)) + body[4:]

def ip_packet(destination, protocol, payload):
    head = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, inet_aton('10.77.0.1'), inet_aton(destination))
    return head[:10] + struct.pack('!H', checksum(head)) + head[12:] + payload

def udp_packet():
    return struct.pack('!HHHH', 40000, PORT, 8 + len(MARK), 0) + MARK

def cgroups():
    """Where cgroup2 is mounted: the root of all cgroups, where nobody has changed that."""
    return '/sys/fs/cgroup/unified' if os.path.exists('/sys/fs/cgroup/unified') else '/sys/fs/cgroup'

def ping_allowed():
    try: open('/proc/sys/net/ipv4/ping_group_range', 'w').write('0 0')
    except OSError: pass

def name_question(label):
    return b'\0\1\1\0\0\1\0\0\0\0\0\0' + bytes([len(label)]) + label + b'\3com\0\0\1\0\1'

def resolver():
    for line in open('/etc/resolv.conf'):
        words = line.split()
        if words[:1] == ['nameserver'] and ':' not in words[1]: return words[1]
    raise OSError(errno.ENODEV, 'no resolver')

class Uring:
    """Just enough of io_uring: one submission at a time (linux/io_uring.h)."""
    def __init__(self):
        params = ctypes.create_string_buffer(120)
        self.fd = call(425, 4, params)
        sq, cq = struct.unpack_from('=7I', params, 40), struct.unpack_from('=7I', params, 80)
        (self.tail, _, _, _, _, self.array), (self.cq_head, self.cq_tail, self.mask, _, _, self.cqes) = sq[1:7], cq[:6]
        size = max(sq[6] + 4 * 4, cq[5] + 16 * 8)
        self.ring = mmap.mmap(self.fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0)
        self.sqes = mmap.mmap(self.fd, 4 * 64, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=0x10000000)

    def submit(self, opcode, fd, off, addr, length, flags=0):
        self.sqes[:64] = struct.pack('=BBHiQQII32x', opcode, 0, 0, fd, off, addr, length, flags)
        (tail,) = struct.unpack_from('=I', self.ring, self.tail)
        struct.pack_into('=I', self.ring, self.array + 4 * (tail & 3), 0)
        struct.pack_into('=I', self.ring, self.tail, tail + 1)
        call(426, self.fd, 1, 1, 1, None, 0)
        (head,) = struct.unpack_from('=I', self.ring, self.cq_head)
        (_, result, _) = struct.unpack_from('=QiI', self.ring, self.cqes + 16 * (head & 7))
        struct.pack_into('=I', self.ring, self.cq_head, head + 1)
        if result < 0: raise OSError(-result, os.strerror(-result))
        return result

    def connect(self, s, address):
        buffer = ctypes.create_string_buffer(address, len(address))
        return self.submit(16, s.fileno(), len(address), ctypes.addressof(buffer), 0)

    def sendto(self, s, data, address):
        name, body = ctypes.create_string_buffer(address, len(address)), ctypes.create_string_buffer(data, len(data))
        vector = struct.pack('=QQ', ctypes.addressof(body), len(data))
        parts = ctypes.create_string_buffer(vector, 16)
        head = struct.pack('=QI4xQQQQi4x', ctypes.addressof(name), len(address), ctypes.addressof(parts), 1, 0, 0, 0)
        message = ctypes.create_string_buffer(head, len(head))
        return self.submit(9, s.fileno(), 0, ctypes.addressof(message), 1)

def new_namespaces(flags=0x50000000):
    """CLONE_NEWUSER | CLONE_NEWNET: root in a namespace of its own."""
    check(libc.unshare(flags))

def passed():
    """A descriptor that a free process hands over."""
    d = socket(AF_UNIX); d.connect(DONOR + '/donor'); d.sendall(b'%d' % PORT)
    _, fds, _, _ = recv_fds(d, 16, 1)
    return socket(fileno=fds[0])

def main(program):
    try:
        exec(program, globals())
    except OSError as error:
        print(errno.errorcode.get(error.errno, type(error).__name__))
    else:
        print('OK')
