#!/usr/bin/env bash
# Prints the build tag of the tests that need root, where this machine can run them, and nothing where it can't; then it
# says so loudly. They give nodes hosts and disks of their own, and need Linux, root, loop mounts, /dev/fuse, and programs
# of Debian's packages xfsprogs, iproute2 and iptables, which are installed where apt-get can do it.
set -uo pipefail

cannot() {
  {
    echo
    echo "NOT RUN: power cuts, full, stalled, failing and crawling disks, cuts between hosts, alerts by their faults: $*."
    echo "Run the tests as root on Linux: see CONTRIBUTING.md."
    echo
  } >&2
  exit 0
}

[ "$(uname -s)" = Linux ] || cannot "this is not Linux"
[ "$(id -u)" = 0 ] || cannot "this is not root"
export PATH=$PATH:/usr/sbin:/sbin
programs="xfs_io mkfs.xfs mkfs.ext4 fsfreeze fallocate iptables ip nsenter mount"
missing() { for program in $programs; do command -v "$program" >/dev/null || echo "$program"; done; }
if [ -n "$(missing)" ] && command -v apt-get >/dev/null; then
  { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends xfsprogs iproute2 iptables; } >&2 ||
    echo "the packages xfsprogs, iproute2 and iptables could not be installed" >&2
fi
[ -z "$(missing)" ] || cannot "there is no $(missing | paste -sd ' ' -)"

# What root may not do in a container shows only when it is tried.
tmp=$(mktemp -d)
space=shcheck$$
trap 'umount "$tmp/mount" 2>/dev/null; ip netns del $space 2>/dev/null; rm -rf "$tmp"' EXIT
mkdir "$tmp/mount"
truncate -s 300M "$tmp/image" && mkfs.xfs -q "$tmp/image" && mount -t xfs -o loop "$tmp/image" "$tmp/mount" ||
  cannot "XFS on a loop file can't be mounted"
[ -c /dev/fuse ] || cannot "there is no /dev/fuse"
ip netns add $space && nsenter --net=/run/netns/$space iptables -w -A INPUT -m statistic --mode random --probability 0.5 -j DROP ||
  cannot "network namespaces with iptables can't be had"
echo root
