#!/bin/bash
# Plants ten faults in the kind cluster, one after the other, and shows that the desk names each:
# `kubectl podwire why` at its node and hop, `kubectl podwire test` by failing and saying what it is.
# Each is taken back before the next comes.
#
#   faults.sh [FAULT]...    # route map policy endpoints port node mtu spoof masquerade foreign
#
# WHAT=why or WHAT=test tries only the one. DESK names the program (else the release build's).
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need docker kind kubectl
cluster_exists || { echo "there is no cluster $CLUSTER: run make kind first" >&2; exit 1; }
image=${TEST_IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.55}
what=${WHAT:-why test}
DESK=${DESK:-$root/target/$(rustc -vV | sed -n 's/^host: //p')/release/kubectl-podwire}
[[ -x $DESK ]] || { echo "$DESK is missing: run make build first" >&2; exit 1; }
namespace=podwire-faults
w1=$CLUSTER-worker w2=$CLUSTER-worker2
faults=("$@")
((${#faults[@]})) || faults=(route map policy endpoints port node mtu spoof masquerade foreign)
work=$(mktemp -d)
watcher='' failed=0 planted='' spoofer=''

desk() { "$DESK" --context "$context" "$@"; }

finish() {
  # A fault stays in no cluster, whatever ends this script.
  [[ -z $planted ]] || "remove_$planted" >/dev/null 2>&1 || true
  [[ -z $watcher ]] || kill "$watcher" 2>/dev/null || true
  stop_again_and_again
  rm -rf "$work"
  kubectl delete namespace $namespace --wait=false >/dev/null 2>&1 || true
}
trap finish EXIT

# again_and_again NODE COMMAND: against the agent, which repairs it each time; no longer than ten
# minutes, whatever becomes of this script.
again_and_again() {
  docker exec -d "$1" timeout 600 sh -c "echo \$\$ >/run/fault.pid; while :; do $2; sleep 0.005; done"
}

stop_again_and_again() {
  docker exec $w1 sh -c '[ ! -f /run/fault.pid ] || { kill $(cat /run/fault.pid); rm /run/fault.pid; }' 2>/dev/null || true
}

# in_test COMMAND...: runs it with the namespace of the connectivity test as soon as its Service is there.
in_test() {
  (
    for ((i = 0; i < 600; i++)); do
      ns=$(kubectl get namespaces --field-selector status.phase=Active -l podwire.io/connectivity-test -o 'jsonpath={.items[0].metadata.name}' 2>/dev/null) || ns=
      [[ -z $ns ]] || ! "$@" "$ns" >>"$work/in-test" 2>&1 || exit 0
      sleep 0.2
    done
  ) &
  watcher=$!
}

# netns_of NODE ADDRESS: the network namespace of the pod that has it.
netns_of() {
  docker exec "$1" bash -c 'for one in /run/netns/*; do
    ! nsenter --net=$one ip -o addr | grep -qF " $0/" || { echo $one; exit; }; done; exit 1' "$2"
}

pod_ip() { kubectl -n "${2:-$namespace}" get pod "$1" -o 'jsonpath={.status.podIP}'; }
pod_cidr() { kubectl get node "$1" -o 'jsonpath={.spec.podCIDR}'; }

lay_out() {
  kubectl delete namespace $namespace --ignore-not-found --wait >/dev/null 2>&1
  kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: Namespace
metadata: {name: $namespace}
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: $namespace}
spec:
  nodeName: $w1
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $image, args: [pause]}]
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: $namespace, labels: {app: web}}
spec:
  nodeName: $w2
  terminationGracePeriodSeconds: 0
  containers: [{name: main, image: $image, args: [netexec, --http-port=80, --udp-port=-1]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: $namespace}
spec:
  selector: {app: web}
  ports: [{port: 80}]
END
  kubectl -n $namespace wait --for=condition=Ready pod --all --timeout=60s >/dev/null
  wait_for 20 "the Service" curl_works
}

curl_works() { kubectl -n $namespace exec client -- curl -sm2 "http://$(cluster_ip)"; }
cluster_ip() { kubectl -n $namespace get service web -o 'jsonpath={.spec.clusterIP}'; }

# What `why` is asked, the node and the hop that it must name, and what it must say.
from=$namespace/client to=$namespace/web:80

# say WHAT RESULT: one line.
say() { printf '%-12s %-5s %s\n' "$1" "$2" "$3"; }

# names FAULT NODE HOP CAUSE [SECONDS]: within 20 s, or so many, `why` says that the way fails on NODE, at a hop that HOP
# matches, for CAUSE.
names() {
  local start=$SECONDS text last hop
  while :; do
    text=$(desk why "$from" "$to" 2>&1) || true
    last=$(tail -n1 <<<"$text")
    hop=$(grep -E '<== (may fail|fails|no answer from) ' <<<"$text" | head -n1 || true)
    # With what stands behind a name, or worker is found in worker2.
    if [[ "$last " =~ $2[\ .,:] && $last == *"$4"* && $hop =~ $3 ]]; then
      say "$1" why "named: ${last#=x }"
      [[ -z $hop ]] || printf '%18s at:%s\n' '' "${hop%<==*}"
      return
    fi
    ((SECONDS - start < ${5:-20})) || break
    sleep 0.5
  done
  say "$1" why "NOT named; the last answer:"
  printf '%s\n' "$text"
  failed=1
}

# tested FAULT PATTERN: the connectivity test fails, and a line of its report matches PATTERN.
tested() {
  local start=$SECONDS status=0
  desk test >"$work/report" 2>&1 || status=$?
  local line
  line=$(grep -E -- "$2" "$work/report" | head -n1 || true)
  if ((status == 1)) && [[ $line ]]; then
    say "$1" test "fails and names it, $((SECONDS - start)) s:$(sed 's/  */ /g' <<<" $line")"
  else
    say "$1" test "NOT named, exit status $status, $((SECONDS - start)) s; the report:"
    cat "$work/report" "$work/in-test" 2>/dev/null || true
    failed=1
  fi
}

# try NAME: plants it, asks both, and takes it back.
try() {
  local name=$1
  : >"$work/in-test"
  planted=$name
  "plant_$name"
  [[ $what != *why* ]] || "why_$name"
  [[ $what != *test* ]] || "test_$name"
  [[ -z $watcher ]] || { kill "$watcher" 2>/dev/null || true; wait "$watcher" 2>/dev/null || true; watcher=''; }
  "remove_$name"
  planted=''
  wait_for 60 "the network after the fault $name" curl_works
  wait_for 60 "status after the fault $name" desk status
}

plant_route() { again_and_again $w1 "ip route del $(pod_cidr $w2) 2>/dev/null"; }
why_route() { names route $w1 "The way to the endpoints" "wanted is via"; }
test_route() { tested route "wanted is via"; }
remove_route() { stop_again_and_again; }

plant_map() { again_and_again $w1 "nft flush map ip podwire-services services"; }
why_map() { names map $w1 "Service $namespace/web" "\`services\` of table ip podwire-services does not have it"; }
test_map() { tested map "podwire-services"; }
remove_map() { stop_again_and_again; }

forbid() {
  kubectl -n "$2" apply -f - <<END
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: forbid-it}
spec: {podSelector: {matchLabels: {$1}}, policyTypes: [Ingress]}
END
}
plant_policy() { forbid "app: web" $namespace >/dev/null; in_test forbid "role: server"; }
why_policy() { names policy $w2 "olic" "forbid-it"; }
test_policy() { tested policy "forbid-it"; }
remove_policy() { kubectl -n $namespace delete networkpolicy forbid-it >/dev/null; }

select_no_one() { kubectl -n "$1" patch service web -p '{"spec":{"selector":{"app":"no-one"}}}'; }
plant_endpoints() { select_no_one $namespace >/dev/null; in_test select_no_one; }
why_endpoints() { names endpoints $w1 "No endpoint may answer" "No endpoint of the Service is ready"; }
test_endpoints() { tested endpoints "No endpoint of the Service is ready"; }
remove_endpoints() {
  kubectl -n $namespace patch service web --type=json \
    -p '[{"op":"replace","path":"/spec/selector","value":{"app":"web"}}]' >/dev/null
}

# The Service's port for `why` (a client that asks for another), the endpoints' for `test`.
wrong_port() {
  kubectl -n "$1" patch service web --type=json -p '[{"op":"replace","path":"/spec/ports/0/targetPort","value":9}]'
}
plant_port() { to=$namespace/web:81; in_test wrong_port; }
why_port() { names port $w1 "ClusterIP $(cluster_ip)" "not among those"; }
test_port() { tested port ':9([^0-9]|$)'; }
remove_port() { to=$namespace/web:80; }

plant_node() {
  docker exec $w2 ip link set eth0 down
  # Whoever asks why has tried before, so that the kernel looks for the node.
  for _ in 1 2; do curl_works >/dev/null 2>&1 || true; done
}
# That it is not known is said at once. The kernel may take a node that it has heard of late for reachable
# for 45 s more, and Kubernetes for ready for as long; then its endpoints take no connections any longer.
why_node() { names node "node $w2" "The way to the endpoints|No endpoint may answer" "it fails" 90; }
test_node() { tested node "on node $w2 or on the way to it|$w2 .*not ready"; }
remove_node() {
  # The default route went with the link; Docker gives every node the same.
  docker exec $w2 ip link set eth0 up
  docker exec $w2 ip route replace default via "$(docker exec $w1 ip route show default | cut -d' ' -f3)" dev eth0
  kubectl wait --for=condition=Ready "node/$w2" --timeout=90s >/dev/null
  # Pods that were marked for deletion meanwhile are not there any longer.
  lay_out
}

plant_mtu() { docker exec $w2 ip link set eth0 mtu 1300; }
why_mtu() { names mtu $w2 "It comes in through" "uplink eth0 of node $w2 has 1300"; }
test_mtu() { tested mtu "$w2 has 1300"; }
remove_mtu() { docker exec $w2 ip link set eth0 mtu 1500; }

false_source() {
  local netns
  false=$(pod_cidr $w1) false=${false%.*}.99
  netns=$(netns_of $w1 "$(pod_ip "$1" "$2")")
  docker exec $w1 nsenter "--net=$netns" sh -c "ip addr replace $false/32 dev eth0 &&
    ip route replace \$(ip route show default | head -n1 | sed 's/ src .*//') src $false"
}
send_falsely() {
  local i
  for ((i = 0; i < 10; i++)); do
    kubectl -n $namespace exec client -- curl -sm1 "http://$(pod_ip server)" >/dev/null 2>&1 || true
  done
}
plant_spoof() {
  false_source client $namespace
  # So that something is dropped while `why` is asked.
  (for ((i = 0; i < 6; i++)); do send_falsely; done) &
  spoofer=$!
  in_test false_source client-1
}
why_spoof() { names spoof $w1 "hands it to its gateway" "dropped this"; }
test_spoof() { tested spoof "sends from $false, which is not its address"; }
remove_spoof() {
  kill "$spoofer" 2>/dev/null || true
  wait "$spoofer" 2>/dev/null || true
  [[ -z $planted ]] || lay_out
}

flags() {
  kubectl -n kube-system patch daemonset podwire --type=json -p "$1" >/dev/null
  kubectl -n kube-system rollout status daemonset/podwire --timeout=120s >/dev/null
}
plant_masquerade() { to=192.0.2.9:80; flags '[{"op":"add","path":"/spec/template/spec/containers/0/args/-","value":"--masquerade=false"}]'; }
why_masquerade() { names masquerade $w1 "The source stays" "masquerading is off"; }
test_masquerade() { tested masquerade "masquerading is off"; }
remove_masquerade() {
  to=$namespace/web:80
  kubectl -n kube-system rollout undo daemonset/podwire >/dev/null
  kubectl -n kube-system rollout status daemonset/podwire --timeout=120s >/dev/null
}

plant_foreign() {
  docker exec $w2 nft 'add table inet foreign; add chain inet foreign stops { type filter hook forward priority 0; };
    add rule inet foreign stops tcp dport { 80, 18080 } drop'
}
why_foreign() { names foreign $w2 "Route to" "chain inet foreign stops"; }
test_foreign() { tested foreign "chain inet foreign stops"; }
remove_foreign() { docker exec $w2 nft delete table inet foreign; }

lay_out
for one in "${faults[@]}"; do
  [[ $(type -t "plant_$one") == function ]] || { echo "there is no fault $one" >&2; exit 2; }
  try "$one"
done
exit $failed
