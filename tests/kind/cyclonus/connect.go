// Package worker: the connections of a batch, made by the worker itself.
//
// Copied into cyclonus' worker by policies.sh. A probe is some hundred connections, for each of which
// the worker starts `agnhost connect`; on a few processors that takes longer than all the rest. What a
// connection must do to count is the same: TCP is accepted, UDP is answered, each within a second.
// SCTP is left to agnhost.
package worker

import (
	"net"
	"time"

	v1 "k8s.io/api/core/v1"
)

const patience = time.Second

// connect tries a request; nil if it is one for agnhost.
func connect(r *Request) *Result {
	var err error
	switch r.Protocol {
	case v1.ProtocolTCP:
		err = connectTCP(r.Address())
	case v1.ProtocolUDP:
		err = connectUDP(r.Address())
	default:
		return nil
	}
	result := &Result{Request: r}
	if err != nil {
		result.Error = err.Error()
	}
	return result
}

func connectTCP(address string) error {
	connection, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	return connection.Close()
}

func connectUDP(address string) error {
	connection, err := net.DialTimeout("udp", address, patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := connection.Write([]byte("hostname\n")); err != nil {
		return err
	}
	_, err = connection.Read(make([]byte, 1024))
	return err
}
