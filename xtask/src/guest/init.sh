#!/bin/busybox sh
# The guest's first program: this host's files, read only, under a layer in memory; then the job.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module" || echo "no $module"; done </modules/order
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /host || $b poweroff -f
$b mount -t tmpfs -o size=75% over /over
$b mkdir /over/upper /over/work
$b mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /root
for place in proc sys dev; do $b mount --move "/$place" "/root/$place"; done
cd /root || $b poweroff -f
$b mkdir -p dev/pts dev/shm
$b mount -t devpts devpts dev/pts
$b mount -t tmpfs shm dev/shm
$b mount -t tmpfs -o mode=755 run run
$b mount -t cgroup2 cgroup2 sys/fs/cgroup
$b mount -t bpf bpf sys/fs/bpf
$b mount -t securityfs securityfs sys/kernel/security
$b mkdir run/guest
$b cp /bin/busybox /job run/guest/
exec $b switch_root /root /run/guest/busybox sh /run/guest/job
