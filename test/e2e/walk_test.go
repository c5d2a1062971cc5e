// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// walk is a list of operations at random on one host.
type walk struct {
	*host
	draw
	acts    []act
	armed   met            // what a daemon is to be disturbed at
	imprint string         // after the operation before; empty: not known
	done    map[string]int // operations by kind and what came of them
}

// act is an operation. What only a run can know is left open.
type act struct {
	event   string         // in place of a request: "kill", "stop", "arm"
	request proto.Message  // without revisions and ids
	expects map[string]int // by interface, how far the revision that is expected is from the one that it has
	back    int            // which entry of the history a rollback is to, from 1 on; 0: it does not say
	expire  bool           // it is made with confirm_within and nobody confirms it
	at      met            // for "arm"
	action  string
	iface   string // where packets are sent in the end
	packets uint64
	full    bool // everything is looked at in the end
}

// kinds are those of operations that must have been made at least once.
var kinds = []string{
	"AddProgram", "RemoveProgram", "UpdateMembers", "ReplaceProgram", "SetChains", "Rollback", "Confirm", "Cancel",
	"kill", "stop", "arm", "expire", "dry run", "cut off", "error",
}

func (a act) kind() string {
	if a.event != "" {
		return a.event
	}
	name := string(a.request.ProtoReflect().Descriptor().Name())
	return strings.TrimSuffix(name, "Request")
}

func (a act) String() string {
	if a.event != "" {
		return fmt.Sprintf("%s %s %s", a.event, a.action, a.at.point)
	}
	return fmt.Sprintf("%s {%s} expects %v back %d expire %t, then %d packets to %s", a.kind(), brieflyOf(a.request), a.expects, a.back, a.expire, a.packets, a.iface)
}

func (w *walk) drawAct() act {
	switch n := w.IntN(1000); {
	case n < 5:
		return act{event: "kill"}
	case n < 12:
		return act{event: "stop"}
	case n < 30:
		a := act{event: "arm", action: "kill", at: met{failpoint.All[w.IntN(len(failpoint.All))], 1}}
		if w.one(3) {
			a.action, a.at.point = "error", w.pick(failing)
		}
		return a
	}
	a := act{request: w.change(w.model), iface: w.pick(w.interfaces), packets: uint64(w.IntN(4)), full: !testing.Short() || w.one(fullCheck)}
	if _, rollback := a.request.(*xdpdv1.RollbackRequest); rollback {
		a.back = w.IntN(8)
	}
	if r, ok := a.request.(interface{ GetOptions() *xdpdv1.ChangeOptions }); ok {
		if w.one(8) {
			a.expects = map[string]int{w.iface(): max(0, w.IntN(12)-10)}
		}
		a.expire = w.one(250)
		if a.expire {
			r.GetOptions().DryRun, r.GetOptions().ConfirmWithin = false, durationpb.New(time.Second)
		}
	}
	return a
}

// fullCheck is after how many operations everything is looked at where time is short, on average; else after each.
const fullCheck = 4

// on is the request of an act as it is with a model.
func (a act) on(m *model) proto.Message {
	r := proto.Clone(a.request)
	if back, ok := r.(*xdpdv1.RollbackRequest); ok && a.back > 0 {
		back.Revision = 1000000
		if entries := m.history[back.GetInterface()]; a.back <= len(entries) {
			back.Revision = entries[a.back-1].revision
		}
	}
	if len(a.expects) == 0 {
		return m.dated(r)
	}
	o := &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{}}
	for iface, wrong := range a.expects {
		if _, known := m.chains[iface]; known {
			o.ExpectedRevisions[iface] = m.revisions[iface].live
		}
		o.ExpectedRevisions[iface] += uint64(wrong)
	}
	return requesting(r).with(o).request
}

// perform does one operation, here and in the model, and compares.
func (w *walk) perform(a act) {
	w.Helper()
	w.done[a.kind()+" asked"]++
	if a.event != "" {
		w.imprint = ""
	}
	switch a.event {
	case "kill":
		w.again()
	case "stop":
		w.end()
		w.start()
		w.catchUp()
		w.Check()
	case "arm":
		w.again(fmt.Sprintf("XDPD_FAILPOINT=%s=%s", a.at.point, a.action))
		w.armed = a.at
	default:
		w.asks(a)
		return
	}
	w.done[a.kind()+" made"]++
}

// end stops the daemon.
func (w *walk) end() {
	w.Helper()
	if w.armed.point != "" {
		w.again() // for a stop meets points too
	} else {
		w.Check()
	}
	w.stop(unix.SIGTERM)
}

// again kills the daemon at rest and starts another one, for which nothing is to do.
func (w *walk) again(env ...string) {
	w.Helper()
	w.Check()
	before := w.look().imprint()
	w.d.kill()
	w.armed = met{}
	w.start(env...)
	w.catchUp()
	if now := w.look().imprint(); now != before {
		w.Errorf("a kill and a start made of\n%s\nthis:\n%s", before, now)
	}
}

// asks makes a request.
func (w *walk) asks(a act) {
	w.Helper()
	if a.expire && w.armed.point != "" {
		w.again() // the point would be met by the request, or when it is undone
	}
	r := a.on(w.model)
	want, refused := w.model.foresee(r)
	var events *watcher
	if a.expire && refused == nil && want.changed {
		events = w.watch("")
		defer events.end()
	}
	got, err := w.ask(r)
	if w.armed.point != "" && w.disturbed(err) {
		w.cutShort(a, want, refused)
		return
	}
	switch {
	case (err == nil) != (refused == nil):
		w.Fatalf("answer %v, the model says %v\nrequest: %s", err, refused, brieflyOf(r))
	case err != nil:
		if !slices.Contains(reasonsOf(refused), client.Reason(err)) {
			w.Errorf("refused for %v: %v, the model says %v\nrequest: %s", client.Reason(err), err, refused, brieflyOf(r))
		}
		w.done[a.kind()+" refused"]++
	default:
		w.compareAnswer(r, got, want)
		if !want.dry {
			w.model = want.next
		}
		w.model.learn(nil, w.waits)
		w.count(a, want)
	}
	if events != nil {
		w.outOfTime(events)
	}
	w.send(a.iface, a.packets)
	l := w.look()
	l.compareAPI()
	before := w.imprint
	w.imprint = l.imprint()
	if changes := refused == nil && !want.dry && (want.changed || a.kind() == "Confirm"); !changes && before != "" && before != w.imprint {
		w.Errorf("nothing was to change, and of\n%s\nbecame\n%s", before, w.imprint)
	}
	if refused == nil {
		w.checkHistory(want.swapped...)
	}
	if a.full {
		w.checkHistory(w.interfaces...)
		l.compareRest()
	}
}

// count notes what was made.
func (w *walk) count(a act, want *made) {
	switch {
	case want.dry:
		w.done["dry run made"]++
	case want.changed || a.kind() == "Confirm":
		w.done[a.kind()+" made"]++
	default:
		w.done[a.kind()+" idle"]++
	}
}

// disturbed tells whether a request met the point that was set.
func (w *walk) disturbed(err error) bool {
	w.Helper()
	if err == nil {
		return false
	}
	if strings.Contains(err.Error(), "failpoint "+w.armed.point) {
		return true
	}
	if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED || status.Code(err) != codes.Unavailable {
		return false
	}
	w.d.killed()
	return true
}

// cutShort is after a request that met a point: the daemon is dead or refused it, and all or nothing was done.
func (w *walk) cutShort(a act, want *made, refused error) {
	w.Helper()
	point := w.armed.point
	w.armed, w.imprint = met{}, ""
	w.model.failed()
	select {
	case <-w.d.done:
		if order := slices.Index(failpoint.All[:], point); order >= slices.Index(failpoint.All[:], failpoint.SaveAfter) &&
			point != failpoint.FoldBefore && refused == nil && !want.dry {
			w.model = want.next
		}
		w.start()
		w.done["cut off made"]++
	default:
		w.done["error made"]++
	}
	w.catchUp()
	w.Check()
}

// outOfTime waits until the daemon undoes a change that nobody confirms.
func (w *walk) outOfTime(events *watcher) {
	w.Helper()
	p := w.model.pendings[len(w.model.pendings)-1]
	events.await("reverted")
	undone, err := w.model.undo(p.id, "not confirmed: ")
	if err != nil {
		w.Fatalf("the model cannot undo %v: %v", p, err)
	}
	w.model = undone.next
	w.done["expire made"]++
}
