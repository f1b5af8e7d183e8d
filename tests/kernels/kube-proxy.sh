#!/bin/bash
# A real kube-proxy in ipvs mode, then take-over, in a namespace of its own: kube-proxy.sh PROGRAMS,
# in the folder of the project. Prints how it went, and fails if anything of it is left that
# `podwire-agent take-over` promises to take out.
set -euo pipefail
programs=$1 out=/run/kube-proxy
ip link set lo up
ip link add eth0 type dummy
ip address add 192.0.2.10/24 dev eth0
ip link set eth0 up

perl tests/kernels/api.pl 18080 >"$out.api" 2>&1 &
api=$!
"$programs/kube-proxy" --master=http://127.0.0.1:18080 --kube-api-content-type=application/json \
    --proxy-mode=ipvs --hostname-override=machine --conntrack-max-per-core=0 -v=2 >"$out.log" 2>&1 &
proxy=$!
trap 'kill $api $proxy 2>/dev/null || true' EXIT

# wait_for WHAT COMMAND...: awaits that a command succeeds.
wait_for() {
    local what=$1 try
    shift
    for ((try = 0; try < 240; try++)); do
        "$@" >/dev/null 2>&1 && return
        kill -0 $proxy 2>/dev/null || break
        sleep 1
    done
    tail -n 40 "$out.log"
    echo "$what did not come"
    exit 1
}
servers() { [[ $(ipvsadm --list --numeric | grep -c -- '-> 10.10.') -ge 6 ]]; }
rules() { iptables-save | grep -q 'KUBE-NODE-PORT\|KUBE-CLUSTER-IP'; }
wait_for "the virtual servers of the kube-proxy" servers
wait_for "the rules of the kube-proxy" rules
ipvsadm --list --numeric
ipset list -name
iptables-save
ip address show kube-ipvs0
kill $proxy
wait $proxy || true

"$programs/podwire-agent" take-over --dry-run
"$programs/podwire-agent" take-over | tee "$out.said"
left=$(iptables-save | grep -E 'KUBE-' | grep -vE '^:KUBE-(KUBELET-CANARY|MARK-(MASQ|DROP)|FIREWALL)|-A KUBE-(MARK|FIREWALL)|-j KUBE-FIREWALL$' || true)
[[ ! $left ]] || { echo "rules are left: $left"; exit 1; }
! ip link show kube-ipvs0 2>/dev/null || { echo "kube-ipvs0 is left"; exit 1; }
grep -q 'virtual server.* of IPVS' "$out.said" || { echo "the virtual servers are not named"; exit 1; }
# The kernel takes rules apart after it has said that they are gone.
timeout 60 bash -c 'until ipset destroy; do sleep 1; done' || { echo "a rule still holds a set"; exit 1; }
# As the agent says.
ipvsadm --clear
[[ $("$programs/podwire-agent" take-over) == "no rules of a kube-proxy found" ]] || { echo "a second look finds more"; exit 1; }
echo "nothing is left but the virtual servers, which are named"
