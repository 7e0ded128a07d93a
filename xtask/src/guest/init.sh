#!/bin/busybox sh
# The guest's first program: a root file system that is read only, under a layer in memory; then the job, or systemd and
# the job as a unit of it.
b=/bin/busybox
fail() { echo "guest: $1" >/dev/console; $b poweroff -f; }
# mount_9p TAG PLACE
mount_9p() { $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro "$1" "$2" || fail "no $1"; }
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module" || echo "no $module"; done </modules/order
mount_9p root /host
$b mount -t tmpfs -o size=75% over /over
$b mkdir /over/upper /over/work
$b mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /root || fail "no overlay"
for place in proc sys dev; do $b mount --move "/$place" "/root/$place"; done
cd /root || fail "no root"
$b mkdir -p dev/pts dev/shm
$b mount -t devpts devpts dev/pts
$b mount -t tmpfs shm dev/shm
$b mount -t tmpfs -o mode=755 run run
$b mkdir run/guest
$b cp /bin/busybox /job run/guest/
if [ -e /repository ]; then
    # The repository of the host, at its own path.
    read -r repository </repository
    $b mkdir -p run/guest/host "./$repository"
    mount_9p files run/guest/host
    $b mount --bind "run/guest/host/$repository" "./$repository"
    $b mkdir -p run/systemd/system
    $b cp /guest-job.service run/systemd/system/
    exec $b switch_root /root /sbin/init
fi
$b mount -t cgroup2 cgroup2 sys/fs/cgroup
$b mount -t bpf bpf sys/fs/bpf
$b mount -t securityfs securityfs sys/kernel/security
# Not busybox: its shell prefers its own programs to those of the system.
exec $b switch_root /root /bin/sh /run/guest/job
