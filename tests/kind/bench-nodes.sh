#!/bin/bash
# Memory and processor time of the agent on each node of a kind cluster, and of kube-proxy in
# nftables mode on the same nodes: without Services of note, while 1,000 Services with 50
# endpoints each are created, and with them. Both run as a cluster runs them, one after the other.
# Prints a table in Markdown. The cluster is its own and goes at the end.
#
#   WINDOW      seconds over which processor time is taken (60)
#   SERVICES    1000
#   ENDPOINTS   50
#   SKIP_IMAGE  1: the image that was built last
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
CLUSTER=${CLUSTER:-podwire-nodes}
source "$here/lib.sh"
need cargo docker kind kubectl
window=${WINDOW:-60} services=${SERVICES:-1000} endpoints=${ENDPOINTS:-50}
mkdir -p "$(dirname "$KUBECONFIG")"
[[ ${SKIP_IMAGE:-} ]] || "$here/image.sh"
driver=$(bench_driver)
work=$(mktemp -d)
finish() {
  rm -rf "$work"
  kind delete cluster --name "$CLUSTER" >/dev/null 2>&1
}
trap finish EXIT
# What is measured here is no disk's doing: etcd's files are in memory.
cat >"$work/config" <<END
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
  kubeProxyMode: nftables
  podSubnet: 10.10.0.0/16
  serviceSubnet: 10.200.0.0/16
nodes: [{role: control-plane}, {role: worker}, {role: worker}, {role: worker}]
kubeadmConfigPatches:
$(etcd_patch)
$(kubelet_patch)
END
base=$(node_image)
kind create cluster --name "$CLUSTER" --config "$work/config" ${base:+--image "$base"}
kind load docker-image --quiet --name "$CLUSTER" "$IMAGE"
docker cp --quiet "$driver" "$CLUSTER-control-plane:/root/bench-api"

# sample NODE PROGRAM: resident, proportional and peak memory in KiB, then processor time in
# milliseconds, that of programs which it ran included.
sample() {
  docker exec "$1" bash -c '
    pid=$(pgrep -xo "$1") && cd "/proc/$pid" || exit
    awk "/^Rss:/ { rss = \$2 } /^Pss:/ { pss = \$2 } END { printf \"%d %d \", rss, pss }" smaps_rollup
    awk "/^VmHWM:/ { printf \"%d \", \$2 }" status
    sed "s/.*) //" stat | awk -v hz="$(getconf CLK_TCK)" "{ print (\$12 + \$13 + \$14 + \$15) * 1000 / hz }"' bash "$2"
}
# samples FILE: a line per node.
samples() {
  local node values
  for node in $(nodes); do
    values=$(sample "$node" "$program") || return
    echo "$node $values"
  done >"$work/$1"
}

# What the last endpoint of the last Service has for an address, as the driver gives them.
number=$((services * endpoints - 1))
last=10.$((64 + number / 62500)).$((number / 250 % 250)).$((number % 250 + 1))
programmed() { docker exec "$1" bash -c 'nft -n list table ip "$1" | grep -qwF "$2"' bash "$table" "$last"; }
# quiet: nothing is being worked off any more, on no node.
quiet() {
  samples before && sleep 5 && samples after || return
  paste -d' ' "$work/before" "$work/after" | awk '$10 - $5 > 250 { busy = 1 } END { exit busy }'
}

# measure: of $program, which writes $table.
measure() {
  local node from=/api/v1/namespaces/bench-x$endpoints slices
  slices=/apis/discovery.k8s.io/v1/namespaces/bench-x$endpoints/endpointslices
  wait_for 120 "$program at rest" quiet
  samples idle-0
  sleep "$window"
  samples idle-1
  docker exec "$CLUSTER-control-plane" /root/bench-api --agent none --only-fill \
    --services "$services" --endpoints "$endpoints"
  for node in $(nodes); do wait_for 300 "the last endpoint on $node" programmed "$node"; done
  wait_for 300 "$program at rest" quiet
  samples full-0
  sleep "$window"
  samples full-1
  # Fields of each file: node, resident, proportional, peak, processor time.
  paste -d' ' "$work"/{idle-0,idle-1,full-0,full-1} | awk -v program="$program" -v window="$window" '
    function mib(kib) { return sprintf("%.1f MiB", kib / 1024) }
    function minute(ms) { return sprintf("%.2f s", ms / 1000 * 60 / window) }
    { printf "| %s | %s | %s | %s | %s | %.2f s | %s | %s | %s | %s |\n", $1, program, mib($7), mib($8),
        minute($10 - $5), ($15 - $10) / 1000, mib($17), mib($18), mib($19), minute($20 - $15) }' >>"$work/table"
  kubectl delete --raw "$slices" >/dev/null
  kubectl delete --raw "$from/services" >/dev/null
}

echo "load at the start: $(cut -d' ' -f1 /proc/loadavg)"
program=kube-proxy table=kube-proxy
kubectl -n kube-system rollout status daemonset/kube-proxy --timeout=180s >/dev/null
measure

kubectl -n kube-system delete daemonset kube-proxy --wait --cascade=foreground >/dev/null
for node in $(nodes); do
  wait_for 60 "the end of kube-proxy on $node" docker exec "$node" bash -c '! pgrep -x kube-proxy'
  # What it leaves behind.
  docker exec "$node" bash -c 'for family in ip ip6; do
    ! nft list tables $family | grep -q " kube-proxy$" || nft delete table $family kube-proxy; done'
done
program=podwire-agent table=podwire-services
sed -e "s#image: podwire:.*#image: $IMAGE#" "$root/conf/install.yaml" | kubectl apply -f - >/dev/null
kubectl -n kube-system rollout status daemonset/podwire --timeout=180s >/dev/null
kubectl -n kube-system rollout status deployment/coredns --timeout=180s >/dev/null
measure

cat <<END

$services Services x $endpoints endpoints; processor time per minute, over $window s; load at the end: $(cut -d' ' -f1 /proc/loadavg)

| node | program | idle: resident | proportional | processor | processor for taking them in | with them: resident | proportional | peak | processor |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
END
sort "$work/table"
