// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// leaseLine says in one line who holds a lease, what becomes of its programs, and which they are.
func leaseLine(l *xdpdv1.Lease) string {
	line := fmt.Sprintf("%d, held by %s", l.GetId(), caller(l.GetHolder()))
	if !l.GetHeld() {
		line = fmt.Sprintf("%d, ends in %s unless it is held again, was held by %s", l.GetId(), span(l.GetLeft()), caller(l.GetHolder()))
	}
	if l.GetGrace().AsDuration() > 0 {
		line += ", grace " + span(l.GetGrace())
	}
	return line + ", programs " + list(l.GetPrograms())
}

// span is a duration as the command line takes it.
func span(d *durationpb.Duration) string { return d.AsDuration().String() }
