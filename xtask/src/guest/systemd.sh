#!/bin/sh
# What a Debian with systemd shows: it comes up, the package is installed, this kernel takes every hook, and a unit that
# runs a governed command is started, restarted, goes on while the package is installed anew, and leaves nothing.
set -e
state=$(systemctl is-system-running --wait || true)
echo "systemd: $state"
case $state in running) ;; *) systemctl --failed --no-legend; exit 1 ;; esac

dpkg -i "${INTERDICT_DEB:?}"
agent=/usr/bin/interdict
"$agent" config check /etc/interdict/interdict.toml
systemctl cat interdict.service interdict-proxy.service >/dev/null
"$agent" doctor | grep -E '^(AVAILABLE|LIMITED|MISSING) +(hook|kernel) '
"$agent" doctor | tail -n 1 | grep ' 0 missing'

# Somebody who answers whoever is not governed.
ip address add 192.0.2.1/32 dev lo
cat >/run/answers.py <<'PROGRAM'
import socket
door = socket.create_server(('192.0.2.1', 5432))
while True:
    peer, _ = door.accept()
    try:
        peer.sendall(peer.recv(1))
    except OSError:
        pass
    peer.close()
PROGRAM
systemd-run -q --unit answers /usr/bin/python3 /run/answers.py
cat >/run/governed.py <<'PROGRAM'
import socket, time
while True:
    try:
        s = socket.create_connection(('192.0.2.1', 5432), 2)
        s.sendall(b'x')
        print('answered' if s.recv(1) else 'closed', flush=True)
    except OSError as error:
        print('refused:', error, flush=True)
    time.sleep(0.5)
PROGRAM
cat >/run/systemd/system/governed.service <<UNIT
[Service]
ExecStart=$agent run --user nobody --state-dir /var/lib/interdict -- /usr/bin/python3 /run/governed.py
UNIT
systemctl daemon-reload

# Its processes are in a cgroup of the run, not of the unit, so the journal does not know them as the unit's.
said() { journalctl -q -o cat --since "@$1" | grep -E '^(answered|closed|refused:)'; }
# Something was refused since then, or a minute has passed.
until_refused() {
    until said "$1" | grep -q refused:; do
        [ $(($(date +%s) - $1)) -lt 60 ] || { journalctl -n 30 -o cat; exit 1; }
        sleep 1
    done
}
# Without an agent it is answered: the eyes see.
timeout 3 python3 /run/governed.py | grep answered >/dev/null
begun=$(date +%s)
for round in start restart; do
    echo "$round"
    systemctl restart governed
    until_refused "$(date +%s)"
done
echo "the package again, under the running unit"
dpkg -i "$INTERDICT_DEB"
until_refused "$(date +%s)"
systemctl is-active governed
systemctl stop governed
! said "$begun" | grep -q answered
"$agent" audit verify --dir /var/lib/interdict/audit
if ls -d /sys/fs/bpf/interdict/run-* 2>/dev/null; then exit 1; fi

echo "a unit that the service governs: start, restart, new package, stop, start"
printf '[[workload]]\nname = "plain"\nsystemd_unit = "plain.service"\n' >>/etc/interdict/interdict.toml
cat >/run/systemd/system/plain.service <<UNIT
[Service]
User=nobody
ExecStart=/usr/bin/python3 /run/governed.py
UNIT
systemctl daemon-reload
systemctl start interdict || { journalctl -q -o cat -n 60 -u interdict -u interdict-proxy; exit 1; }
systemctl is-active interdict interdict-proxy
proxy=$(systemctl show --property MainPID --value interdict-proxy)
grep -E '^(Uid|Cap(Eff|Prm|Bnd)|NoNewPrivs|Seccomp):' "/proc/$proxy/status"
"$agent" doctor | grep -E "^AVAILABLE +host +proxy $proxy: "
begun=$(date +%s)
systemctl start plain
until_refused "$begun"
# Both halves are there again, and others than before.
until_both() {
    began=$(date +%s)
    until [ "$(systemctl is-active interdict interdict-proxy | sort -u)" = active ] &&
        [ "$(systemctl show --property MainPID --value interdict interdict-proxy | xargs)" != "$1" ]; do
        [ $(($(date +%s) - began)) -lt 60 ] || { systemctl status --no-pager -l interdict interdict-proxy; exit 1; }
        sleep 1
    done
}
for step in 'systemctl restart interdict' "dpkg -i $INTERDICT_DEB" 'systemctl restart interdict-proxy' \
    'systemctl kill -s KILL interdict-proxy' 'systemctl kill -s KILL interdict'; do
    echo "$step"
    before=$(systemctl show --property MainPID --value interdict interdict-proxy | xargs)
    $step >/dev/null
    until_both "$before"
    until_refused "$(date +%s)"
done
systemctl reload interdict
for step in 'systemctl stop interdict' 'systemctl start interdict'; do
    echo "$step"
    $step >/dev/null
    until_refused "$(date +%s)"
    systemctl is-active interdict interdict-proxy || true
done
[ "$(systemctl is-active interdict interdict-proxy | sort -u)" = active ]
systemctl is-active plain
! said "$begun" | grep -q answered

echo "removed: it is free again"
# While it lives it stays governed, whatever is removed.
systemctl stop plain
dpkg --purge interdict
if ls -d /sys/fs/bpf/interdict/* 2>/dev/null; then exit 1; fi
gone=$(date +%s)
systemctl start plain
until said "$gone" | grep -q answered; do
    [ $(($(date +%s) - gone)) -lt 60 ] || { journalctl -n 30 -o cat; exit 1; }
    sleep 1
done
if [ -e /usr/bin/interdict ]; then exit 1; fi
echo "governed units were started, restarted, kept over a new package and stopped; nothing is left"
