#!/bin/bash
# Process 1 of the kernel that tests run in: the host's own files, read-only below a tmpfs that
# takes what is written, then the script that the kernel's command line names as `job=`.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

finish() {
    echo "kernel tests: exit code $1"
    exec /usr/bin/python3 -I -S -c 'import ctypes, os; os.sync(); ctypes.CDLL(None).reboot(0x4321fedc)'
}

mount -t proc proc /proc
job=$(tr ' ' '\n' </proc/cmdline | sed -n 's/^job=//p')
mount -t tmpfs -o size=75% tmpfs /mnt || finish 125
mkdir /mnt/upper /mnt/work /mnt/lower /mnt/root
mount --bind / /mnt/lower && mount -o remount,ro,bind /mnt/lower || finish 125
mount -t overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root ||
    finish 125
cd /mnt/root || finish 125
mount -t sysfs sysfs sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm dev/net
mount -t devpts devpts dev/pts
mount -t tmpfs tmpfs dev/shm
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t proc proc proc
[ -e dev/net/tun ] || mknod dev/net/tun c 10 200
mount --make-rprivate /
mkdir -p .old
pivot_root . .old
cd /
ip link set lo up
# Without it the tests would pass on wireguard-go, and show nothing.
ip link add probe type wireguard && ip link delete probe || finish 125
# The host's file JOB.over ends everything as Ctrl-C would.
until [ -e "/.old/mnt/lower$job.over" ]; do sleep 5; done && kill -INT -1 &
/bin/bash "/.old/mnt/lower$job" </dev/null
finish $?
