#!/bin/bash
# Whether the first packets of pods meet their policies on a real cluster: starts STARTS pods (1000) on
# one node, AT_ONCE (30) at a time, half of them in a namespace where everything is denied, half in one
# with allow rules. Each sends from its first moment, and is sent to by two pods, one on its own node and
# one on another, which go through all addresses of the node over and over:
#
#   STARTS=1000 AT_ONCE=30 starts.sh [kill]
#
# kill also kills the node's agent at random moments. What a closed pod gets the kernel counts from the
# pod's first moment on; the rest is in the logs of servers. Exit status 0 if nothing passed that should
# not, and one datagram of each kind that may.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/lib.sh"
need docker kind kubectl
cluster_exists || { echo "there is no cluster $CLUSTER: run make kind first" >&2; exit 1; }
image=${TEST_IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.55}
starts=${STARTS:-1000} at_once=${AT_ONCE:-30} how=${1:-}
[[ $how == @(|kill) ]] || { echo "there is no way $how to start pods: only kill is known" >&2; exit 2; }
node=$CLUSTER-worker other=$CLUSTER-worker2
work=$(mktemp -d)
touch "$work/kills"
killer=
finish() {
  [[ -z $killer ]] || kill "$killer" 2>/dev/null || true
  rm -rf "$work"
  kubectl delete namespace podwire-free podwire-closed podwire-allowed --wait=false >/dev/null 2>&1 || true
}
trap finish EXIT
for namespace in podwire-free podwire-closed podwire-allowed; do
  kubectl delete namespace $namespace --ignore-not-found --wait >/dev/null 2>&1
done
# The first podCIDR is that of the first family: the one that is tried.
cidr=$(kubectl get node "$node" -o 'jsonpath={.spec.podCIDR}')
[[ $cidr =~ ^([0-9]+\.[0-9]+\.[0-9]+)\.0/24$ ]] ||
  { echo "the podCIDR of $node is $cidr: an IPv4 network of 256 addresses is needed" >&2; exit 1; }
net=${BASH_REMATCH[1]}

# pod NAMESPACE NAME NODE COMMAND: a manifest. The server on 8081 answers and logs what it gets; what
# is on 8082 no rule allows.
pod() {
  printf -- '---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: %s, name: %s, labels: {app: %s}}\n' "$1" "$2" "${2%%-*}"
  printf 'spec:\n  nodeName: %s\n  terminationGracePeriodSeconds: 0\n  containers:\n' "$3"
  printf '    - {name: main, image: %s, command: [bash, -c, %s]}\n' "$image" \
    "'/agnhost netexec --http-port=8080 --udp-port=8081 & /agnhost netexec --http-port=8083 --udp-port=8082 & $4; wait'"
}
# Fast at first, and then so that the server's log is not turned over while it is needed.
send() {
  echo "for pause in \$(yes 0.02 | head -n 30) \$(yes 0.5 | head -n 600); do" \
    "echo \"echo \$HOSTNAME\" >/dev/udp/$1/8081; echo \"echo \$HOSTNAME-8082\" >/dev/udp/$1/8082; sleep \$pause; done 2>/dev/null"
}
sweep="while :; do for i in \$(seq 2 254); do echo \"echo \$HOSTNAME\" >/dev/udp/$net.\$i/8081; done; sleep 0.02; done 2>/dev/null"

kubectl apply -f - >/dev/null <<END
{apiVersion: v1, kind: Namespace, metadata: {name: podwire-free}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: podwire-closed}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: podwire-allowed}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: podwire-closed}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: some, namespace: podwire-allowed}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: podwire-free}}, podSelector: {matchLabels: {app: near}}}]
      ports: [{protocol: UDP, port: 8081}]
  egress:
    - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: podwire-free}}, podSelector: {matchLabels: {app: sink}}}]
      ports: [{protocol: UDP, port: 8081}]
END
wait_for 30 "the service accounts" kubectl -n podwire-allowed get serviceaccount default
{ pod podwire-free sink "$other" ':'; pod podwire-free near "$node" "$sweep"; pod podwire-free far "$other" "$sweep"; } |
  kubectl apply -f - >/dev/null
kubectl -n podwire-free wait --for=condition=Ready pod --all --timeout=120s >/dev/null
sink=$(kubectl -n podwire-free get pod sink -o 'jsonpath={.status.podIP}')
# What is open gets through: else the rest would prove nothing.
pod podwire-free open "$node" "$(send "$sink")" | kubectl apply -f - >/dev/null
received() { kubectl -n podwire-free logs "$1" --tail=-1 | sed -n 's#^.*Echoing \(.*\) to UDP client.*#\1#p' | sort -u; }
all_of() { [[ $(received sink | grep -cxE 'open|open-8082') == 2 && $(received open | grep -cxE 'near|far') == 2 ]]; }
wait_for 60 "a datagram to and from an open pod on each port" all_of

if [[ $how == kill ]]; then
  # A kubelet waits up to five minutes before it starts again what ends again and again, and pods of a
  # namespace with policies wait as long. Here it waits a second.
  docker exec "$node" bash -c 'set -e
    config=/var/lib/kubelet/config.yaml
    ! grep -q KubeletCrashLoopBackOffMax $config || exit 0
    grep -q ^featureGates: $config || echo featureGates: >>$config
    sed -i "s/^featureGates:.*/&\n  KubeletCrashLoopBackOffMax: true/" $config
    printf "crashLoopBackOff:\n  maxContainerRestartPeriod: 1s\n" >>$config
    systemctl restart kubelet'
  kubectl wait --for=condition=Ready "node/$node" --timeout=60s >/dev/null
  # Now and then it gets as far as to answer.
  while sleep "0.$((RANDOM % 9))"; do
    ((RANDOM % 3)) || sleep 3
    docker exec "$node" pkill -9 -x podwire-agent && echo killed >>"$work/kills"
  done >/dev/null 2>&1 &
  killer=$!
fi

# logs NAMESPACE: each line of the pods of a namespace that tells of a datagram, behind the pod's name.
logs() {
  local name
  for name in $(kubectl -n "$1" get pods -o name); do
    kubectl -n "$1" logs "$name" | sed -n "s#^.*Echoing \(.*\) to UDP client.*#${name#pod/} \1#p"
  done | sort -u
}

# counted POD: how many datagrams came to a pod of podwire-closed, whether anything listened or not.
counted() {
  kubectl -n podwire-closed exec "$1" -- cat /proc/net/snmp |
    awk '$1 == "Udp:" && $2 ~ /^[0-9]/ { print $2 + $3; found = 1 } END { exit !found }'
}
# Not grep -q: with pipefail a kubectl that it stops would count as a failure.
near_came() {
  local name
  for name in $(sed -n 's/^podwire-allowed //p' <<<"$names"); do
    kubectl -n podwire-allowed logs "$name" | grep 'Echoing near to UDP client' >/dev/null || { echo "$name got nothing"; return 1; }
  done
}

started=0 bad=0 round=0
while ((started < starts)); do
  number=$((starts - started < at_once ? starts - started : at_once))
  for ((i = 0; i < number; i++)); do
    namespace=podwire-closed
    (((i + round) % 2)) || namespace=podwire-allowed
    pod $namespace "${namespace#podwire-}-$round-$i" "$node" "$(send "$sink")"
  done >"$work/pods.yaml"
  kubectl apply -f "$work/pods.yaml" >/dev/null
  names=$(sed -n 's/.*namespace: \(podwire-[a-z]*\), name: \([^,]*\),.*/\1 \2/p' "$work/pods.yaml")
  for namespace in podwire-closed podwire-allowed; do
    grep -q "^$namespace " <<<"$names" || continue
    kubectl -n $namespace wait --for=condition=Ready pod --all --timeout=180s >/dev/null
  done
  missing=
  wait_for 60 "a datagram from near at each pod that may get it" near_came || missing="nothing came from near"
  for name in $(sed -n 's/^podwire-closed //p' <<<"$names"); do
    [[ $(counted "$name") == 0 ]] || echo "$name got a datagram"
  done >"$work/closed"
  logs podwire-allowed >"$work/allowed"
  # What came to them: to the closed ones none, to the others only from near.
  wrong=$(cat "$work/closed"; echo "$missing"; grep -v ' near$' "$work/allowed" || true)
  [[ -z ${wrong//[$'\n']/} ]] || { bad=$((bad + 1)); printf 'round %s:\n%s\n' "$round" "$wrong"; }
  kubectl -n podwire-closed delete pods --all --force >/dev/null 2>&1
  kubectl -n podwire-allowed delete pods --all --force >/dev/null 2>&1
  awk '{ print $2 }' <<<"$names" >>"$work/started"
  started=$((started + number)) round=$((round + 1))
  echo "$started of $starts pods started, $bad rounds with an unwanted or a missing packet"
done
# What they sent: of the closed ones nothing came, of each of the others something, and on 8081 alone.
received sink >"$work/sink"
escaped=$(grep -E '^closed|^allowed.*-8082$' "$work/sink" || true)
silent=$(grep '^allowed' "$work/started" | grep -vxFf "$work/sink" || true)
[[ -z $escaped ]] || { bad=$((bad + 1)); printf 'came although it was denied:\n%s\n' "$escaped"; }
[[ -z $silent ]] || { bad=$((bad + 1)); printf 'nothing came of:\n%s\n' "$silent"; }
allowed=$(grep -c '^allowed' "$work/started" || true)
if [[ $how == kill ]]; then
  echo "the agent was killed $(wc -l <"$work/kills") times"
fi
echo "$started pods: $((started - allowed)) closed, $allowed with allow rules; $bad faults"
[[ $how != kill || -s $work/kills ]] || { echo "no agent was killed" >&2; exit 1; }
((bad == 0))
