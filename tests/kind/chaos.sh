#!/bin/bash
# What clients notice while something breaks. Each scenario runs two clients in pods on different
# nodes: one opens a new connection to a Service for every request, the other sends request after
# request over one connection. Prints one line of a Markdown table per scenario: requests, failed
# ones, the longest time without an answer, and how often the one connection had to be made anew.
#
#   chaos.sh [agent-kill|upgrade|upgrade-pods|flush|api-stop|pods-deleted|node-restart|node-rejoin]...
#   chaos.sh move-in        # a cluster with another network and kube-proxy, to Podwire (docs/migrate.md)
#
# AGENT names the DaemonSet under test (podwire); for kube-proxy say AGENT=kube-proxy. NETWORK is a
# command that sets up the routes between nodes, run after a node came back, for a network that has
# no agent of its own to do that.
set -euo pipefail
source "$(dirname "$0")/lib.sh"
need docker kind kubectl
cluster_exists || { echo "there is no cluster $CLUSTER: run make kind first" >&2; exit 1; }
image=${TEST_IMAGE:-registry.k8s.io/e2e-test-images/agnhost:2.55}
agent=${AGENT:-podwire}
program=${agent/#podwire/podwire-agent}
namespace=podwire-chaos
cp=$CLUSTER-control-plane w1=$CLUSTER-worker w2=$CLUSTER-worker2 w3=$CLUSTER-worker3
work=$(mktemp -d)
broken=0
finish() {
  rm -rf "$work"
  docker rm -f "$CLUSTER-squatter" >/dev/null 2>&1 || true
  kubectl delete namespace $namespace --wait=false >/dev/null 2>&1 || true
}
trap finish EXIT

kubectl delete namespace $namespace --ignore-not-found --wait >/dev/null 2>&1
# The servers are on worker2 and worker3, the clients on worker and the control plane, which no
# scenario restarts. Readiness is asked every second, so that a dead server leaves the Service soon.
kubectl apply -f - >/dev/null <<END
apiVersion: v1
kind: Namespace
metadata: {name: $namespace}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: $namespace}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
              - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [$w2, $w3]}]
      topologySpreadConstraints:
        - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {app: web}}}
      containers:
        - name: main
          image: $image
          args: [netexec, --http-port=80, --udp-port=-1, --delay-shutdown=4]
          readinessProbe: {httpGet: {path: /hostname, port: 80}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: $namespace}
spec:
  selector: {app: web}
  ports: [{port: 80}]
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: $namespace}
spec: {nodeName: $w1, terminationGracePeriodSeconds: 0, containers: [{name: main, image: $image, args: [pause]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper, namespace: $namespace}
spec:
  nodeName: $cp
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: $image, args: [pause]}]
END
kubectl -n $namespace rollout status deployment/web --timeout=120s >/dev/null
kubectl -n $namespace wait --for=condition=Ready pod/client pod/keeper --timeout=60s >/dev/null
service=$(kubectl -n $namespace get service web -o 'jsonpath={.spec.clusterIP}')

# The clients run by docker exec in their node, in the pod's network: no API server is between.
# netns NODE POD: the name of the pod's network namespace in its node.
netns() {
  local address
  address=$(kubectl -n $namespace get pod "$2" -o 'jsonpath={.status.podIP}')
  docker exec "$1" bash -c "for name in \$(ip netns list | cut -d' ' -f1); do
    ip -n \$name -o addr show eth0 | grep -q ' $address/' && echo \$name; done; true" 2>/dev/null
}

# start_clients: both append to files in their node.
start_clients() {
  local name
  name=$(netns "$w1" client)
  docker exec -d "$w1" ip netns exec "$name" bash -c "
    rm -f /tmp/chaos.stop /tmp/chaos.done; exec >/tmp/chaos.new
    while [ ! -e /tmp/chaos.stop ]; do
      curl -s -o /dev/null --max-time 2 -w '%{http_code}' http://$service/hostname || true
      echo \" \$EPOCHREALTIME\"
    done
    touch /tmp/chaos.done"
  name=$(netns "$cp" keeper)
  docker exec -d "$cp" ip netns exec "$name" bash -c "
    exec curl -s -o /dev/null --max-time 600 --rate 20/s --retry 1000 --retry-all-errors --retry-delay 1 \
      -w '%{stderr}%{num_connects}\n' 'http://$service/hostname?[1-1000000]' 2>/tmp/chaos.kept"
  wait_for 20 "the client that makes new connections" docker exec "$w1" bash -c '[ $(wc -l </tmp/chaos.new) -gt 20 ]'
}

stop_clients() {
  docker exec "$w1" touch /tmp/chaos.stop
  docker exec "$cp" pkill -x curl || true
  wait_for 20 "the client's end" docker exec "$w1" test -e /tmp/chaos.done
}

# result NAME: the line of the table.
result() {
  local new kept
  new=$(docker exec "$w1" awk '
    { n++; end = $2; if ($1 != 200) { failed++; next } if (last && $2 - last > gap) gap = $2 - last; last = $2 }
    END { if (end - last > gap) gap = end - last; printf "%d | %d | %.2f s", n, failed, gap }' /tmp/chaos.new)
  kept=$(docker exec "$cp" awk '{ n++; c += $1 } END { printf "%d | %d", n, (c > 1 ? c - 1 : 0) }' /tmp/chaos.kept)
  printf '| %s | %s | %s |\n' "$1" "$new" "$kept"
}

agents_ready() { kubectl -n kube-system rollout status "daemonset/$agent" --timeout=180s >/dev/null; }
web_ready() { kubectl -n $namespace rollout status deployment/web --timeout=180s >/dev/null; }
node_ready() { kubectl wait --for=condition=Ready "node/$1" --timeout=180s >/dev/null; }

scenario_agent_kill() {
  local node
  for node in $(nodes); do docker exec "$node" pkill -9 -x "$program"; done
  sleep 3
  agents_ready
}
scenario_upgrade() {
  kubectl -n kube-system rollout restart "daemonset/$agent" >/dev/null
  agents_ready
}
# On every node a pod is made, awaited and deleted, and the next one, while all agents are replaced
# twice: each pod must become Ready, and no sandbox may fail.
scenario_upgrade_pods() {
  local node churns=() pods failed errors
  rm -f "$work"/*
  for node in $(nodes); do
    churn "$node" &
    churns+=($!)
  done
  scenario_upgrade
  scenario_upgrade
  touch "$work/stop"
  wait "${churns[@]}"
  touch "$work/failed"
  pods=$(wc -l <"$work/ready") failed=$(wc -l <"$work/failed")
  errors=$(kubectl -n $namespace get events -o 'jsonpath={range .items[*]}{.reason} {.message}{"\n"}{end}' |
    grep -E '^(FailedCreatePodSandBox|FailedKillPod) ' || true)
  printf '%s pods made meanwhile were Ready after %s s at most (median %s s), %s never\n' "$pods" \
    "$(sort -n "$work/ready" | tail -n1)" "$(sort -n "$work/ready" | sed -n "$((pods / 2 + 1))p")" "$failed" >&2
  [[ $failed == 0 && -z $errors ]] || { cat "$work/failed" <(echo "$errors") >&2; broken=1; }
}
# churn NODE: pod after pod until told to stop; how long each took to become Ready.
churn() {
  local number=0 name began
  while [[ ! -e $work/stop ]]; do
    number=$((number + 1)) name=churn-$1-$number began=${EPOCHREALTIME/./}
    if kubectl create -f - >/dev/null 2>"$work/$1" <<END && kubectl -n $namespace wait --for=condition=Ready "pod/$name" --timeout=60s >/dev/null 2>"$work/$1"; then
apiVersion: v1
kind: Pod
metadata: {name: $name, namespace: $namespace}
spec:
  nodeName: $1
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers:
    - name: main
      image: $image
      args: [netexec, --http-port=80, --udp-port=-1]
      readinessProbe: {httpGet: {path: /hostname, port: 80}, periodSeconds: 1}
END
      awk -v from="$began" -v to="${EPOCHREALTIME/./}" 'BEGIN { printf "%.1f\n", (to - from) / 1e6 }' >>"$work/ready"
    else
      echo "$name: $(cat "$work/$1")" >>"$work/failed"
    fi
    kubectl -n $namespace delete pod "$name" --wait=false >/dev/null || true
  done
}
scenario_flush() {
  local node
  # The engine's own rules for the nodes' name server are put back: they are not the subject.
  for node in $(nodes); do docker exec "$node" bash -c 'iptables-save -t nat | grep -E "DOCKER|^\*|^COMMIT" >/tmp/engine.rules'; done
  for node in $(nodes); do docker exec "$node" bash -c 'nft flush ruleset; iptables-restore --noflush </tmp/engine.rules'; done
  sleep 40
}
scenario_api_stop() {
  docker exec "$cp" mv /etc/kubernetes/manifests/kube-apiserver.yaml /root/
  sleep "${API_DOWN:-180}"
  docker exec "$cp" mv /root/kube-apiserver.yaml /etc/kubernetes/manifests/
  wait_for 120 "the API server" kubectl get --raw /readyz
  # Endpoints change as soon as it is back.
  kubectl -n $namespace rollout restart deployment/web >/dev/null
  web_ready
}
scenario_pods_deleted() {
  kubectl -n $namespace delete pod -l app=web --field-selector "spec.nodeName=$w3" --wait=false >/dev/null
  web_ready
  sleep 5
}
answers() { docker exec "$cp" curl -s -o /dev/null --max-time 2 "http://$service/hostname"; }
network() { [[ -z ${NETWORK:-} ]] || bash -c "$NETWORK" >/dev/null; }
scenario_node_restart() {
  docker stop -t 5 "$w3" >/dev/null
  sleep 10
  docker start "$w3" >/dev/null
  came_back "$w3"
}
# came_back NODE: the kubelet has spoken since the start, all pods are there, and a while has passed.
came_back() {
  local started
  started=$(docker inspect -f '{{.State.StartedAt}}' "$1")
  wait_for 120 "the kubelet of $1" heard_since "$1" "$started"
  network
  node_ready "$1"
  web_ready
  sleep 10
}
heard_since() { # NODE TIME
  local heard
  heard=$(kubectl get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}')
  [[ $heard && $(date -d "$heard" +%s) -ge $(date -d "$2" +%s) ]]
}
# Another machine takes the place of a node that is gone: the same name and podCIDR, another address.
scenario_node_rejoin() {
  local before after object
  before=$(node_address "$w3")
  object=$(kubectl get node "$w3" -o 'jsonpath={"{"}"apiVersion":"v1","kind":"Node","metadata":{"{"}"name":"{.metadata.name}","labels":{.metadata.labels}{"}"},"spec":{"{"}"podCIDR":"{.spec.podCIDR}","podCIDRs":{.spec.podCIDRs}{"}}"}')
  docker kill "$w3" >/dev/null
  kubectl delete node "$w3" >/dev/null
  # A container that starts now gets the address that is free.
  docker run -d --name "$CLUSTER-squatter" --network kind --entrypoint sleep \
    "$(docker inspect -f '{{.Config.Image}}' "$cp")" infinity >/dev/null
  sleep 10
  kubectl create -f - >/dev/null <<<"$object"
  docker start "$w3" >/dev/null
  came_back "$w3"
  after=$(node_address "$w3")
  docker rm -f "$CLUSTER-squatter" >/dev/null
  [[ $before != "$after" ]] || echo "the node kept its address $before" >&2
}
# The way of docs/migrate.md, and then as many new pods as there were, none with an address that
# another one has. The image must be in the nodes.
scenario_move_in() {
  local node old doubles
  agent=podwire
  old=$(kubectl -n $namespace get pods -o name | sort)
  sed -e "s#image: podwire:.*#image: $IMAGE#" "$root/conf/install.yaml" | kubectl apply -f - >/dev/null
  agents_ready
  kubectl -n kube-system delete daemonset kindnet kube-proxy --ignore-not-found --wait >/dev/null
  wait_for 60 "the end of kube-proxy" no_pods kube-system k8s-app=kube-proxy
  for node in $(nodes); do
    kubectl -n kube-system exec "$(agent_on "$node")" -c agent -- podwire-agent take-over |
      sed "s/^/$node: /" >&2
  done
  kubectl -n $namespace scale deployment/web --replicas=12 >/dev/null
  web_ready
  sleep 5
  doubles=$(kubectl get pods -A -o 'jsonpath={range .items[?(@.spec.hostNetwork!=true)]}{.status.podIP}{"\n"}{end}' | sort | uniq -d)
  [[ -z $doubles ]] || echo "addresses given out twice: $doubles" >&2
  [[ -z $(comm -23 <(echo "$old") <(kubectl -n $namespace get pods -o name | sort)) ]] ||
    echo "some pods were created anew" >&2
}
no_pods() { [[ -z $(kubectl -n "$1" get pods -l "$2" -o name) ]]; }
agent_on() {
  kubectl -n kube-system get pods -l app.kubernetes.io/name=podwire --field-selector "spec.nodeName=$1" -o name
}
node_address() { kubectl get node "$1" -o 'jsonpath={.status.addresses[?(@.type=="InternalIP")].address}'; }

printf '| what happens | new connections | failed | longest without an answer | requests on one connection | made anew |\n| --- | --- | --- | --- | --- | --- |\n'
for what in "${@:-agent-kill upgrade upgrade-pods flush pods-deleted api-stop node-restart node-rejoin}"; do
  for name in $what; do
    web_ready
    start_clients
    "scenario_${name//-/_}"
    stop_clients
    result "$name"
    wait_for 10 "the Service after $name" answers || {
      echo "restarting $agent, which did not mend this by itself" >&2
      scenario_upgrade
      network
    }
  done
done
exit $broken
