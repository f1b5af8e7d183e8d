#!/bin/bash
# The walkthrough on the real cluster: fifteen observations, each with the command a person would
# type, its output, and a check mark decided from that output. Exit status 0 only if all hold.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need docker kind kubectl
cluster_exists || { echo "there is no cluster $CLUSTER: run make kind first" >&2; exit 1; }
image=${DEMO_IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.55}
cp=$CLUSTER-control-plane w1=$CLUSTER-worker w2=$CLUSTER-worker2 w3=$CLUSTER-worker3
mypc=$CLUSTER-mypc
work=$(mktemp -d)
failed=0 passed=0 number=0
bold='' green='' red='' plain=''
if [[ -t 1 ]]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; fi

finish() {
  docker rm -f "$mypc" >/dev/null 2>&1 || true
  kubectl delete namespace podwire-demo --wait=false >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap finish EXIT

observe() {
  number=$((number + 1))
  printf '\n%s%2d. %s%s\n' "$bold" "$number" "$*" "$plain"
}

# show COMMAND...: prints a command and what it answers; $output holds the answer.
show() {
  local word words=''
  for word; do
    case $word in *[!A-Za-z0-9_./:=@,-]*) words+=" '$word'" ;; *) words+=" $word" ;; esac
  done
  printf '  $%s\n' "$words"
  output=$("$@" 2>&1) || true
  sed 's/^/    /' <<<"$output"
}

# check WHAT COMMAND...: a check mark if the command succeeds.
check() {
  local what=$1
  shift
  if "$@" >/dev/null 2>&1; then
    printf '  %s✓%s %s\n' "$green" "$plain" "$what"
    passed=$((passed + 1))
  else
    printf '  %s✗%s %s\n' "$red" "$plain" "$what"
    failed=$((failed + 1))
  fi
}

contains() { [[ $output == *"$1"* ]]; }
matches() { grep -Eq -- "$1" <<<"$output"; }
in_pod() { local pod=$1; shift; kubectl -n podwire-demo exec "$pod" -- "$@"; }
pod_ip() { kubectl -n podwire-demo get pod "$1" -o 'jsonpath={.status.podIP}'; }
node_ip() { docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' "$1"; }
gateway() { kubectl get node "$1" -o 'jsonpath={.spec.podCIDR}' | sed 's#\.0/.*#.1#'; }
# veth NODE ADDRESS: the node's end of the link to this pod.
veth() { docker exec "$1" ip -o route get "$2" | sed -n 's/.* dev \(veth[^ ]*\).*/\1/p'; }

# watch_wire NAME NODE FILTER... starts a tcpdump in the node and returns when it listens.
watch_wire() {
  local name=$1 node=$2
  shift 2
  docker exec "$node" timeout 60 tcpdump -nn -l "$@" >"$work/$name" 2>"$work/$name.err" &
  wait_for 10 "tcpdump in $node" grep -q 'listening on' "$work/$name.err"
}
# seen NAME PATTERN: waits until tcpdump has seen it; $output holds all it saw.
seen() {
  wait_for 10 "tcpdump" grep -Eq -- "$2" "$work/$1" || true
  output=$(<"$work/$1")
}

# --- The stage -----------------------------------------------------------------------------------
kubectl delete namespace podwire-demo --ignore-not-found --wait >/dev/null 2>&1
sed -e "s#CLUSTER#$CLUSTER#; s#IMAGE#$image#" "$root/tests/kind/demo-pods.yaml" | kubectl apply -f - >/dev/null
kubectl -n podwire-demo wait --for=condition=Ready pod --all --timeout=120s >/dev/null
docker rm -f "$mypc" >/dev/null 2>&1 || true
docker run -d --name "$mypc" --network kind --entrypoint sleep \
  "$(docker inspect -f '{{.Config.Image}}' "$cp")" infinity >/dev/null
pod1=$(pod_ip pod1) pod2=$(pod_ip pod2) client=$(pod_ip client) web1=$(pod_ip web1) echo1=$(pod_ip echo1)
service=10.200.1.63 node_port=31662
pc=$(node_ip "$mypc")

cat <<END
Four nodes on one network, each with a podCIDR of its own:
$(for node in "$cp" "$w1" "$w2" "$w3"; do
    printf '  %-24s %-12s %s\n' "$node" "$(node_ip "$node")" "$(kubectl get node "$node" -o 'jsonpath={.spec.podCIDR}')"
  done)
  $(printf '%-24s %s' "$mypc" "$pc")  a machine outside of the cluster

pod1 $pod1 on $w2, pod2 $pod2 on $w1. The way from one to the other:
  pod1 eth0 -> veth on $w2 -> eth0 -> eth0 on $w1 -> veth -> eth0 pod2
END

# --- Links and routes ----------------------------------------------------------------------------
observe "Every pod has a link of its own; the node's ends all carry one address, and no bridge joins them."
show docker exec "$w1" ip -br -4 addr
one_address() {
  local links pods
  links=$(grep -c '^veth' <<<"$output")
  pods=$(kubectl get pods -A --field-selector "spec.nodeName=$w1,status.phase=Running" \
    --no-headers -o custom-columns=HOST:.spec.hostNetwork | grep -c none)
  [[ $links == "$pods" ]] && ! grep '^veth' <<<"$output" | grep -qv " $(gateway "$w1")/32 " &&
    [[ -z $(docker exec "$w1" ip -br link show type bridge) ]]
}
check "one veth per pod, every one with $(gateway "$w1")/32, and no bridge" one_address

observe "The agent wrote the CNI configuration from the node's podCIDR, and it sorts first."
show docker exec "$w1" sh -c 'cd /etc/cni/net.d && ls && cat "$(ls | head -n1)"'
ours() { contains "$(kubectl get node "$w1" -o 'jsonpath={.spec.podCIDR}')" && contains host-local && matches '"ipMasq": ?false'; }
check "host-local addresses from the podCIDR, no masquerade by the plugin" ours

observe "In pod1 the way to pod2 leads to the first address of the podCIDR: the node's end of the link."
show kubectl -n podwire-demo exec pod1 -- ip route get "$pod2"
check "via $(gateway "$w2") dev eth0 src $pod1" contains "via $(gateway "$w2") dev eth0 src $pod1"

observe "On pod1's node the next hop is the other node itself."
show docker exec "$w2" ip route get "$pod2"
check "via $(node_ip "$w1") dev eth0 src $(node_ip "$w2")" contains "via $(node_ip "$w1") dev eth0 src $(node_ip "$w2")"

observe "On pod2's node the route ends at pod2's link."
show docker exec "$w1" ip route get "$pod2"
check "dev veth... src $(gateway "$w1")" matches "dev veth[0-9a-f]+ src $(gateway "$w1")"

observe "A ping arrives with pod1's own address: nothing on the way rewrites it."
link=$(veth "$w1" "$pod2")
docker exec "$w1" ip neigh flush to "$pod2" dev "$link"
watch_wire ping "$w1" -i "$link" "arp or icmp"
show kubectl -n podwire-demo exec pod1 -- ping -c 2 -W 2 "$pod2"
check "two answers" contains " 0% packet loss"
seen ping "$pod1 > $pod2: ICMP echo request"
printf '  on %s: tcpdump -nn -i %s "arp or icmp"\n' "$w1" "$link"
sed 's/^/    /' <<<"$output"
arp_and_source() { contains "who-has $pod2 tell $(gateway "$w1")" && contains "$pod1 > $pod2: ICMP echo request"; }
check "who-has pod2 tell the node's end; the source is $pod1" arp_and_source

# --- ClusterIP -----------------------------------------------------------------------------------
from_client() { in_pod client curl -s --max-time 3 "$@"; }
# requests COUNT URL: who answered how often, from one shell in the client pod.
requests() {
  in_pod client sh -c "i=0; while [ \$i -lt $1 ]; do curl -s --max-time 3 $2; echo; i=\$((i+1)); done" |
    sort | uniq -c
}
wait_for 10 "the Service" from_client "$service:9000/hostname"

observe "A Service has one address for three pods."
show kubectl -n podwire-demo exec client -- curl -s "$service:9000/hostname"
check "one of web1, web2, web3 answers" matches '^web[123]$'
show kubectl -n podwire-demo exec client -- curl -s "$web1/hostname"
check "and a pod answers by its own address as well" matches '^web1$'

observe "At the pod the destination is the pod and the source is the client: translated once, where the client is."
link=$(veth "$w1" "$web1")
watch_wire dnat "$w1" -i "$link" "tcp dst port 80"
until_answered() { # POD COMMAND...: until this pod is the one that answers
  local wanted=$1 tries=0
  shift
  until [[ $("$@") == "$wanted" ]]; do tries=$((tries + 1)); ((tries < 60)) || return 1; done
}
check "web1 has answered a request to $service:9000" until_answered web1 from_client "$service:9000/hostname"
seen dnat "IP $client\.[0-9]+ > $web1\.80: "
printf '  on %s: tcpdump -nn -i %s "tcp dst port 80"\n' "$w1" "$link"
sed -n '1,3s/^/    /p' <<<"$output"
check "$client > $web1.80" matches "IP $client\.[0-9]+ > $web1\.80: "

observe "The connection table on the client's node knows both ends."
show docker exec "$cp" conntrack -L -s "$client" -d "$service"
check "dst=$service dport=9000, and the reply comes from a pod's port 80" \
  matches "dst=$service .*dport=9000 .*src=10\.10\.[0-9.]+ dst=$client sport=80"

observe "The rules can be followed by eye, with counters that move."
rules() { docker exec "$cp" nft list table ip podwire-services; }
counted() { # PATTERN: packets in the first matching line
  sed -n "/$1/{s/.*counter packets \([0-9]*\).*/\1/p;q}"
}
before=$(rules)
requests 10 "$service:9000/hostname" >/dev/null
after=$(rules)
output=$(grep -E "svc-clusterip|masquerade" <<<"$after" || true)
printf '  $ docker exec %s nft list table ip podwire-services | grep -E "svc-clusterip|masquerade"\n' "$cp"
sed 's/^/    /' <<<"$output"
moved() {
  local new old
  old=$(counted 'podwire-demo\/svc-clusterip' <<<"$before") new=$(counted 'podwire-demo\/svc-clusterip' <<<"$after")
  [[ $((new - old)) == 10 ]]
}
check "ten requests: the Service's counter moved by ten" moved
unmasqueraded() {
  local new old
  old=$(counted 'pod to ClusterIP: not masqueraded' <<<"$before") new=$(counted 'pod to ClusterIP: not masqueraded' <<<"$after")
  ((new - old >= 10))
}
check "and they passed the rule that keeps the pod's address" unmasqueraded

observe "A hundred requests spread over the three pods."
printf '  $ for i in $(seq 100); do curl -s %s:9000/hostname; done | sort | uniq -c\n' "$service"
output=$(requests 100 "$service:9000/hostname")
sed 's/^/    /' <<<"$output"
spread() { # chi-square with two degrees of freedom; by chance above 13.8 once in a thousand
  awk '{ n++; s += $1; q += ($1 - 100/3)^2 / (100/3) } END { exit !(n == 3 && s == 100 && q < 13.8) }' <<<"$output"
}
check "all three, as even as chance allows (chi-square below 13.8)" spread

observe "With sessionAffinity ClientIP one client stays with one pod."
show kubectl -n podwire-demo patch service svc-clusterip -p '{"spec":{"sessionAffinity":"ClientIP"}}'
sticky() { [[ $(requests 12 "$service:9000/hostname" | wc -l) == 1 ]]; }
wait_for 10 "affinity" sticky || true
output=$(requests 100 "$service:9000/hostname")
sed 's/^/    /' <<<"$output"
check "all hundred reached the same pod" matches '^ *100 web[123]$'

# --- NodePort ------------------------------------------------------------------------------------
from_mypc() { docker exec "$mypc" curl -s --max-time 3 "$@"; }
observe "From outside, the ClusterIP is not there."
show docker exec "$mypc" curl -sS --max-time 2 "$service:9000/hostname"
unanswered() { ! matches 'web[123]'; }
check "none of the three pods answers" unanswered

observe "From outside, the node port answers on all four nodes, also on those without an endpoint."
for node in "$cp" "$w1" "$w2" "$w3"; do
  show docker exec "$mypc" curl -s --max-time 3 "$(node_ip "$node"):$node_port/hostname"
  check "$node answers" matches '^echo[12]$'
done

observe "What comes from outside is masqueraded to the node it entered, so that the answer comes back through it."
link=$(veth "$w2" "$echo1")
watch_wire entry "$w1" -i eth0 "tcp dst port $node_port"
watch_wire endpoint "$w2" -i "$link" "tcp dst port 8080"
check "echo1 on $w2 has answered a request to $w1" until_answered echo1 from_mypc "$(node_ip "$w1"):$node_port/hostname"
seen entry "IP $pc\.[0-9]+ > $(node_ip "$w1")\.$node_port: "
printf '  on %s: tcpdump -nn -i eth0 "tcp dst port %s"\n' "$w1" "$node_port"
sed -n '1,2s/^/    /p' <<<"$output"
check "mypc $pc to $w1" matches "IP $pc\.[0-9]+ > $(node_ip "$w1")\.$node_port: "
seen endpoint "IP $(node_ip "$w1")\.[0-9]+ > $echo1\.8080: "
printf '  on %s: tcpdump -nn -i %s "tcp dst port 8080"\n' "$w2" "$link"
sed -n '1,2s/^/    /p' <<<"$output"
check "$w1's address $(node_ip "$w1") to $echo1.8080" matches "IP $(node_ip "$w1")\.[0-9]+ > $echo1\.8080: "

printf '\n%s observations: %s checks hold, %s do not.\n' "$number" "$passed" "$failed"
((failed == 0))
