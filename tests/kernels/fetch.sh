#!/bin/bash
# Fetches a kernel of list.txt and makes it ready to boot: fetch.sh NAME ARCH. Prints the folder in
# which it is: `vmlinuz`, `version`, `boot/` with the modules that a first disk needs, numbered in
# the order of loading, and `modules.squashfs` with those of networks.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
name=$1 arch=$2
read -r distribution suite < <(awk -v name="$name" '$1 == name { print $2, $3 }' "$here/list.txt") ||
    fail "there is no kernel $name in tests/kernels/list.txt"

# The package that depends on the newest kernel.
meta=linux-image-$arch
[[ $distribution != ubuntu ]] || meta=linux-image-virtual

# depends PACKAGE PATTERN: the packages of that name that it depends on.
depends() {
    apt-cache show "$1" | awk '!seen && /^Depends: / { print; seen = 1 }' | grep -oE "$2" || true
}

# packages VERSION: of which the kernel consists. New ones are split.
packages() {
    local image
    image=$(depends "$meta=$1" 'linux-image-[0-9][^ ,]*')
    [[ $image ]] || return 0
    echo "$image"
    depends "$image" 'linux-(modules|binary)-[0-9][^ ,]*'
}

# A pool may no longer have what a list names: then the one before.
download() {
    local version wanted
    for version in $(apt-cache madison "$meta" | awk '{ print $3 }'); do
        mapfile -t wanted < <(packages "$version")
        ((${#wanted[@]})) || continue
        folder=$cache/linux-$version-$arch
        [[ -e $folder/modules.squashfs ]] && return
        say "fetching ${wanted[0]}" >&2
        rm -rf "$folder.new"
        mkdir -p "$folder.new/packages"
        (cd "$folder.new/packages" && apt-get -q download "${wanted[@]}" >"$cache/apt.log" 2>&1) && return
        say "it cannot be had; trying the one before" >&2
    done
    tail -n 5 "$cache/apt.log" >&2
    fail "no kernel of $suite for $arch can be downloaded"
}

# The modules of a first disk, with what each needs, in the order of loading.
boot_modules() {
    local module line number=10
    for module in virtio_pci virtio_blk squashfs overlay; do
        # What cannot be found is built in.
        { modprobe --dirname "$1" --set-version "$version" --show-depends "$module" 2>/dev/null || true; } |
            sed -n 's/^insmod \([^ ]*\).*/\1/p'
    done | awk '!seen[$0]++' | while read -r line; do
        number=$((number + 1))
        module=$(basename "$line")
        case $module in
            *.xz) xz -dc "$line" ;;
            *.zst) zstd -qdc "$line" ;;
            *) cat "$line" ;;
        esac >"$2/$number-${module%%.ko*}.ko"
    done
}

use_apt "$distribution" "$suite" "$arch" >&2
download
if [[ ! -e $folder/modules.squashfs ]]; then
    work=$folder.new
    mkdir -p "$work/"{tree,boot,modules}
    unpack "$work/tree" "$work"/packages/*.deb
    # New packages have both below /usr.
    base=$work/tree
    [[ -d $base/lib/modules ]] || base=$work/tree/usr
    version=$(basename "$base"/lib/modules/*)
    program=$base/lib/modules/$version/vmlinuz
    [[ -e $program ]] || program=$work/tree/boot/vmlinuz-$version
    depmod -b "$base" "$version"
    boot_modules "$base" "$work/boot"
    mv "$program" "$work/vmlinuz"
    echo "$version" >"$work/version"
    modules=$base/lib/modules/$version
    (cd "$modules" && tar --create modules.* kernel/{net,lib,crypto,arch} \
        "$(find kernel/drivers/net -maxdepth 1 -name 'veth.*')" \
        $(cd "$modules" && ls -d kernel/drivers/net/{dummy,ifb,macvlan,tun,vxlan}.* kernel/drivers/net/vxlan 2>/dev/null)) |
        tar --extract --directory "$work/modules"
    disk "$work/modules" "$work/modules.squashfs"
    rm -rf "$work"/{tree,packages,modules} "$folder"
    mv "$work" "$folder"
fi
echo "$folder"
