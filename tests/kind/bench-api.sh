#!/bin/bash
# From the API server to the kernel, beside kube-proxy: a kind cluster of one node with a real
# kube-apiserver and etcd, filled with Services, and each program started in that node in turn.
# Arguments are passed on: --services, --endpoints, --changes, --proxy-changes, --runs.
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
cargo build --quiet --release --locked --target "$target" -p podwire-agent --bin podwire-agent
# The driver only waits: it need not be fast, and is built much faster so.
driver=$(cargo build --quiet --locked --target "$target" -p podwire-agent --bench api --message-format=json |
  sed -n 's/.*"name":"api".*"executable":"\([^"]*\)".*/\1/p')
mkdir -p "$(dirname "$KUBECONFIG")"

config=$(mktemp)
trap 'rm -f "$config"; kind delete cluster --name "$CLUSTER" >/dev/null 2>&1' EXIT
cat >"$config" <<'END'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking:
  disableDefaultCNI: true
  kubeProxyMode: none
  podSubnet: 10.10.0.0/16
  serviceSubnet: 10.200.0.0/16
END
if [[ $(docker info -f '{{.CgroupVersion}}') == 1 ]]; then
  printf 'kubeadmConfigPatches:\n  - |\n    kind: KubeletConfiguration\n    failCgroupV1: false\n' >>"$config"
fi
image=$(node_image)
cluster_exists || kind create cluster --quiet --name "$CLUSTER" --config "$config" ${image:+--image "$image"}

docker cp "$driver" "$node:/root/bench-api"
docker cp "$built/release/podwire-agent" "$node:/root/podwire-agent"
# kube-proxy as the cluster would run it: the program out of its image.
docker exec "$node" bash -c 'image=$(ctr -n k8s.io images ls -q | grep -m1 /kube-proxy:) &&
  mkdir -p /root/proxy && ctr -n k8s.io images mount "$image" /root/proxy' >/dev/null 2>&1 ||
  echo "the node has no image of kube-proxy: measuring the agent alone" >&2
proxy=()
if docker exec "$node" test -x /root/proxy/usr/local/bin/kube-proxy; then
  proxy=(--kube-proxy /root/proxy/usr/local/bin/kube-proxy)
fi
docker exec "$node" /root/bench-api --agent /root/podwire-agent "${proxy[@]}" "$@"
