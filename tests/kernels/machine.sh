#!/bin/bash
# Boots a kernel in a machine of its own and runs the guest's script in it:
# machine.sh ARCH KERNEL ROOT PROGRAMS LINE... Prints the console, and returns what the script did.
#
# The machine sees three disks that cannot be written to: what it writes stays in its memory. It has
# no network. ACCEL says how it runs: `kvm`, or `icount`: every instruction is emulated, and the
# machine's clock counts them, so that time-outs hold however slow that is. MEMORY in MB (3072),
# LIMIT in seconds (3600).
set -euo pipefail
source "$(dirname "$0")/lib.sh"
arch=$1 kernel=$2 first_disk=$3 programs=$4
shift 4
accel=${ACCEL:-icount}
work=$(mktemp -d "$cache/machine.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What the kernel starts from: it loads the drivers of the disks and goes over to them. The machine
# finds disks by serial number, for they come in any order.
initrd=$work/initrd
mkdir -p "$initrd"/{bin,proc,sys,dev,first,rw,new}
unsquashfs -quiet -no-progress -cat "$first_disk" usr/bin/busybox >"$initrd/bin/busybox" 2>/dev/null ||
    unsquashfs -quiet -no-progress -cat "$first_disk" bin/busybox >"$initrd/bin/busybox"
cp -r "$kernel/boot" "$initrd/boot"
cat >"$initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for module in /boot/*.ko; do insmod $module; done
disks=
for try in 1 2 3 4 5 6 7 8 9 10; do
    disks=$(echo /sys/block/vd*)
    [ "$(echo $disks | wc -w)" = 3 ] && break
    sleep 1
done
for disk in $disks; do eval "$(cat $disk/serial)=/dev/${disk##*/}"; done
mount -t squashfs -o ro $first /first || { echo "the first disk cannot be mounted"; poweroff -f; }
mount -t tmpfs -o size=75% rw /rw; mkdir -p /rw/upper /rw/work
mount -t overlay -o lowerdir=/first,upperdir=/rw/upper,workdir=/rw/work overlay /new ||
    { echo "no overlay can be mounted"; poweroff -f; }
for folder in proc sys dev; do mount --move /$folder /new/$folder; done
cp /start /new/mnt/start
exec switch_root /new /bin/bash /mnt/start "$modules" "$programs"
INIT
{
    printf 'version=%q project=%q\n' "$(cat "$kernel/version")" "$root"
    printf 'lines=('; printf '%q ' "$@"; printf ')\n'
    cat <<'START'
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb NO_COLOR=1
mount -t tmpfs tmpfs /run
rm -rf /var/run; ln -s /run /var/run
mkdir -p /dev/shm /dev/pts /root "/lib/modules/$version" "$project"
mount -t tmpfs tmpfs /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs -o mode=1777 tmpfs /tmp
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do ln -sfn "/proc/self/${name#*:}" "/dev/${name%:*}"; done
mount -t squashfs -o ro "$1" "/lib/modules/$version"
mount -t squashfs -o ro "$2" "$project"
ip link set lo up; hostname machine
cd "$project"
bash tests/kernels/guest.sh "${lines[@]}" </dev/null
echo "@ end $?"
echo o >/proc/sysrq-trigger; sleep 30
START
} >"$initrd/start"
chmod +x "$initrd/init" "$initrd/bin/busybox"
(cd "$initrd" && find . | cpio --create --format=newc --quiet | gzip -1) >"$work/initrd.gz"

case $arch in
    amd64) qemu=qemu-system-x86_64 board=q35 console=ttyS0 processor=max ;;
    arm64) qemu=qemu-system-aarch64 board=virt console=ttyAMA0 processor=cortex-a72 ;;
esac
case $accel in
    kvm) how=(-accel kvm -cpu host -smp 2) ;;
    icount) how=(-accel tcg,thread=single -icount "shift=0,sleep=on,align=off" -cpu "$processor" -smp 1) ;;
    *) fail "ACCEL=$accel is not known: use kvm or icount" ;;
esac
for disk in "first:$first_disk" "modules:$kernel/modules.squashfs" "programs:$programs"; do
    how+=(-drive "if=none,id=${disk%%:*},file=${disk#*:},format=raw,readonly=on")
    how+=(-device "virtio-blk-pci,drive=${disk%%:*},serial=${disk%%:*}")
done
timeout --kill-after=5 "${LIMIT:-3600}" "$qemu" -M "$board" "${how[@]}" -m "${MEMORY:-3072}" \
    -nographic -nodefaults -no-reboot -serial stdio -device virtio-rng-pci \
    -kernel "$kernel/vmlinuz" -initrd "$work/initrd.gz" \
    -append "console=$console quiet loglevel=${LOGLEVEL:-4} panic=-1 mitigations=off random.trust_cpu=on" \
    </dev/null 2>&1 | sed -u 's/\r//g' | tee "$work/console"
status=$(sed -n 's/^@ end \([0-9]*\)$/\1/p' "$work/console" | tail -n1)
exit "${status:-99}"
