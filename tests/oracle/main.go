// Says whether packets may pass, as cyclonus understands NetworkPolicies: an opinion that has nothing to
// do with ours. One cluster a line on standard input, one line of 0 and 1 on standard output: for each
// end, each other end of its family, and each kind of traffic, in the order in which they were given.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/matcher"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

type end struct {
	IP              string
	Namespace       string
	NamespaceLabels map[string]string
	PodLabels       map[string]string
	// What this end calls the port of each kind of traffic.
	Ports []string
}

type traffic struct {
	Port     int
	Protocol v1.Protocol
}

type cluster struct {
	Policies []*networkingv1.NetworkPolicy
	Ends     []end
	Traffic  []traffic
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

func (e end) isV6() bool { return strings.Contains(e.IP, ":") }

func (c cluster) verdicts() []byte {
	policy := matcher.BuildNetworkPolicies(false, c.Policies)
	var verdicts []byte
	for i, from := range c.Ends {
		for j, to := range c.Ends {
			if i == j || from.isV6() != to.isV6() {
				continue
			}
			one := &matcher.Traffic{Source: from.peer(), Destination: to.peer()}
			for k, over := range c.Traffic {
				one.ResolvedPort, one.ResolvedPortName = over.Port, to.Ports[k]
				one.Protocol = over.Protocol
				verdict := byte('0')
				if policy.IsTrafficAllowed(one).IsAllowed() {
					verdict = '1'
				}
				verdicts = append(verdicts, verdict)
			}
		}
	}
	return append(verdicts, '\n')
}

func main() {
	// Several clusters at once; the answers keep their order.
	answers := make(chan chan []byte, runtime.NumCPU())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for answer := range answers {
			os.Stdout.Write(<-answer)
		}
	}()
	decoder := json.NewDecoder(bufio.NewReader(os.Stdin))
	for decoder.More() {
		var c cluster
		if err := decoder.Decode(&c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		answer := make(chan []byte, 1)
		answers <- answer
		go func() { answer <- c.verdicts() }()
	}
	close(answers)
	<-done
}
