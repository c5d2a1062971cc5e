// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// The positions that tests ask for.
var (
	first = &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}
	last  = &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}
)

func before(program string) *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: program}}
}

func after(program string) *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_After{After: program}}
}

// change is one request that changes something, and what it makes of the model. send compares the answer with the model,
// where there is one.
type change struct {
	request proto.Message // nil: it is sent in another way than with the client
	send    func(*host) error
	model   func(*model) (*model, error)
}

// requesting is the change that a request asks for.
func requesting(r proto.Message) change {
	return change{
		request: r,
		send:    func(h *host) error { h.Helper(); return h.request(r) },
		model:   func(m *model) (*model, error) { return m.after(m.dated(r)) },
	}
}

// answer is what all answers to changes have in common.
type answer interface {
	proto.Message
	GetChange() *xdpdv1.Change
	GetChains() []*xdpdv1.Chain
}

// ask sends a request that changes something. What Confirm answers is no answer.
func (h *host) ask(request proto.Message) (answer, error) {
	h.Helper()
	h.waits = 0
	switch r := h.model.dated(request).(type) {
	case *xdpdv1.AddProgramRequest:
		return h.client.AddProgram(h.ctx(), r)
	case *xdpdv1.RemoveProgramRequest:
		return h.client.RemoveProgram(h.ctx(), r)
	case *xdpdv1.UpdateMembersRequest:
		return h.client.UpdateMembers(h.ctx(), r)
	case *xdpdv1.ReplaceProgramRequest:
		return h.client.ReplaceProgram(h.ctx(), r)
	case *xdpdv1.SetChainsRequest:
		return h.client.SetChains(h.ctx(), r)
	case *xdpdv1.RollbackRequest:
		return h.client.Rollback(h.ctx(), r)
	case *xdpdv1.CancelRequest:
		return h.client.Cancel(h.ctx(), r)
	case *xdpdv1.ConfirmRequest:
		_, err := h.client.Confirm(h.ctx(), r)
		return &xdpdv1.CancelResponse{}, err
	}
	panic(fmt.Sprintf("no change: %T", request))
}

// dated puts the number of the oldest change that waits to be confirmed where a request leaves it out.
func (m *model) dated(request proto.Message) proto.Message {
	if m == nil || len(m.pendings) == 0 {
		return request
	}
	switch r := request.(type) {
	case *xdpdv1.ConfirmRequest:
		if r.GetId() == 0 {
			return &xdpdv1.ConfirmRequest{Id: m.pendings[0].id}
		}
	case *xdpdv1.CancelRequest:
		if r.GetId() == 0 {
			return &xdpdv1.CancelRequest{Id: m.pendings[0].id}
		}
	}
	return request
}

// add is a program of the verdicts object, called name, on interfaces.
func add(name, function string, interfaces ...string) *xdpdv1.AddProgramRequest {
	return &xdpdv1.AddProgramRequest{Name: name, Object: verdicts, Function: function, Interfaces: interfaces}
}

func adding(r *xdpdv1.AddProgramRequest) change { return requesting(r) }

func removing(name string, interfaces ...string) change {
	return requesting(&xdpdv1.RemoveProgramRequest{Name: name, Interfaces: interfaces})
}

func updating(updates ...*xdpdv1.MemberUpdate) change {
	return requesting(&xdpdv1.UpdateMembersRequest{Updates: updates})
}

// replace is another function of the verdicts object under the name of a program.
func replace(name, function string) *xdpdv1.ReplaceProgramRequest {
	return &xdpdv1.ReplaceProgramRequest{Name: name, Object: verdicts, Function: function}
}

// choose is the settable object under the name of a program, with this verdict.
func choose(name, verdict string) *xdpdv1.ReplaceProgramRequest {
	return &xdpdv1.ReplaceProgramRequest{
		Name: name, Object: settable, Settings: &xdpdv1.ProgramSettings{Globals: map[string]string{"verdict": verdict}},
	}
}

func replacing(r *xdpdv1.ReplaceProgramRequest) change { return requesting(r) }

// applying is SetChains.
func applying(r *xdpdv1.SetChainsRequest) change { return requesting(r) }

// chainOf is the spec of a chain whose members have no priority and all defaults.
func chainOf(iface string, programs ...string) *xdpdv1.ChainSpec {
	spec := &xdpdv1.ChainSpec{Interface: iface}
	for _, name := range programs {
		spec.Members = append(spec.Members, &xdpdv1.MemberSpec{Program: name})
	}
	return spec
}

// specOf is the spec of a program of the verdicts object.
func specOf(name, function string) *xdpdv1.ProgramSpec {
	return &xdpdv1.ProgramSpec{Name: name, ObjectSha256: verdictsSum, Function: function}
}

// rolling goes back to an earlier chain of an interface; revision 0: the one before the last change.
func rolling(iface string, revision uint64) change {
	return requesting(&xdpdv1.RollbackRequest{Interface: iface, Revision: revision})
}

// confirming makes the change of that number stay; 0: the oldest one that waits.
func confirming(id uint64) change { return requesting(&xdpdv1.ConfirmRequest{Id: id}) }

// cancelling undoes the change of that number; 0: the oldest one that waits.
func cancelling(id uint64) change { return requesting(&xdpdv1.CancelRequest{Id: id}) }

// with gives a change options; the request stays as it is.
func (c change) with(o *xdpdv1.ChangeOptions) change {
	r := proto.Clone(c.request)
	field := r.ProtoReflect().Descriptor().Fields().ByName("options")
	dst := r.ProtoReflect().Mutable(field).Message().Interface()
	proto.Merge(dst, o)
	return requesting(r)
}

// within makes the change one that waits to be confirmed.
func (c change) within(d time.Duration) change {
	return c.with(&xdpdv1.ChangeOptions{ConfirmWithin: durationpb.New(d)})
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
		h.catchUp()
		h.checkDescriptors()
	}
}

// request asks for a change, and compares the answer of a daemon that made it with the model, which is as before it.
func (h *host) request(r proto.Message) error {
	h.Helper()
	got, err := h.ask(r)
	if err != nil || h.model == nil {
		return err
	}
	if want, refused := h.model.foresee(h.model.dated(r)); refused == nil {
		h.compareAnswer(h.model.dated(r), got, want)
	}
	return nil
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
