#!/bin/bash
# Suites of others about policies on the cluster, which `make kind` creates:
#
#   policies.sh [cluster|cyclonus]...
#
#   cluster   the conformance tests of network-policy-api for ClusterNetworkPolicy, with its CRD
#   cyclonus  all cases of cyclonus for NetworkPolicy; CYCLONUS_FLAGS is added to its command line
#
# Where the kernel has no SCTP, TCP takes its place in the first, and the second has none. Needs Go.
# Reports go to target/e2e/.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
PATH=$PATH:/usr/local/go/bin
need docker kind kubectl go
cluster_exists || { echo "there is no cluster $CLUSTER: run make kind first" >&2; exit 1; }
reports=$root/target/e2e
tools=$root/target/go-tools
mkdir -p "$reports" "$tools"
api=sigs.k8s.io/network-policy-api@v0.3.0
failed=0

# image NAME: gives this name to the agnhost that the nodes have.
image() {
  local node
  for node in $(nodes); do
    docker exec "$node" bash -c 'set -e
      ! ctr -n k8s.io images ls -q 2>&1 | grep -qx "$1" || exit 0
      have=$(ctr -n k8s.io images ls -q | grep -m1 /agnhost:)
      ctr -n k8s.io images tag "$have" "$1"' bash "$1" >/dev/null 2>&1 ||
      { echo "$node has no image agnhost: load one with kind load docker-image" >&2; exit 1; }
  done
}

has_sctp() { docker exec "$CLUSTER-control-plane" test -e /proc/net/sctp; }

# conformance_program: builds the tests of network-policy-api; its path. Where the kernel has no
# SCTP, its servers would end at once and its policies could not be tried: servers, clients and
# policies speak TCP on those ports instead, which no other rule is about.
conformance_program() {
  local source copy=$tools/network-policy-api sctp=yes
  local apart='{topologyKey: kubernetes.io\/hostname, namespaceSelector: {}, labelSelector: {matchLabels: {statefulset.kubernetes.io\/pod-name: harry-potter-1}}}'
  has_sctp || sctp=no
  # A number of its own for each way to change what is built.
  local program=$tools/network-policy-conformance-2-$sctp
  if [[ ! -x $program ]]; then
    echo "Building the tests of $api ..." >&2
    source=$(cd / && go mod download -json "$api" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    rm -rf "$copy"
    cp -r --no-preserve=mode "$source" "$copy"
    # A pod always reaches its own node, and the tests of nodes as peers take it for any: the server
    # that has its node's network must be on another node than its client.
    sed -i "s/^      hostNetwork: true\$/&\n      affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [$apart]}}/" \
      "$copy/conformance/base/manifests.yaml"
    grep -q podAntiAffinity "$copy/conformance/base/manifests.yaml"
    if [[ $sctp == no ]]; then
      sed -i 's/SERVE_SCTP_PORT_/SERVE_TCP_PORT_/; s/- sctp:/- tcp:/' \
        "$copy"/conformance/base/*.yaml "$copy"/conformance/base/*/*.yaml
      sed -i 's/"sctp"/"tcp"/' "$copy"/conformance/tests/*.go
    fi
    (cd "$copy" && go test -c -o "$program" ./conformance)
  fi
  echo "$program"
}

cluster() {
  local program log=$reports/cluster-policies.log
  program=$(conformance_program)
  image registry.k8s.io/e2e-test-images/agnhost:2.45
  if ! kubectl get crd clusternetworkpolicies.policy.networking.k8s.io >/dev/null 2>&1; then
    kubectl apply --server-side -f \
      "$tools/network-policy-api/config/crd/experimental/policy.networking.k8s.io_clusternetworkpolicies.yaml"
    echo "The agents look for this CRD twice a minute: waiting for 40 s ..."
    sleep 40
  fi
  # What an interrupted run left.
  kubectl delete clusternetworkpolicies --all >/dev/null
  kubectl get namespaces -o name | sed -n "/network-policy-conformance/p" | xargs -r \
    kubectl --context "$context" delete >/dev/null
  echo "== network-policy-api"
  "$program" -test.v -test.run '^TestConformance$' \
    -supported-features ClusterNetworkPolicy,ClusterNetworkPolicyEgressNodePeers >"$log" 2>&1 || failed=1
  grep -E '^ {4}--- ' "$log" || true
  printf 'cases within them: %s passed, %s failed\n' \
    "$(grep -cE '^ {8}--- PASS' "$log")" "$(grep -cE '^ {8}--- FAIL' "$log")"
  ((failed == 0)) || echo "see $log"
}

# cyclonus_programs: builds cyclonus, and puts its worker into the nodes: a probe of cyclonus is some
# hundred connections, and an exec through the API server for each of them takes a minute for what the
# worker does in a second or two. The flag that asks for it is commented out in v0.5.6; the code is there.
cyclonus_programs() {
  local copy=$tools/cyclonus-source module=github.com/mattfenwick/cyclonus@v0.5.6 source node
  local worker=docker.io/mfenwick100/cyclonus-worker:latest
  if [[ ! -x $tools/cyclonus-batch ]]; then
    echo "Building cyclonus ..." >&2
    source=$(cd / && go mod download -json "$module" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
    rm -rf "$copy"
    cp -r --no-preserve=mode "$source" "$copy"
    sed -i 's/batchJobs := false.*/batchJobs := true/' "$copy/pkg/cli/generate.go"
    sed -i 's/"concurrency", 10,/"concurrency", 40,/' "$copy/pkg/worker/cli.go"
    cp "$here/cyclonus/connect.go" "$copy/pkg/worker/"
    sed -i 's/^\tcommand := r.Command()$/\tif result := connect(r); result != nil {\n\t\treturn result\n\t}\n&/' \
      "$copy/pkg/worker/worker.go"
    (cd "$copy" && CGO_ENABLED=0 go build -o "$tools/worker" ./cmd/worker &&
      CGO_ENABLED=0 go build -o "$tools/cyclonus-batch" ./cmd/cyclonus)
    docker image rm -f "$worker" >/dev/null 2>&1 || true
  fi
  if ! docker image inspect "$worker" >/dev/null 2>&1; then
    # On any agnhost that the engine has; what the worker itself names is fetched only without one.
    local base
    base=$(docker image ls --format '{{.Repository}}:{{.Tag}}' | grep -v '<none>' |
      grep -m1 /agnhost: || true)
    mkdir -p "$tools/worker-image"
    cp "$tools/worker" "$tools/worker-image/"
    sed "s#^FROM .*#FROM ${base:-registry.k8s.io/e2e-test-images/agnhost:2.43}#" "$copy/cmd/worker/Dockerfile" \
      >"$tools/worker-image/Dockerfile"
    docker build -q -t "$worker" "$tools/worker-image" >/dev/null
  fi
  for node in $(nodes); do
    docker exec "$node" ctr -n k8s.io images ls -q 2>/dev/null | grep -qx "$worker" ||
      kind load docker-image -q --name "$CLUSTER" --nodes "$node" "$worker"
  done
}

# A pod always reaches itself, as the API says; cyclonus counts that as wrong unless told to leave it out.
cyclonus() {
  local log=$reports/cyclonus.log protocols=TCP,UDP
  image registry.k8s.io/e2e-test-images/agnhost:2.43
  cyclonus_programs
  has_sctp && protocols+=,SCTP
  echo "== cyclonus"
  # shellcheck disable=SC2086
  "$tools/cyclonus-batch" generate --exclude= --server-protocol "$protocols" --context "$context" \
    --ignore-loopback --perturbation-wait-seconds 1 --cleanup-namespaces --junit-results-file "$reports/cyclonus.xml" \
    ${CYCLONUS_FLAGS:-} >"$log" 2>&1 || failed=1
  # Not head: with pipefail the sed that it stops would end the script.
  sed -n '/^Summary/,$p' "$log" | sed -n 1,80p
}

for what in "${@:-cluster}"; do
  case $what in
  cluster | cyclonus) "$what" ;;
  *) echo "there is no suite $what: cluster and cyclonus are known" >&2; exit 2 ;;
  esac
done
exit "$failed"
