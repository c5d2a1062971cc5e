// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// prepare makes the state before the operation, with some traffic. No daemon runs then.
func (op operation) prepare(t *testing.T) *host {
	h := newHost(t, second)
	h.start()
	h.do(op.setup...)
	h.Check()
	h.d.kill()
	return h
}

// disturbed starts a daemon in which something happens at a point of the next change.
func (h *host) disturbed(at met, action string) {
	h.Helper()
	h.Logf("%s at %s@%d", action, at.point, at.hit)
	h.start(fmt.Sprintf("XDPD_FAILPOINT=%s=%s@%d", at.point, action, at.hit))
}

// outcome says what holds when the operation was cut off at a point: whether the intent was saved, and whose chain each
// interface runs, that of the old model or of the next one.
func (op operation) outcome(old, next *model, point string, hit int) (saved bool, live map[string]*model) {
	order := slices.Index(failpoint.All[:], point)
	saved = order >= slices.Index(failpoint.All[:], failpoint.SaveAfter) && point != failpoint.FoldBefore
	committed := 0
	switch {
	case point == failpoint.CommitAfter:
		committed = hit
	case point == failpoint.CommitBefore:
		committed = hit - 1
	case order > slices.Index(failpoint.All[:], failpoint.CommitAfter) && point != failpoint.FoldBefore:
		committed = 2
	}
	live = map[string]*model{}
	for _, iface := range []string{nettest.Dev, second} {
		live[iface] = old
		if !next.runsSame(old, iface) && committed > 0 {
			live[iface] = next
			committed--
		}
	}
	return saved, live
}

// TestKill kills the daemon at each point of each operation. Traffic goes on through the old chain or the new one,
// and the next start finishes the change or undoes it, on all interfaces alike. What was undone is tried again.
func TestKill(t *testing.T) {
	for _, op := range tried() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			var h *host
			for _, at := range op.met() {
				if h == nil {
					h = op.prepare(t)
				}
				h.disturbed(at, "kill")
				h.Check() // what came of the kill before this one
				next, err := op.model(h.model)
				if err != nil {
					t.Fatal(err)
				}
				if err := op.send(h); err == nil {
					t.Error("the request was answered")
				}
				h.d.killed()
				if h.cutOff(op, next, at) {
					h.start()
					h.Check()
					h.stop(unix.SIGTERM)
					h = nil
				}
				if t.Failed() {
					return
				}
			}
			if h != nil {
				t.Error("the last point is one after which the change is undone")
			}
		})
	}
}

// cutOff sends packets while no daemon runs, and sets the model to what the next start is to make. It returns
// whether that is the change.
func (h *host) cutOff(op operation, next *model, at met) (saved bool) {
	h.Helper()
	saved, live := op.outcome(h.model, next, at.point, at.hit)
	if saved {
		h.model = next
	}
	for _, iface := range []string{nettest.Dev, second} {
		h.sendThrough(live[iface], iface, 5)
	}
	return saved
}

// TestPointsMet sets all points that an operation is not said to meet, and expects none of them.
func TestPointsMet(t *testing.T) {
	for _, op := range tried() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			var others []string
			for _, p := range failpoint.All {
				if !slices.Contains(strings.Fields(op.points), p) {
					others = append(others, p+"=kill")
				}
			}
			h := newHost(t, second)
			h.start()
			h.do(op.setup...)
			h.d.kill()
			h.start("XDPD_FAILPOINT=" + strings.Join(others, ","))
			h.do(op.change)
			h.Check()
			h.d.kill()
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
	var met []string
	for _, op := range operations {
		met = append(met, strings.Fields(op.points)...)
	}
	for _, p := range failpoint.All {
		if !slices.Contains(met, p) && !strings.HasPrefix(p, "stop.") {
			t.Errorf("no operation is said to meet %s", p)
		}
	}
}

// failing are the points that can return an error.
var failing = []string{
	failpoint.LoadMaps, failpoint.LoadPinned, failpoint.StageDispatcher, failpoint.StageSlots, failpoint.StagePinned,
	failpoint.StageLink, failpoint.StageAttached, failpoint.SaveBefore, failpoint.CommitBefore, failpoint.FoldBefore,
}

// TestError makes each step fail that can: the request is refused, and everything is as it was.
func TestError(t *testing.T) {
	for _, op := range tried() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			// One daemon takes all points that are met for the first time: each error happens once.
			var order, again []met
			var settings []string
			for _, at := range op.met() {
				switch {
				case !slices.Contains(failing, at.point): // TestPanic has those
				case at.hit > 1:
					again = append(again, at)
				default:
					order = append(order, at)
					settings = append(settings, at.point+"=error")
				}
			}
			h := op.prepare(t)
			h.start("XDPD_FAILPOINT=" + strings.Join(settings, ","))
			for _, at := range order {
				h.fails(op, at)
			}
			for _, at := range again {
				h.d.kill()
				h.disturbed(at, "error")
				h.fails(op, at)
			}
			h.do(op.change) // nothing is in its way
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// fails makes a change that is to fail at a point.
func (h *host) fails(op operation, at met) {
	h.Helper()
	err := op.send(h)
	if status.Code(err) == codes.OK || !strings.Contains(err.Error(), "failpoint "+at.point) {
		h.Errorf("answer: %v, want an error of failpoint %s", err, at.point)
	}
	h.model.failed()
	h.Check()
}

// TestPanic makes the daemon panic at points where nothing can fail. The daemon lives, and finishes a change whose intent
// was saved; what else it left is gone at the latest with its next start.
func TestPanic(t *testing.T) {
	for name, touched := range map[string]string{"reorder": "d", "apply to two interfaces": "n"} {
		if testing.Short() && name == "reorder" {
			continue
		}
		for _, at := range []met{
			{failpoint.StagePinned, 1}, {failpoint.SaveAfter, 1}, {failpoint.CommitAfter, 1}, {failpoint.UnpinBefore, 1}, {failpoint.UnpinAfter, 1},
		} {
			t.Run(name+" "+at.point, func(t *testing.T) {
				t.Parallel()
				op := operationOf(name)
				h := op.prepare(t)
				h.disturbed(at, "panic")
				next, err := op.model(h.model)
				if err != nil {
					t.Fatal(err)
				}
				if err := op.send(h); status.Code(err) != codes.Internal {
					t.Errorf("answer: %v, want INTERNAL", err)
				}
				if _, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{}); err != nil {
					t.Errorf("the daemon does not answer any more: %v", err)
				}
				want := h.model
				if at.point != failpoint.StagePinned {
					want = next
				}
				h.well()
				for iface, ch := range want.chains {
					if !h.model.chains[iface].Equal(ch) {
						t.Errorf("the chain of %s is %v, want %v", iface, h.model.chains[iface], ch)
					}
				}
				h.d.kill()
				h.start()
				h.learn()
				// The revision that the panic threw away is forgotten with the next change.
				h.do(updating(&xdpdv1.MemberUpdate{Program: touched, Priority: ptr(int32(40))}))
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}

// TestKillTwice kills the daemon in the middle of a change, and again while it mends that.
func TestKillTwice(t *testing.T) {
	for _, c := range []struct {
		op          string
		first, then string
	}{
		{"reorder", failpoint.SaveAfter, failpoint.CommitBefore},
		{"reorder", failpoint.SaveAfter, failpoint.UnpinBefore},
		{"reorder", failpoint.SaveAfter, failpoint.UnpinAfter},
		{"reorder", failpoint.StagePinned, failpoint.UnpinBefore},
		{"reorder", failpoint.CommitAfter, failpoint.CommitBefore},
		{"add the first program of an interface", failpoint.StagePinned, failpoint.UnloadBefore},
		{"add the first program of an interface", failpoint.SaveBefore, failpoint.DetachBefore},
		{"add the first program of an interface", failpoint.SaveBefore, failpoint.DetachAfter},
		{"remove a program from its last places", failpoint.SaveAfter, failpoint.DetachBefore},
		{"remove a program from its last places", failpoint.SaveAfter, failpoint.DetachAfter},
		{"remove a program from its last places", failpoint.CommitAfter, failpoint.UnloadBefore},
		{"apply to two interfaces", failpoint.SaveAfter, failpoint.CommitBefore},
		{"apply to two interfaces", failpoint.CommitAfter, failpoint.UnloadBefore},
		{"roll back", failpoint.StagePinned, failpoint.UnloadBefore},
		{"replace a program and wait", failpoint.SaveAfter, failpoint.CommitBefore},
		{"confirm", failpoint.ConfirmSaved, failpoint.UnloadBefore},
		{"cancel", failpoint.SaveAfter, failpoint.CommitBefore},
		{"cancel", failpoint.CommitAfter, failpoint.UnloadBefore},
	} {
		if testing.Short() && c.op == "reorder" {
			continue // the others do what it does
		}
		t.Run(c.op+" "+c.first+" "+c.then, func(t *testing.T) {
			t.Parallel()
			op := operationOf(c.op)
			h := op.prepare(t)
			h.disturbed(met{c.first, 1}, "kill")
			next, err := op.model(h.model)
			if err != nil {
				t.Fatal(err)
			}
			if err := op.send(h); err == nil {
				t.Error("the request was answered")
			}
			h.d.killed()
			h.cutOff(op, next, met{c.first, 1})
			if h.launch("XDPD_FAILPOINT=" + c.then + "=kill").killed(); t.Failed() {
				return
			}
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// TestKillDuringStop kills a daemon that is stopping. The next start, or a teardown, finishes it.
func TestKillDuringStop(t *testing.T) {
	for _, finish := range []string{"start", "teardown"} {
		for _, point := range []string{failpoint.StopSaved, failpoint.DetachBefore, failpoint.DetachAfter, failpoint.StopDetached} {
			t.Run(finish+" after "+point, func(t *testing.T) {
				h := newHost(t, second)
				h.start("XDPD_FAILPOINT=" + point + "=kill")
				keep := add("keep", "goon", second)
				keep.Lifetime = xdpdv1.Lifetime_LIFETIME_PERSISTENT
				h.do(adding(add("a", "pass", nettest.Dev, second)), adding(keep))
				h.Check()
				h.d.signal(os.Interrupt)
				h.d.killed()
				if h.model.cutOff(); finish != "start" || point == failpoint.StopDetached {
					h.model.reload() // programs were unloaded, or will be
				}
				if finish == "start" {
					h.start()
					h.Check()
					h.stop(unix.SIGTERM)
					return
				}
				if r := h.run("xdpd", "teardown", "--config", h.config); r.code != 0 {
					t.Errorf("teardown: %+v", r)
				}
				h.nothingLeft()
				h.start()
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}
