#!/bin/bash
# The upstream end-to-end tests of Kubernetes on the cluster:
#
#   e2e.sh [conformance|parallel|slow|serial|performance|dns-performance|dual|netpol|all|FOCUS]...
#
# PROCESSES says how many specs run at a time where they may (3).
#
# Needs e2e.test and ginkgo of the cluster's version on the PATH. Reports go to target/e2e/.
# Exit status 0 if nothing failed but what e2e-known.txt names.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
need docker kind e2e.test ginkgo kubectl
cluster_exists || { echo "there is no cluster $CLUSTER: run make kind first" >&2; exit 1; }
reports=$root/target/e2e
mkdir -p "$reports"
workers=$(($(nodes | wc -l) - 1))
unexpected=0
processes=${PROCESSES:-3}

# run NAME PROCESSES FOCUS SKIP
run() {
  local name=$1 processes=$2 focus=$3 skip=$4 start=$SECONDS
  rm -f "$reports/junit_$name-"*.xml
  echo "== $name"
  ginkgo -procs="$processes" -no-color -timeout=4h -focus="$focus" ${skip:+-skip="$skip"} \
    "$(command -v e2e.test)" -- --kubeconfig "$KUBECONFIG" --provider=local \
    --num-nodes="$workers" --report-dir="$reports" --report-prefix="$name-" \
    >"$reports/$name.log" 2>&1 || true
  summary "$name" $((SECONDS - start))
}

# summary NAME SECONDS: every spec of the run with its result, from the JUnit report. What was not
# asked for is in there too, skipped without a reason.
summary() {
  local results=$reports/$1.txt
  cat "$reports/junit_$1-"*.xml | awk '
    /<testcase name="\[It\]/ {
      name = $0; sub(/.*name="\[It\] /, "", name); sub(/" classname=.*/, "", name); sub(/ \[sig-network,? ?[^]]*\]$/, "", name)
      gsub(/&lt;/, "<", name); gsub(/&gt;/, ">", name); gsub(/&#34;/, "\"", name); gsub(/&#39;/, "\x27", name); gsub(/&amp;/, "\\&", name)
      status = $0; sub(/.*status="/, "", status); sub(/".*/, "", status)
      if (status == "passed") print status "\t" name
      else if (status != "skipped") print "failed\t" name
    }
    status == "skipped" && /<skipped message="skipped - / { print status "\t" name; status = "" }
  ' | sort -u >"$results"
  local passed failed skipped
  passed=$(grep -c '^passed' "$results" || true)
  failed=$(grep -c '^failed' "$results" || true)
  skipped=$(grep -c '^skipped' "$results" || true)
  printf '%s: %s passed, %s failed, %s skipped themselves, %s s\n' "$1" "$passed" "$failed" "$skipped" "$2"
  while IFS=$'\t' read -r _ spec; do
    local reason
    reason=$(awk -F '\t' -v spec="$spec" '!/^#/ && index(spec, $1) { print $2; exit }' "$here/e2e-known.txt")
    [[ $reason ]] || unexpected=$((unexpected + 1))
    printf '  failed: %s%s\n' "$spec" "${reason:+ (known: $reason)}"
  done < <(grep '^failed' "$results" || true)
  ((passed + failed + skipped > 0)) || { echo "  no spec ran: see $reports/$1.log"; unexpected=$((unexpected + 1)); }
}

network='\[sig-network\]'
feature='\[Feature:'
alone='\[Serial\]|\[Disruptive\]'
for what in "${@:-all}"; do
  case $what in
  conformance) run conformance "$processes" "$network.*\[Conformance\]" "$feature|$alone" ;;
  parallel) run parallel "$processes" "$network" "$feature|$alone|\[Slow\]|\[Conformance\]" ;;
  slow) run slow 2 "$network.*\[Slow\]" "$feature|$alone" ;;
  serial) run serial 1 "$network.*(\[Serial\]|\[Disruptive\])" "$feature" ;;
  performance) run performance 1 "$network.*IPerf2" "" ;;
  dns-performance)
    # Ten thousand Services: more addresses than the walkthrough's Service network has. What an
    # earlier run left goes only when the last of its Services has gone.
    kubectl wait --for=delete servicecidr/podwire-e2e --timeout=600s >/dev/null
    kubectl apply -f - >/dev/null <<END
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: podwire-e2e}
spec: {cidrs: [10.201.0.0/16]}
END
    run dns-performance 1 "$network.*maximum number of services per cluster" ""
    kubectl delete servicecidr podwire-e2e --wait=false >/dev/null
    ;;
  dual) run dual "$processes" "$network.*\[Feature:IPv6DualStack\]" "\[Feature:(LoadBalancer|SCTPConnectivity)\]" ;;
  # What is about SCTP runs where the kernel of the nodes has it.
  netpol)
    sctp=$(docker exec "$CLUSTER-control-plane" test -e /proc/net/sctp || echo '\[Feature:SCTPConnectivity\]')
    run netpol "$processes" "$network Netpol" "$sctp"
    ;;
  all) exec "$0" conformance parallel slow serial performance dns-performance ;;
  *) run focus 1 "$what" "" ;;
  esac
done
((unexpected == 0))
