# shellcheck shell=bash
# What the scripts beside this file share. Settings come from the environment:
#
#   CLUSTER      name of the cluster (podwire)
#   KIND_CONFIG  kind's configuration file (conf/kind.yaml)
#   NODE_IMAGE   node image; else a kindest/node that the engine holds, else kind's default
#   IMAGE        the image to build and load (podwire:VERSION)
#   ETCD_IN_MEMORY  1: where the disk is slow or shared, so that the API server never waits for it

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
CLUSTER=${CLUSTER:-podwire}
KIND_CONFIG=${KIND_CONFIG:-$root/conf/kind.yaml}
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
IMAGE=${IMAGE:-podwire:$version}
context=kind-$CLUSTER
export KUBECONFIG=${KUBECONFIG:-$root/target/kind/$CLUSTER.kubeconfig}

# need PROGRAM...: stops with one sentence if one of them is missing.
need() {
  local program
  for program; do
    command -v "$program" >/dev/null || { echo "$program is needed: install it and try again" >&2; exit 1; }
  done
  [[ " $* " != *" docker "* ]] || docker info >/dev/null 2>&1 ||
    { echo "no Docker engine answers: start one and try again" >&2; exit 1; }
}

kubectl() { command kubectl --context "$context" "$@"; }

# Not through a pipe: grep that has found it would end kind with an error.
cluster_exists() { grep -qx "$CLUSTER" <<<"$(kind get clusters 2>/dev/null)"; }

nodes() { kind get nodes --name "$CLUSTER" | sort; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds; its last output if it never does.
wait_for() {
  local limit=$1 what=$2 start=$SECONDS output
  shift 2
  until output=$("$@" 2>&1); do
    if ((SECONDS - start >= limit)); then
      printf '%s: not within %s s. The last answer:\n%s\n' "$what" "$limit" "$output" >&2
      return 1
    fi
    sleep 0.2
  done
}

# node_image: the name of the node image to use, or nothing for kind's default.
node_image() {
  if [[ ${NODE_IMAGE:-} ]]; then echo "$NODE_IMAGE"; return; fi
  docker image ls --format '{{.Repository}}:{{.Tag}}' kindest/node | grep -v '<none>' | sort -Vr | head -n1
}

# kubelet_patch: an item of kubeadmConfigPatches for engines with cgroup v1, which kubelets from
# 1.35 on refuse unless they are told.
kubelet_patch() {
  [[ $(docker info -f '{{.CgroupVersion}}') != 1 ]] ||
    printf '  - |\n    kind: KubeletConfiguration\n    failCgroupV1: false\n'
}

# etcd_patch: another item, for etcd's files in the node's memory. Then nothing waits for a disk, and
# the cluster does not outlive a stop of its control plane.
etcd_patch() {
  printf '  - |\n    kind: ClusterConfiguration\n    etcd: {local: {dataDir: /tmp/etcd}}\n'
}

# kube_proxy_in NODE: kube-proxy as a cluster would run it, the program out of its image, at
# /root/proxy in the node. Fails if the node has no such image.
kube_proxy_in() {
  docker exec "$1" bash -c 'program=/root/proxy/usr/local/bin/kube-proxy; [ ! -x $program ] || exit 0
    image=$(ctr -n k8s.io images ls -q | grep -m1 /kube-proxy:) && mkdir -p /root/proxy &&
      ctr -n k8s.io images mount "$image" /root/proxy && [ -x $program ]' >/dev/null 2>&1
}

# bench_driver: builds route-agent/benches/api, which fills clusters and measures in a node; its
# path. It only waits: it need not be fast, and is built much faster so.
bench_driver() {
  local target
  target=$(rustc -vV | sed -n 's/^host: //p')
  cd "$root"
  RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --target "$target" \
    -p podwire-agent --bench api --message-format=json |
    sed -n 's/.*"name":"api".*"executable":"\([^"]*\)".*/\1/p'
}

# answers_dns ADDRESS: asks this server over TCP, from the control plane, for the address of the
# kubernetes Service. Needs nothing in the node but bash.
answers_dns() {
  docker exec "$CLUSTER-control-plane" timeout 5 bash -c '
    kind=1
    [[ $1 != *:* ]] || kind=34 # AAAA, in octal
    query="\0\1\1\0\0\1\0\0\0\0\0\0\12kubernetes\7default\3svc\7cluster\5local\0\0\\$kind\0\1"
    exec 3<>"/dev/tcp/$1/53"
    printf "\0\66$query" >&3
    head -c 14 <&3 | od -An -tu1 | {
      read -r _ _ _ _ _ flags _ _ _ answers _
      [ $((flags % 16)) -eq 0 ] && [ "$answers" -gt 0 ]
    }' bash "$1"
}
