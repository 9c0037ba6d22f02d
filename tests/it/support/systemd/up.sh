#!/bin/sh
# Becomes a systemd of its own: run as process 1 of fresh namespaces, in a cgroup of its own. The root is copy-on-write,
# so that nothing outside is touched; /dev and the network are shared.
#   up.sh FILES   FILES: a folder with units/ (mt.target and what it wants) and etc/ (for /etc/moontide)
set -eu
files=$1
mount --make-rprivate /

stage=$(mktemp -d)
mount -t tmpfs tmpfs "$stage"
cd "$stage"
mkdir upper work root
mount -t overlay -o "lowerdir=/,upperdir=$stage/upper,workdir=$stage/work" overlay root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/systemd/system
# The units, and what the daemon reads, are taken before /tmp is hidden.
mkdir -p etc/moontide var/tmp/units
cp -R "$files/units/." var/tmp/units/
cp -R "$files/etc/." etc/moontide/
chmod -R a+rX var/tmp/units etc/moontide
install -m 755 "$MOONTIDE" usr/bin/moontide
mount -t tmpfs tmpfs tmp
mkdir -p sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
# A machine of its own, whatever the one outside is called.
echo 0123456789abcdef0123456789abcdef > etc/machine-id

mkdir -p mnt
pivot_root . mnt
cd /
umount -l /mnt
unset NOTIFY_SOCKET LISTEN_FDS LISTEN_PID
export container=unshare SYSTEMD_UNIT_PATH=/var/tmp/units
exec /lib/systemd/systemd --system --unit=mt.target
