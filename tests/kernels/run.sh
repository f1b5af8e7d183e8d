#!/bin/bash
# Boots the kernels of list.txt in machines of their own, runs what groups.txt says in each, and
# prints a table: run.sh KERNELS GROUPS ARCH, each a list of names, and all if it is empty.
#
# One machine at a time. The whole console of each is in target/kernels/logs.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
source "$root/tests/cross.sh"
rows() { grep -v '^#' "$here/$1"; }
names=$(rows list.txt | awk '{ print $1 }')
known_groups=$(rows groups.txt | awk '!seen[$1]++ { print $1 }')

# chosen WHAT FILE WANTED ALL: what is wanted, in the order of all.
chosen() {
    local word
    for word in $3; do
        grep -qxF -- "$word" <<<"$4" || fail "there is no $1 $word in tests/kernels/$2: it has $(xargs <<<"$4")"
    done
    for word in $4; do [[ ! $3 || " $3 " == *" $word "* ]] && echo "$word"; done || true
}
kernels=$(chosen kernel list.txt "${1:-}" "$names")
groups=$(chosen group groups.txt "${2:-}" "$known_groups")
architectures=${3:-amd64 arm64}
mkdir -p "$cache/logs"

# lines ARCH KERNEL: the lines of groups.txt that are for this kernel.
lines() {
    local group where what
    rows groups.txt | while read -r group where what; do
        grep -qxF "$group" <<<"$groups" || continue
        case $where in
            all) ;;
            ends) [[ $1 == amd64 && ($2 == "$(head -n1 <<<"$names")" || $2 == "$(tail -n1 <<<"$names")") ]] || continue ;;
            *) [[ $1 == "$where" ]] || continue ;;
        esac
        echo "$group $what"
    done
}

# Whether a machine of this architecture runs on this machine's own processor.
acceleration() {
    if [[ ${ACCEL:-} ]]; then
        echo "$ACCEL"
    elif [[ -w /dev/kvm && $1 == "$(own_architecture)" ]] &&
        ACCEL=kvm LIMIT=30 "$here/machine.sh" "$1" "$2" "$3" "$4" >"$cache/logs/kvm" 2>&1; then
        echo kvm
    else
        echo icount
    fi
}

# follow NAME: the machine's console goes to a file; what is said to the host is shown, and a sign of
# life every half minute.
follow() {
    local line last='' shown=$SECONDS log=$cache/logs/$1
    : >"$log"
    while true; do
        if IFS= read -r -t 5 line; then
            printf '%s\n' "$line" >>"$log"
            case $line in
                '@ start '*) say "$1: ${line#@ start }" ;;
                '@ booted '* | '@ failed '* | '@ not-run '*) say "$1: ${line#@ }" ;;
                '@ result '*) say "$1: ${line#@ result }" ;;
                *) last=$line; ((SECONDS - shown >= 30)) || continue; say "$1: ... ${last:0:100}" ;;
            esac
            shown=$SECONDS
        elif (($? > 128)); then
            ((SECONDS - shown < 30)) || { say "$1: ... ${last:0:100}"; shown=$SECONDS; }
        else
            return
        fi
    done
}

# cell LOG GROUP: how it went, in a few words.
cell() {
    awk -v group="$2" '
        $1 != "@" || $3 != group { next }
        $2 == "start" { started = 1 }
        $2 == "result" { sub(/^@ result [^ ]+ /, ""); result = $0 }
        $2 == "tests" { passed += $4; failed += $5; tests = 1 }
        $2 == "failed" { named++ }
        $2 == "not-run" { left++ }
        END {
            if (!started) { print "-"; exit }
            if (result != "") { print result; exit }
            if (!tests) { print "did not end"; exit }
            if (named > failed) failed = named
            printf "%d passed", passed - left
            if (failed) printf ", %d FAILED", failed
            if (left) printf ", %d not run", left
            print ""
        }' "$1"
}

worst=0 table=()
for arch in $architectures; do
    # An array: a name may have a `*`, which is for who looks for test programs.
    mapfile -t what < <(for kernel in $kernels; do lines "$arch" "$kernel"; done | awk '!seen[$2]++ && $2 ~ /\// { print $2 }')
    [[ $(for kernel in $kernels; do lines "$arch" "$kernel"; done) ]] || continue
    first_disk=$("$here/rootfs.sh" "$arch")
    programs=$("$here/programs.sh" "$arch" "${what[@]}")
    for kernel in $kernels; do
        mapfile -t wanted < <(lines "$arch" "$kernel")
        ((${#wanted[@]})) || continue
        folder=$("$here/fetch.sh" "$kernel" "$arch")
        accel=$(acceleration "$arch" "$folder" "$first_disk" "$programs")
        name=$(cat "$folder/version")
        [[ $name == *"$arch" ]] || name=$name-$arch
        say "$name: booting ($accel)"
        start=$SECONDS status=0
        ACCEL=$accel "$here/machine.sh" "$arch" "$folder" "$first_disk" "$programs" "${wanted[@]}" > >(follow "$name") || status=$?
        wait $! || true
        ((status == 0)) || worst=1
        took=$((SECONDS - start))
        say "$name: $([[ $status == 0 ]] && echo "all is well" || echo "not all is well ($status)") after $took s"
        row="| $name |"
        for group in $groups; do row+=" $(cell "$cache/logs/$name" "$group") |"; done
        table+=("$row $accel, $took s |")
    done
done
echo
printf '| kernel |'; printf ' %s |' $groups; echo ' machine |'
printf '| --- |'; printf ' --- |%.0s' $groups; echo ' --- |'
printf '%s\n' "${table[@]}"
echo
for row in "${table[@]}"; do
    name=$(awk '{ print $2 }' <<<"$row")
    sed -nE "s/^@ failed /$name: failed: /p; s/^@ not-run /$name: not run: /p" "$cache/logs/$name"
done
exit $worst
