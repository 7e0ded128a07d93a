# Runs hostile programs one after the other, as told on standard input, and says how each ended. Each is a process of its
# own, forked from here, where everything is imported already: the start of an interpreter is most of what they take.
import json, signal, traceback

def become(row, out):
    os.setsid()
    for fd, to in (os.open('/dev/null', os.O_RDWR), 0), (out, 1), (0, 2): os.dup2(fd, to)
    global PORT, MARK
    PORT, MARK = row['port'], b'interdict-escape-%d' % row['port']
    os.environ['PORT'], os.environ['MARK'] = str(PORT), MARK.decode()
    status = 0
    try: main(row['program'])
    except BaseException: status = 1; traceback.print_exc(file=sys.stdout)
    sys.stdout.flush()
    os._exit(status)

def until(out, deadline):
    """What it says until it has closed its output; None where it has not by then."""
    said = b''
    while select.select([out], [], [], max(0, deadline - time.monotonic()))[0]:
        more = os.read(out, 65536)
        if not more: return said, True
        said += more
    return said, False

print('ready', flush=True)
for line in sys.stdin:
    row = json.loads(line)
    began = time.time_ns()
    out, into = os.pipe()
    child = os.fork()
    if child == 0: become(row, into)
    os.close(into)
    said, done = until(out, time.monotonic() + row['seconds'])
    if not done:
        try: os.killpg(child, signal.SIGKILL)
        except ProcessLookupError: pass
        said += until(out, time.monotonic() + 60)[0] + b'TIMEOUT'
    os.close(out)
    os.waitpid(child, 0)
    said = said.decode(errors='replace').strip()
    print(json.dumps({'pid': child, 'said': said, 'began': began, 'ended': time.time_ns()}), flush=True)
