# Runs hostile programs one after the other, as told on standard input, and says how each ended.
import json, os, signal, subprocess, sys, time

print('ready', flush=True)
for line in sys.stdin:
    row = json.loads(line)
    began = time.time_ns()
    child = subprocess.Popen(
        [sys.executable, '-c', row['program']], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True, close_fds=False, env={**os.environ, 'PORT': str(row['port'])})
    try:
        out, err = child.communicate(timeout=row['seconds'])
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        out += b'TIMEOUT'
    said = (out + (err if child.returncode else b'')).decode(errors='replace').strip()
    print(json.dumps({'pid': child.pid, 'said': said, 'began': began, 'ended': time.time_ns()}), flush=True)
