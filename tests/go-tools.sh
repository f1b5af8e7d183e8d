#!/bin/bash
# Sees to it that programs that are Go modules are there: go-tools.sh PROGRAM...
#
# One that is not in PATH is built into target/go-tools, which whoever calls this has in PATH. The
# versions are those with which the tests were last run. `make test` needs none of them.
set -euo pipefail
cd "$(dirname "$0")/.."
declare -A modules=(
    [helm]=helm.sh/helm/v3/cmd/helm@v3.22.0
    [actionlint]=github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
)
folder=$PWD/target/go-tools
PATH=$folder:$PATH:/usr/local/go/bin
for program; do
    command -v "$program" >/dev/null && continue
    module=${modules[$program]:-}
    [[ $module ]] || { echo "$program is needed: install it and try again" >&2; exit 1; }
    command -v go >/dev/null || {
        echo "$program is needed, or Go to build it with: install one of them and try again" >&2; exit 1; }
    echo "Building $module ..."
    GOBIN=$folder go install "$module"
done
