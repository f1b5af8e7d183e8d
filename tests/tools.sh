#!/bin/sh
# Sees to it that programs are there: tools.sh PROGRAM:PACKAGE[+PACKAGE...] ...
#
# On Debian and Ubuntu, as root, what is missing is installed; elsewhere it is named in one
# sentence. A program with a slash in its name is a file, others are looked for like commands.
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
programs='' packages=''
for pair in "$@"; do
    program=${pair%%:*}
    case $program in
        */*) [ -x "$program" ] && continue ;;
        *) command -v "$program" >/dev/null 2>&1 && continue ;;
    esac
    programs="$programs${programs:+, }$program"
    packages="$packages${packages:+ }$(echo "${pair#*:}" | tr + ' ')"
done
[ -n "$programs" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing on this machine: $programs; install them (in Debian: $packages) and try again." >&2
    exit 1
fi

echo "Installing $packages ..."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# Another apt may be at work: wait for it. The lists may be as old as the machine's image.
apt="apt-get -q -y -o DPkg::Lock::Timeout=300"
# shellcheck disable=SC2086
if { $apt update && $apt install --no-install-recommends $packages; } >"$log" 2>&1; then
    exit 0
fi
echo "apt-get could not install $packages; it said:" >&2
tail -n 15 "$log" >&2
exit 1
