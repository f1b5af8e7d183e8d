#!/bin/bash
# Makes the first disk of the machines, with what the lab and the tests use: rootfs.sh ARCH. Packages
# are unpacked and nothing of them is run, so this machine may be of another architecture. Prints
# the file.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
arch=$1 suite=bookworm
packages=(base-files base-passwd bash busybox-static ca-certificates conntrack containernetworking-plugins coreutils
    curl dash debianutils diffutils ethtool findutils gawk grep hostname iproute2 ipset iptables iputils-ping
    ipvsadm kmod libc-bin mount netbase nftables perl-base procps sed tcpdump util-linux)

use_apt debian "$suite" "$arch" >&2
# The same packages in the same versions are the same disk.
mkdir -p "$cache/apt/none/partial" # where nothing is yet, so that all are listed
wanted=$(apt-get -q -o "Dir::Cache::archives=$cache/apt/none" --print-uris -y install "${packages[@]}" | sed -n "s/^'[^']*' \([^ ]*\) .*/\1/p" | sort)
[[ $wanted ]] || fail "apt cannot find the packages of the machines' first disk"
disk=$cache/root-$arch-$(cat - "$0" <<<"$wanted" | sha256sum | cut -c1-12).squashfs
[[ ! -e $disk ]] || { echo "$disk"; exit; }

say "fetching $(wc -l <<<"$wanted") packages of $suite for the first disk, for $arch" >&2
apt-get -q -y --download-only install "${packages[@]}" >"$cache/apt.log" 2>&1 ||
    { tail -n 5 "$cache/apt.log" >&2; fail "the packages of the machines' first disk cannot be downloaded"; }
work=$(mktemp -d "$cache/root.XXXXXX")
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir -p "$tree"/usr/{bin,sbin,lib,lib64}
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$tree/$folder"; done
for package in $wanted; do unpack "$tree" "$cache/apt/$suite-$arch/cache/archives/$package"; done

# What packages would have done when they are installed.
mkdir -p "$tree"/{proc,sys,dev,run,tmp,mnt,opt,rw}
cp "$tree/usr/share/base-passwd/passwd.master" "$tree/etc/passwd"
cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
echo tcpdump:x:100:65534::/nonexistent:/usr/sbin/nologin >>"$tree/etc/passwd" # for which it gives root up
printf '127.0.0.1 localhost\n::1 localhost\n' >"$tree/etc/hosts"
# What resolvConf of an example names; no one is asked.
echo nameserver 127.0.0.1 >"$tree/etc/resolv.conf"
mkdir -p "$tree/etc/ssl/certs" # a client of an API server wants some, though none is asked for there
cat "$tree"/usr/share/ca-certificates/mozilla/*.crt >"$tree/etc/ssl/certs/ca-certificates.crt"
[[ -e $tree/var/run ]] || ln -s /run "$tree/var/run"
[[ -e $tree/bin/sh ]] || ln -s dash "$tree/bin/sh"
ln -sf gawk "$tree/usr/bin/awk"
for program in ip{,6}tables{,-save,-restore}; do
    case $program in
        *-*) ln -sf "${program%%-*}-nft-${program#*-}" "$tree/usr/sbin/$program" ;;
        *) ln -sf "$program-nft" "$tree/usr/sbin/$program" ;;
    esac
done
rm -rf "$tree"/usr/share/{doc,man,locale,info}
disk "$tree" "$disk"
echo "$disk"
