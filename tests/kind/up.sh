#!/bin/bash
# From nothing to a kind cluster on Podwire alone: image, cluster, agent, and then waits until the
# nodes are Ready and DNS answers. Run again, it brings the cluster to the image built last.
set -euo pipefail
here=$(dirname "$0")
source "$here/lib.sh"
need docker kind kubectl
mkdir -p "$(dirname "$KUBECONFIG")"

# SKIP_IMAGE=1 takes the image that is there.
[[ ${SKIP_IMAGE:-} ]] || "$here/image.sh"
start=$SECONDS

if cluster_exists; then
  kind export kubeconfig --name "$CLUSTER" >/dev/null 2>&1
else
  config=$(mktemp)
  trap 'rm -f "$config"' EXIT
  cat "$KIND_CONFIG" >"$config"
  patches=$(kubelet_patch; [[ -z ${ETCD_IN_MEMORY:-} ]] || etcd_patch)
  [[ -z $patches ]] || printf 'kubeadmConfigPatches:\n%s\n' "$patches" >>"$config"
  image=$(node_image)
  kind create cluster --name "$CLUSTER" --config "$config" ${image:+--image "$image"}
fi
kind load docker-image --name "$CLUSTER" "$IMAGE"

# The image's own identity makes the pods new whenever it is, and only then.
id=$(docker image inspect -f '{{.Id}}' "$IMAGE")
sed -e "s#image: podwire:.*#image: $IMAGE#" \
  -e "s#^      labels: {app.kubernetes.io/name: podwire}#&\n      annotations: {podwire/image: '$id'}#" \
  "$root/conf/install.yaml" | kubectl apply -f - >/dev/null
kubectl -n kube-system rollout status daemonset/podwire --timeout=120s
kubectl wait --for=condition=Ready nodes --all --timeout=60s >/dev/null
kubectl -n kube-system rollout status deployment/coredns --timeout=120s
dns=$(kubectl -n kube-system get service kube-dns -o 'jsonpath={.spec.clusterIP}')
wait_for 60 "DNS at $dns" answers_dns "$dns"

cat <<END

The cluster $CLUSTER is up: $((SECONDS - start)) s. Nodes are Ready and DNS answers. Try:

  export KUBECONFIG=$KUBECONFIG
  kubectl get nodes -o wide
  kubectl -n kube-system exec ds/podwire -- podwire-agent status
  docker exec $CLUSTER-worker ip -br -4 addr          # one veth per pod, one address on all
  docker exec $CLUSTER-worker nft list ruleset        # the Services, as the kernel has them
  make kind-demo                                      # fifteen observations, explained
  make kind-down
END
