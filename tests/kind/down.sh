#!/bin/bash
# Deletes the cluster and what `make kind-demo` started beside it.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need docker kind
docker rm -f "$CLUSTER-mypc" >/dev/null 2>&1 || true
kind delete cluster --name "$CLUSTER"
rm -f "$root/target/kind/$CLUSTER.kubeconfig"
