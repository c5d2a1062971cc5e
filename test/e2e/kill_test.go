// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// second is the interface that hosts of these tests have besides nettest.Dev, and that comes behind it in order.
const second = "xdev1"

// operation is a change in whose middle the daemon is disturbed.
type operation struct {
	name  string
	setup []change // each chain has two revisions after it, so that the next change folds the first one's counts
	change
	points string // those that the change meets, in order; NAME@N is the N-th time
}

var operations = []operation{
	{
		name:   "add the first program of an interface",
		change: adding(add("n", "pass", nettest.Dev)),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.pinned stage.link stage.attached " +
			"save.before save.after commit.before commit.after unpin.before unpin.after",
	},
	{
		name:   "add a second program",
		setup:  []change{adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev))},
		change: adding(&xdpdv1.AddProgramRequest{Name: "n", Object: verdicts, Function: "drop", Interfaces: []string{nettest.Dev}, Position: before("b")}),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.slots@2 stage.slots@3 stage.pinned fold.before " +
			"save.before save.after commit.before commit.after unpin.before unpin.after",
	},
	{
		name:   "add a program to two interfaces",
		setup:  []change{adding(add("a", "tx", second)), adding(add("b", "goon", second))},
		change: adding(&xdpdv1.AddProgramRequest{Name: "n", Object: verdicts, Function: "pass", Interfaces: []string{nettest.Dev, second}, Position: first}),
		points: "load.maps load.pinned stage.dispatcher stage.slots stage.pinned stage.link stage.attached stage.dispatcher@2 " +
			"stage.slots@4 stage.pinned@2 fold.before save.before save.after commit.before commit.after commit.before@2 " +
			"commit.after@2 unpin.before unpin.after unpin.before@2 unpin.after@2",
	},
	{
		name:   "remove a program from one of its interfaces",
		setup:  []change{adding(add("n", "drop", nettest.Dev, second)), adding(add("a", "pass", nettest.Dev, second))},
		change: removing("n", second),
		points: "stage.dispatcher stage.slots stage.pinned fold.before save.before save.after commit.before commit.after " +
			"unpin.before unpin.after",
	},
	{
		name: "remove a program from its last places",
		setup: []change{
			adding(add("n", "drop", nettest.Dev, second)), adding(add("a", "pass", nettest.Dev)),
			updating(&xdpdv1.MemberUpdate{Program: "n", Interface: second, Priority: ptr(int32(7))}),
		},
		change: removing("n"),
		points: "stage.dispatcher stage.slots stage.pinned fold.before stage.dispatcher@2 stage.pinned@2 fold.before@2 " +
			"save.before save.after commit.before commit.after commit.before@2 commit.after@2 unpin.before unpin.after " +
			"detach.before detach.after unload.before",
	},
	{
		name:   "reorder",
		setup:  []change{adding(add("a", "pass", nettest.Dev, second)), adding(add("d", "drop", nettest.Dev, second))},
		change: updating(&xdpdv1.MemberUpdate{Program: "a", Position: last}),
		points: "stage.dispatcher stage.slots stage.slots@2 stage.pinned fold.before stage.dispatcher@2 stage.slots@4 " +
			"stage.pinned@2 fold.before@2 save.before save.after commit.before commit.after commit.before@2 commit.after@2 " +
			"unpin.before unpin.after unpin.before@2 unpin.after@2",
	},
}

// tried are the operations that are disturbed at every point. On emulated kernels, which are slow, they are those
// that together meet all points; with the inline linker, which is tried in full natively, one.
func tried() (ops []operation) {
	for _, op := range operations {
		switch {
		case !testing.Short(), op.name == "reorder":
		case os.Getenv("XDPD_TEST_LINKER") == "inline":
			continue
		case op.name != "add a program to two interfaces" && op.name != "remove a program from its last places":
			continue
		}
		ops = append(ops, op)
	}
	return ops
}

func ptr[T any](v T) *T { return &v }

// met are the points that the operation meets, in order.
func (op operation) met() (points []met) {
	for _, p := range strings.Fields(op.points) {
		name, n, _ := strings.Cut(p, "@")
		hit, err := strconv.Atoi(n)
		if err != nil {
			hit = 1
		}
		// A commit is met once for each interface, and is never left out.
		if testing.Short() && hit > 1 && !strings.HasPrefix(name, "commit.") {
			continue
		}
		points = append(points, met{name, hit})
	}
	return points
}

// met is the hit-th time that an operation meets a point.
type met struct {
	point string
	hit   int
}

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

// outcome says what holds when the operation was cut off at a point: whether the intent was saved, and which
// chain each interface runs; one without members stands for none.
func (op operation) outcome(old, next *model, point string, hit int) (saved bool, live map[string]chain.Chain) {
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
	live = map[string]chain.Chain{}
	for _, iface := range []string{nettest.Dev, second} {
		if next.chains[iface].Equal(old.chains[iface]) || committed <= 0 {
			live[iface] = old.chains[iface]
			continue
		}
		live[iface] = next.chains[iface]
		committed--
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
	for _, op := range operations {
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
	h.Check()
}

// TestPanic makes the daemon panic at points where nothing can fail. The daemon lives; what it left is mended
// at the latest by its next start.
func TestPanic(t *testing.T) {
	op := operations[len(operations)-1]
	for _, at := range []met{
		{failpoint.StagePinned, 1}, {failpoint.SaveAfter, 1}, {failpoint.CommitAfter, 1}, {failpoint.UnpinBefore, 1}, {failpoint.UnpinAfter, 1},
	} {
		t.Run(at.point, func(t *testing.T) {
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
			h.d.kill()
			h.cutOff(op, next, at)
			h.start()
			// The revision that the panic threw away is forgotten with the next change.
			h.do(updating(&xdpdv1.MemberUpdate{Program: "d", Priority: ptr(int32(40))}))
			h.Check()
			h.stop(unix.SIGTERM)
		})
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
	} {
		t.Run(c.op+" "+c.first+" "+c.then, func(t *testing.T) {
			t.Parallel()
			op := operations[slices.IndexFunc(operations, func(op operation) bool { return op.name == c.op })]
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
				h.model.stopped()
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
