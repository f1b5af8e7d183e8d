#!/bin/bash
# Prints what the image is made of, as SPDX in JSON: sbom.sh TARGET [FOLDER]. The checksums of the
# two programs are those of the files in FOLDER; without it they have none.
set -euo pipefail
cd "$(dirname "$0")/.."
arguments=(--target "$1")
[[ ! ${2:-} ]] || arguments+=(--program "podwire=$2/podwire" --program "podwire-agent=$2/podwire-agent")
# The commit's time: whoever builds the same programs gets the same document.
created=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
# Not with the flags of the programs: this is a tool, built for this machine.
env -u RUSTFLAGS cargo run --quiet --locked --package podwire-lab --bin podwire-sbom -- \
    --created "$created" "${arguments[@]}"
