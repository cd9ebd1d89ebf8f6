#!/bin/sh
# First program of a lab host, already in its new namespaces: builds the host's file system view, pivots into it and
# becomes an init that reaps.
# Arguments: mount point of the root, checkout, name; standard input: one cgroup hierarchy a line, "NAME OPTIONS".
set -eu
root=$1 checkout=$2 name=$3

mount --make-rprivate /
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/lock"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue" "$root/dev/net"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t mqueue mqueue "$root/dev/mqueue"
for device in null zero full random urandom tty fuse kmsg userfaultfd net/tun; do
  [ -e "/dev/$device" ] || continue
  : > "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

while read -r hierarchy options; do
  if [ "$hierarchy" = unified-only ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    continue
  fi
  mountpoint -q "$root/sys/fs/cgroup" || mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
  mkdir -p "$root/sys/fs/cgroup/$hierarchy"
  if [ "$options" = v2 ]; then
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/$hierarchy"
  else
    mount -t cgroup -o "$options" cgroup "$root/sys/fs/cgroup/$hierarchy"
  fi
done

mkdir -p "$root/opt/dmigrate" "$root/.old"
mount --bind "$checkout" "$root/opt/dmigrate"
mount -o remount,ro,bind "$root/opt/dmigrate"
hostname "$name"
ip link set lo up

cd "$root"
pivot_root . .old
umount -l /.old
rmdir /.old
mount --make-rshared /
echo ready
exec tini -s -- sleep infinity > /dev/null 2>&1 < /dev/null
