#!/bin/bash
# Runs every target, each for its share of SECONDS seconds or until INPUTS inputs are done, and
# prints what came of it: run.sh PROGRAMS SECONDS [INPUTS [TARGET...]]
#
# A target ends at its first finding; the others go on. The speed is per second of the processor, so
# that it says the same on a busy machine.
set -euo pipefail

cd "$(dirname "$0")"
programs=$1 seconds=$2 inputs=${3:--1}
shift "$(($# < 3 ? $# : 3))"
targets=("$@")
[[ ${#targets[@]} != 0 ]] || targets=(call manifests api kernel requests)
share=$(((seconds + ${#targets[@]} - 1) / ${#targets[@]}))

# The words that a target's inputs are made of; netlink has none.
dictionary() {
    case $1 in
        call | requests) echo "-dict=$PWD/dictionaries/$1.txt" ;;
        manifests | api) echo "-dict=$PWD/dictionaries/objects.txt" ;;
    esac
}

# YAML takes its time: more inputs are worth more than longer ones.
longest() {
    case $1 in
        manifests) echo 1024 ;;
        *) echo 4096 ;;
    esac
}

value() { sed -n "s/^stat::$1: *//p" "$log"; }

# Seconds with three decimals in milliseconds, and the other way round with one.
milliseconds() { echo "$((10#${1/./}))"; }
seconds() { echo "$(($1 / 1000)).$(($1 % 1000 / 100)) s"; }

TIMEFORMAT='%3R %3U %3S' LC_NUMERIC=C

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0 table=
for target in "${targets[@]}"; do
    # Absolute paths: a target may change its root.
    corpus=$PWD/corpus/$target artifacts=$PWD/artifacts/$target
    mkdir -p "$corpus" "$artifacts"
    echo "$target: at most $share s ..."
    code=0
    # What takes long is mutated less often, so that an attachment, for which the kernel takes tens
    # of milliseconds, does not take the time of a thousand inputs that are refused.
    # shellcheck disable=SC2046 # one word or none
    took=$({ time "$programs/$target" -max_total_time="$share" -runs="$inputs" -timeout=10 \
        -max_len="$(longest "$target")" -entropic_scale_per_exec_time=1 -print_final_stats=1 \
        -artifact_prefix="$artifacts/" $(dictionary "$target") \
        "$corpus" "$PWD/seeds/$target" >"$log" 2>&1; } 2>&1) || code=$?
    read -r real user system <<<"$took"
    processor=$(($(milliseconds "$user") + $(milliseconds "$system")))
    executed=$(value number_of_executed_units)
    findings=0
    if [[ $code != 0 ]]; then
        failed=1 findings=1
        grep -vE '^#[0-9]+|^stat::' "$log" | tail -n 60 >&2
    fi
    table+=$(printf '%-10s %12s %10s %10s %10s %9s' "$target" "${executed:-?}" \
        "$(seconds "$(milliseconds "$real")")" "$(seconds "$processor")" \
        "$((${executed:-0} * 1000 / (processor + 1)))/s" "$findings")$'\n'
done
printf '\n%-10s %12s %10s %10s %10s %9s\n%s' TARGET INPUTS TIME PROCESSOR SPEED FINDINGS "$table"
if [[ $failed != 0 ]]; then
    echo "What was found is in $PWD/artifacts; run a target with one file to see it again." >&2
fi
exit $failed
