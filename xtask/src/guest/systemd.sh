#!/bin/sh
# What a Debian with systemd shows: it comes up, this kernel takes every hook, and a governed command of a unit is
# stopped and started again.
set -e
agent=${INTERDICT_BIN:?}
state=$(systemctl is-system-running --wait || true)
echo "systemd: $state"
case $state in running | starting | degraded) ;; *) exit 1 ;; esac
if [ "$state" = degraded ]; then systemctl --failed --no-legend; fi

"$agent" doctor | grep -E '^(AVAILABLE|LIMITED|MISSING) +(hook|kernel) '
"$agent" doctor | tail -n 1 | grep ' 0 missing'

cat >/run/governed.py <<'PROGRAM'
import socket, time
while True:
    try:
        s = socket.create_connection(('192.0.2.1', 5432), 2)
        s.sendall(b'x')
        s.recv(1)
    except OSError as error:
        print('connect:', error, flush=True)
    time.sleep(0.5)
PROGRAM
cat >/run/systemd/system/governed.service <<UNIT
[Service]
ExecStart=$agent run --user nobody --state-dir /var/lib/interdict -- /usr/bin/python3 /run/governed.py
UNIT
systemctl daemon-reload
for round in 1 2; do
    systemctl restart governed
    # The first refusal of this round, or a minute.
    since=$(date +%s)
    # Its processes are in a cgroup of the run, not of the unit, so the journal does not know them as the unit's.
    until journalctl -q -o cat --since "@$since" | grep -q connect:; do
        [ $(($(date +%s) - since)) -lt 60 ] || { journalctl -u governed -n 20; exit 1; }
        sleep 1
    done
    systemctl is-active governed
    systemctl stop governed
done
"$agent" audit verify --dir /var/lib/interdict/audit
ls /sys/fs/bpf/interdict 2>/dev/null && exit 1
echo "a governed unit was started, stopped and started again; nothing is left"
