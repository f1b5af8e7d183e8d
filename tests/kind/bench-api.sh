#!/bin/bash
# From the API server to the kernel, beside kube-proxy: a kind cluster of one node with a real
# kube-apiserver and etcd, filled with Services, and each program started in that node in turn.
# Arguments are passed on: --services, --endpoints, --changes, --proxy-changes, --runs.
# SKIP_BUILD=1 measures the agent that was built last; KEEP=1 leaves the cluster, and a run on a
# cluster that is there creates only what is missing.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
CLUSTER=${CLUSTER:-podwire-bench}
source "$here/lib.sh"
need cargo docker kind
node=$CLUSTER-control-plane
target=$(rustc -vV | sed -n 's/^host: //p')
built=${CARGO_TARGET_DIR:-$root/target}/$target
export RUSTFLAGS="-C target-feature=+crt-static"
cd "$root"
[[ ${SKIP_BUILD:-} ]] ||
  cargo build --release --locked --target "$target" -p podwire-agent --bin podwire-agent
driver=$(bench_driver)
mkdir -p "$(dirname "$KUBECONFIG")"

config=$(mktemp)
finish() {
  rm -f "$config"
  [[ ${KEEP:-} ]] || kind delete cluster --name "$CLUSTER" >/dev/null 2>&1
}
trap finish EXIT
# etcd's files are in memory (/tmp of a node is): nothing of this cluster is to outlive it, and
# waiting for a disk at each of 30,000 writes says nothing about the programs that are measured.
cat >"$config" <<END
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
  kubeProxyMode: none
  podSubnet: 10.10.0.0/16
  serviceSubnet: 10.200.0.0/16
kubeadmConfigPatches:
$(etcd_patch)
$(kubelet_patch)
END
if ! cluster_exists; then
  image=$(node_image)
  kind create cluster --name "$CLUSTER" --config "$config" ${image:+--image "$image"}
fi
# What would look at every object and has nothing to do with the way to the kernel: no pod is
# scheduled here, and Services without a selector have no controller.
docker exec "$node" bash -c 'mkdir -p /root/off; cd /etc/kubernetes/manifests
  for name in kube-scheduler kube-controller-manager; do [ ! -e $name.yaml ] || mv $name.yaml /root/off/; done'

docker cp --quiet "$driver" "$node:/root/bench-api"
docker cp --quiet "$built/release/podwire-agent" "$node:/root/podwire-agent"
proxy=()
if kube_proxy_in "$node"; then
  proxy=(--kube-proxy /root/proxy/usr/local/bin/kube-proxy)
else
  echo "the node has no image of kube-proxy: measuring the agent alone" >&2
fi
docker exec "$node" /root/bench-api --agent /root/podwire-agent "${proxy[@]}" "$@"
