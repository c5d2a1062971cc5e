// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"github.com/xdpd/xdpd/client"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// The positions that tests ask for.
var (
	first = &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}
	last  = &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}
)

func before(program string) *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: program}}
}

// change is one request that changes something, and what it makes of the model.
type change struct {
	send  func(*host) error
	model func(*model) (*model, error)
}

// add is a program of the verdicts object, called name, on interfaces.
func add(name, function string, interfaces ...string) *xdpdv1.AddProgramRequest {
	return &xdpdv1.AddProgramRequest{Name: name, Object: verdicts, Function: function, Interfaces: interfaces}
}

func adding(r *xdpdv1.AddProgramRequest) change {
	return change{
		send:  func(h *host) error { _, err := h.client.AddProgram(h.ctx(), r); return err },
		model: func(m *model) (*model, error) { return m.add(r) },
	}
}

func removing(name string, interfaces ...string) change {
	r := &xdpdv1.RemoveProgramRequest{Name: name, Interfaces: interfaces}
	return change{
		send:  func(h *host) error { _, err := h.client.RemoveProgram(h.ctx(), r); return err },
		model: func(m *model) (*model, error) { return m.remove(name, interfaces...) },
	}
}

func updating(updates ...*xdpdv1.MemberUpdate) change {
	r := &xdpdv1.UpdateMembersRequest{Updates: updates}
	return change{
		send:  func(h *host) error { _, err := h.client.UpdateMembers(h.ctx(), r); return err },
		model: func(m *model) (*model, error) { return m.update(updates...) },
	}
}

// do makes changes, here and in the model, and looks after each that the daemon is at rest.
func (h *host) do(changes ...change) {
	h.Helper()
	for _, c := range changes {
		next, err := c.model(h.model)
		if err != nil {
			h.Fatalf("the test asks the model for something impossible: %v", err)
		}
		if err := c.send(h); err != nil {
			h.Fatalf("request refused: %v\n%v\n%s", err, client.Facts(err), client.VerifierLog(err))
		}
		h.model = next
		h.checkDescriptors()
	}
}

// refused makes a change that the daemon must refuse for this reason, and returns the error.
func (h *host) refused(reason xdpdv1.ErrorReason, c change) error {
	h.Helper()
	err := c.send(h)
	if err == nil || client.Reason(err) != reason {
		h.Errorf("refused with reason %v, want %v: %v", client.Reason(err), reason, err)
	}
	h.checkDescriptors()
	return err
}
