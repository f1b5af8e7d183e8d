#!/bin/bash
# Shows that uninstall leaves nothing: a cluster of its own with two nodes, the full network state
# of each before Podwire was there and after it was taken off, compared line by line. In between pods
# with host ports and Services come and go. Exit status 0 only if nothing differs.
#
# WAY=kubectl (the default) goes by conf/install.yaml and conf/uninstall.yaml, WAY=helm by the chart.
set -euo pipefail
CLUSTER=${CLUSTER:-podwire-leave}
WAY=${WAY:-kubectl}
here=$(dirname "$0")
source "$here/lib.sh"
case $WAY in
  kubectl) need docker kind kubectl ;;
  helm) need docker kind kubectl helm ;;
  *) echo "WAY=$WAY is not known: use kubectl or helm" >&2; exit 1 ;;
esac
image=${TEST_IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.55}
mkdir -p "$(dirname "$KUBECONFIG")"
work=$(mktemp -d)
trap 'rm -rf "$work"; kind delete cluster --name "$CLUSTER" >/dev/null 2>&1' EXIT
[[ ${SKIP_IMAGE:-} ]] || "$here/image.sh"

cat >"$work/config" <<'END'
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {ipFamily: dual, disableDefaultCNI: true, kubeProxyMode: none}
nodes: [{role: control-plane}, {role: worker}]
END
patch=$(kubelet_patch)
[[ -z $patch ]] || printf 'kubeadmConfigPatches:\n%s\n' "$patch" >>"$work/config"
base=$(node_image)
kind create cluster --name "$CLUSTER" --config "$work/config" ${base:+--image "$base"}
kind load docker-image --quiet --name "$CLUSTER" "$IMAGE"

chart=$root/conf/helm/podwire
chart_image=(--set "image.repository=${IMAGE%:*}" --set "image.tag=${IMAGE##*:}")
install_by_kubectl() {
  sed -e "s#image: podwire:.*#image: $IMAGE#" "$root/conf/install.yaml" | kubectl apply -f - >/dev/null
}
install_by_helm() {
  helm -n kube-system install podwire "$chart" "${chart_image[@]}"
}
remove_by_kubectl() {
  kubectl -n kube-system delete daemonset podwire --wait >/dev/null
  wait_for 60 "the end of the agents" no_agents
  sed -e "s#image: podwire:.*#image: $IMAGE#" "$root/conf/uninstall.yaml" | kubectl apply -f - >/dev/null
  kubectl -n kube-system rollout status daemonset/podwire-uninstall --timeout=120s
  kubectl -n kube-system logs -l app.kubernetes.io/name=podwire-uninstall -c uninstall --prefix --tail=-1
  kubectl delete -f "$root/conf/uninstall.yaml" -f "$root/conf/install.yaml" --ignore-not-found >/dev/null
}
remove_by_helm() {
  helm -n kube-system upgrade podwire "$chart" --reuse-values --set uninstall.enabled=true --wait --timeout 120s
  kubectl -n kube-system logs -l app.kubernetes.io/name=podwire -c uninstall --prefix --tail=-1
  helm -n kube-system uninstall podwire --wait
  wait_for 60 "the end of the agents" no_agents
  left=$(kubectl get all,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,secrets \
    --all-namespaces -o name | grep -E '/(podwire|sh\.helm\.)') && { echo "helm left: $left" >&2; exit 1; }
  return 0
}
no_agents() { [[ -z $(kubectl -n kube-system get pods -l app.kubernetes.io/name=podwire -o name) ]]; }

# state NODE: links, addresses, routes and rules of all tables, nftables, settings, files. Left out
# is what changes by itself: lifetimes, counters, what a kernel module brings when first used.
state() {
  docker exec "$1" bash -c '
    echo "# links"; ip -d -o link | sed "s/ qlen .*//"
    echo "# addresses"; ip -o addr | sed "s/valid_lft.*//"
    for family in -4 -6; do
      echo "# routes $family"; ip $family route show table all | sed "s/ expires [0-9]*sec//" | sort
      echo "# rules $family"; ip $family rule
    done
    echo "# nftables"; nft -s list ruleset 2>/dev/null
    echo "# settings"; sysctl -a 2>/dev/null | grep "^net\." | grep -vE "nf_conntrack_(count|events)|\.stable_secret|netfilter\.nf_log|tcp_fastopen_key|nf_flowtable" | sort
    # The empty directory /run/podwire stays until the node boots: it was mounted.
    echo "# files"; find /etc/cni /opt/cni /run/podwire /var/lib/cni/networks ! -path /run/podwire -printf "%p %l\n" 2>/dev/null | sort'
}
for node in $(nodes); do
  # Modules bring settings of their own when they are first used.
  docker exec "$node" bash -c 'nft add table inet probe; nft add chain inet probe c "{ type nat hook postrouting priority 0; }"
    nft add rule inet probe c ct state new masquerade; nft delete table inet probe'
  state "$node" >"$work/before.$node"
done

"install_by_$WAY"
kubectl -n kube-system rollout status daemonset/podwire --timeout=120s
kubectl -n kube-system rollout status deployment/coredns --timeout=120s
kubectl apply -f - >/dev/null <<END
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      tolerations: [{operator: Exists}]
      terminationGracePeriodSeconds: 0
      containers:
        - {name: main, image: $image, args: [netexec, --http-port=80], ports: [{containerPort: 80, hostPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {app: web}, ports: [{port: 80}]}
END
kubectl rollout status daemonset/web --timeout=120s
for node in $(nodes); do
  docker exec "$node" bash -c 'nft list ruleset 2>/dev/null | grep -q default/web' || { echo "$node has no rules for the Service" >&2; exit 1; }
done
# No pod of the network is left: the plugin goes as well then.
kubectl delete daemonset web --wait >/dev/null
kubectl delete service web >/dev/null
kubectl -n kube-system scale deployment/coredns --replicas=0 >/dev/null
no_links() {
  local node
  for node in $(nodes); do
    [[ -z $(docker exec "$node" ip -br link show type veth | grep -v ^eth0) ]] || return 1
  done
}
wait_for 60 "the end of all pods" no_links

"remove_by_$WAY"

differs=0
for node in $(nodes); do
  state "$node" >"$work/after.$node"
  if diff -u0 "$work/before.$node" "$work/after.$node" >"$work/diff"; then
    echo "$node: $(wc -l <"$work/after.$node") lines of state, none differs"
  else
    echo "$node differs:"
    grep '^[-+][^-+]' "$work/diff"
    differs=1
  fi
done
exit $differs
