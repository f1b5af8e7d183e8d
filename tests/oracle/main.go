// Says whether packets may pass, as cyclonus understands NetworkPolicies: an opinion that has nothing to
// do with ours. One cluster a line on standard input, one line of 0 and 1 for its packets on standard
// output.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

type end struct {
	IP              string
	Namespace       string
	NamespaceLabels map[string]string
	PodLabels       map[string]string
}

type packet struct {
	From, To end
	Port     int
	PortName string
	Protocol v1.Protocol
}

type cluster struct {
	Policies []*networkingv1.NetworkPolicy
	Packets  []packet
}

// An end without a namespace is no pod.
func (e end) peer() *matcher.TrafficPeer {
	peer := &matcher.TrafficPeer{IP: e.IP}
	if e.Namespace != "" {
		peer.Internal = &matcher.InternalPeer{
			Namespace:       e.Namespace,
			NamespaceLabels: e.NamespaceLabels,
			PodLabels:       e.PodLabels,
		}
	}
	return peer
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	decoder := json.NewDecoder(lines)
	for decoder.More() {
		var c cluster
		if err := decoder.Decode(&c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		policy := matcher.BuildNetworkPolicies(false, c.Policies)
		for _, p := range c.Packets {
			traffic := &matcher.Traffic{
				Source:           p.From.peer(),
				Destination:      p.To.peer(),
				ResolvedPort:     p.Port,
				ResolvedPortName: p.PortName,
				Protocol:         p.Protocol,
			}
			verdict := byte('0')
			if policy.IsTrafficAllowed(traffic).IsAllowed() {
				verdict = '1'
			}
			out.WriteByte(verdict)
		}
		out.WriteByte('\n')
		out.Flush()
	}
}
