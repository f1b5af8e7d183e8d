#!/bin/bash
# Sees to it that the programs of tools.txt are there: tools.sh TARGET...
#
# On Debian and Ubuntu, as root, what is missing is installed; elsewhere it is named in one
# sentence. `tools.sh --packages` prints the packages of all targets.
set -euo pipefail

table=$(dirname "$0")/tools.txt
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

rows() { grep -v '^#' "$table"; }

if [[ ${1:-} == --packages ]]; then
    rows | while read -r _ packages _; do echo "${packages//,/ }"; done | xargs
    exit
fi

programs=() missing=()
while read -r program packages targets; do
    for target; do
        [[ " $targets " == *" $target "* && " ${programs[*]} " != *" $program "* ]] || continue
        case $program in
            */*) [[ -x $program ]] && continue ;;
            *) command -v "$program" >/dev/null && continue ;;
        esac
        programs+=("$program") missing+=("${packages//,/ }")
    done
done < <(rows)
((${#programs[@]})) || exit 0

if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    list=$(printf ', %s' "${programs[@]}")
    echo "Missing on this machine: ${list#, }; install them (in Debian: ${missing[*]}) and try again." >&2
    exit 1
fi

echo "Installing ${missing[*]} ..."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# Another apt may be at work: wait for it. The lists may be as old as the machine's image.
apt=(apt-get -q -y -o DPkg::Lock::Timeout=300)
# shellcheck disable=SC2068 # one row may name several packages
if "${apt[@]}" update >"$log" 2>&1 &&
    "${apt[@]}" install --no-install-recommends ${missing[@]} >>"$log" 2>&1; then
    exit 0
fi
echo "apt-get could not install ${missing[*]}; its last words:" >&2
tail -n 15 "$log" >&2
exit 1
