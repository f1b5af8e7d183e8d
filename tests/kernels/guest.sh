#!/bin/bash
# What runs in the machine, in the folder of the project: guest.sh LINE..., each a group and what is
# to be run for it, as in groups.txt. Lines that begin with `@` are for the host:
#
#   @ start GROUP WHAT        something begins
#   @ result GROUP TEXT       how preflight or the demo went
#   @ tests GROUP PASSED FAILED
#   @ failed GROUP TEST
#   @ not-run GROUP TEXT      a test that this kernel cannot run, with the reason
set -uo pipefail
programs=$(echo "$PWD"/target/*/release)
export PODWIRE_BIN_DIR=$programs
bad=0

preflight() {
    local out
    out=$("$programs/podwire-agent" preflight)
    local status=$?
    echo "$out"
    [[ $status == 0 ]] || bad=1
    local less
    less=$(sed -nE 's/^(.*[^ ]) +(falls back|refuses) +.*/\1 \2/p' <<<"$out" | sed -E 's/  +/ /g' | paste -sd, | sed 's/,/, /g')
    echo "@ result $1 ${less:-all works}"
}

demo() {
    "$programs/podwire-lab" demo 2>&1 | tee /run/demo
    [[ ${PIPESTATUS[0]} == 0 ]] || bad=1
    echo "@ result $1 $(held)"
}

# The kernel loads nothing by itself; are the modules that preflight names all that it takes? The
# whole walkthrough is shown with them.
modules() {
    local line out=/run/modules
    modprobe bridge # the lab's own need
    echo /bin/false >/proc/sys/kernel/modprobe
    "$programs/podwire-agent" preflight | tee $out
    line=$(sed -n 's/^  \(modprobe --all .*\)/\1/p' $out)
    # Those that a newer kernel has built in are not there to be loaded.
    for module in ${line#modprobe --all }; do
        modprobe "$module" 2>/dev/null || echo "@ note $1 there is no module $module"
    done
    "$programs/podwire-agent" preflight
    "$programs/podwire-lab" demo 2>&1 | tee /run/demo
    local status=${PIPESTATUS[0]}
    echo /sbin/modprobe >/proc/sys/kernel/modprobe
    [[ $status == 0 && $line ]] || bad=1
    echo "@ result $1 $(wc -w <<<"${line#modprobe --all }") named, then $(held)"
}

# A real kube-proxy in ipvs mode, and what take-over leaves of it.
kube-proxy() {
    [[ -x $programs/kube-proxy ]] || { echo "@ result $1 not run: KUBE_PROXY names no program"; return; }
    # The kernel loads these for no one who only has a namespace of their own.
    modprobe --all ip_vs ip_vs_rr nf_conntrack dummy || { bad=1; echo "@ result $1 FAILED: no ipvs"; return; }
    local status
    unshare --net bash tests/kernels/kube-proxy.sh "$programs" 2>&1 | tee /run/out
    status=${PIPESTATUS[0]}
    [[ $status == 0 ]] || bad=1
    echo "@ result $1 $([[ $status == 0 ]] || echo 'FAILED: ')$(tail -n1 /run/out)"
}

# held: the last line of the demo.
held() { sed -nE 's/^.*\b([0-9]+ of [0-9]+) observations hold.*/\1/p' /run/demo; }

# tests GROUP PACKAGE/PROGRAM [NAME...]: the programs of that name, one after another.
tests() {
    local group=$1 what=$2 name program out=/run/out status passed failed all=0
    shift 2
    while read -r name program; do
        # shellcheck disable=SC2053 # a pattern
        [[ $name == $what ]] || continue
        echo "@ start $group $name"
        (cd "${name%%/*}" && CARGO_MANIFEST_DIR=$PWD exec "../$program" "$@") </dev/null 2>&1 | tee $out
        status=${PIPESTATUS[0]}
        sed -nE 's/^not run: (.*)/@ not-run '"$group"' \1/p' $out
        # The list at the end: the lines above it may have words of the tests' own in them.
        awk -v group="$group" '/^failures:$/ { n = 0 } /^    [^ ]+$/ { names[n++] = $1 }
            END { for (i = 0; i < n; i++) print "@ failed " group " " names[i] }' $out
        read -r passed failed < <(sed -nE 's/^test result: .* ([0-9]+) passed; ([0-9]+) failed;.*/\1 \2/p' $out)
        passed=${passed:-0} failed=${failed:-0}
        echo "@ tests $group $passed $failed"
        all=$((all + passed + failed))
        [[ $status == 0 ]] && continue
        bad=1
        grep -q '^test result' $out || echo "@ failed $group $name ended before its tests did ($status)"
    done < <(cat tests.list)
    ((all)) || { bad=1; echo "@ failed $group $what: no test was run"; }
}

echo "@ booted $(uname -r) $(uname -m)"
for line; do
    read -r group what names <<<"$line"
    case $what in
        modules | preflight | demo | kube-proxy) echo "@ start $group"; "$what" "$group" ;;
        # shellcheck disable=SC2086 # names are words
        *) tests "$group" "$what" $names ;;
    esac
done
exit $bad
