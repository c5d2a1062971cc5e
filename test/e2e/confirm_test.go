// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/boottime"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// third is an interface on which a test begins without a chain.
const third = "xdev2"

// trial is a change that is made with confirm_within.
type trial struct {
	name   string
	claims string // the interfaces and programs that nobody else may change meanwhile
	send   func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error)
}

// trials are made on what base makes.
var trials = []trial{
	{"the first program of an interface", "[xdev2] [n]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		r := persistent(add("n", "drop", third))
		r.Options = o
		a, err := h.client.AddProgram(h.ctx(), r)
		return a.GetChange(), err
	}},
	{"one more program", "[xdev0] [n]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		r := add("n", "plain", nettest.Dev)
		r.Position, r.Options = before("b"), o
		a, err := h.client.AddProgram(h.ctx(), r)
		return a.GetChange(), err
	}},
	{"a removal from one place", "[xdev1] [a]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		a, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{second}, Options: o})
		return a.GetChange(), err
	}},
	{"a removal from all places", "[xdev0 xdev1] [a]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		a, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Options: o})
		return a.GetChange(), err
	}},
	{"a replacement", "[xdev0 xdev1] [a]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		a, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "a", Function: "drop", Options: o})
		return a.GetChange(), err
	}},
	{"fresh maps", "[xdev0] [b]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		a, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "b", FreshMaps: true, Options: o})
		return a.GetChange(), err
	}},
	{"another order", "[xdev0 xdev1] []", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		a, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Options: o, Updates: []*xdpdv1.MemberUpdate{
			{Program: "b", Position: first}, {Program: "a", Interface: second, Enabled: ptr(false)},
		}})
		return a.GetChange(), err
	}},
	{"several chains at once", "[xdev0 xdev1 xdev2] [a b n]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		object := h.object("a")
		a, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
			Options: o, Programs: []*xdpdv1.ProgramSpec{
				{Name: "b", Function: "pass"},
				{Name: "n", ObjectSha256: object, Function: "goon", Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT},
			},
			Chains: []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "b", "n"), chainOf(second, "n", "a"), chainOf(third, "n")},
		})
		return a.GetChange(), err
	}},
	{"a rollback", "[xdev0] [b]", func(h *host, o *xdpdv1.ChangeOptions) (*xdpdv1.Change, error) {
		a, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev, Revision: 1, Options: o})
		return a.GetChange(), err
	}},
}

// object is the sha256 of a program's object.
func (h *host) object(program string) string {
	h.Helper()
	p, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: program})
	if err != nil {
		h.Fatal(err)
	}
	return p.GetProgram().GetObjectSha256()
}

func within(d time.Duration) *xdpdv1.ChangeOptions {
	return &xdpdv1.ChangeOptions{ConfirmWithin: durationpb.New(d)}
}

// newTrialHost has a daemon with a chain on two of three interfaces, all of it persistent.
func newTrialHost(t testing.TB) *host {
	h := newHost(t, second, third)
	h.start()
	h.do(adding(persistent(add("a", "pass", nettest.Dev, second))), adding(persistent(add("b", "goon", nettest.Dev))))
	h.learn()
	h.Check()
	return h
}

// try makes a trial that is undone after a time, and returns its number.
func (h *host) try(tr trial, after time.Duration) (id uint64) {
	h.Helper()
	made, err := tr.send(h, within(after))
	if err != nil {
		h.Fatalf("%s: %v %v", tr.name, err, client.Facts(err))
	}
	p := made.GetPending()
	if got := fmt.Sprint(p.GetInterfaces(), " ", p.GetPrograms()); !made.GetChanged() || got != tr.claims || p.GetCaller().GetUid() != 0 ||
		p.GetCaller().GetPid() != int32(unix.Getpid()) || p.GetLeft().AsDuration() > after || p.GetWhat() == "" {
		h.Errorf("%s: the answer is %v, want claims %s", tr.name, made, tr.claims)
	}
	return p.GetId()
}

// TestUndone makes each change that can be undone, and lets each thing happen that undoes it: what was there before
// is there again, with the same maps.
func TestUndone(t *testing.T) {
	for name, undo := range map[string]func(h *host, w *watcher, tr trial) *watcher{
		"cancelled": func(h *host, w *watcher, tr trial) *watcher {
			h.cancelled(w, h.try(tr, time.Hour))
			return w
		},
		"not confirmed": func(h *host, w *watcher, tr trial) *watcher {
			h.expired(w, h.try(tr, time.Second))
			return w
		},
		"cancelled after a kill": func(h *host, _ *watcher, tr trial) *watcher {
			id := h.try(tr, time.Hour)
			h.d.kill()
			h.start()
			w := h.watch("")
			h.cancelled(w, id)
			return w
		},
		"time is up after a kill": func(h *host, _ *watcher, tr trial) *watcher {
			until := h.deadline(2 * time.Second)
			h.try(tr, 2*time.Second)
			h.d.kill()
			h.start()
			h.expiredBy(until, tr)
			return h.watch("")
		},
		"killed until time is up": func(h *host, _ *watcher, tr trial) *watcher {
			h.try(tr, time.Second)
			h.d.kill()
			h.waitUntil(h.deadline(time.Second))
			h.start() // which rolls back before it serves
			return h.watch("")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newTrialHost(t)
			w := h.watch("")
			for i, tr := range someTrials() {
				if name == "time is up after a kill" && i%3 != 0 { // it takes twice as long
					continue
				}
				before := h.picture(true)
				runs := h.runs("a") + h.runs("b")
				w = undo(h, w, tr)
				if after := h.picture(true); after != before {
					t.Errorf("%s, then %s: there is\n%s\nthere was\n%s", tr.name, name, after, before)
				}
				if now := h.runs("a") + h.runs("b"); now < runs {
					t.Errorf("%s, then %s: the programs counted %d packets, before it was %d", tr.name, name, now, runs)
				}
				h.learn()
				h.Check()
				if t.Failed() {
					return
				}
			}
			h.stop(unix.SIGTERM)
		})
	}
}

// someTrials are all, or in short tests those that differ most.
func someTrials() []trial {
	if testing.Short() {
		return []trial{trials[0], trials[3], trials[7]}
	}
	return trials
}

// cancelled cancels a change and sees to it that those who watch are told.
func (h *host) cancelled(w *watcher, id uint64) {
	h.Helper()
	a, err := h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: id})
	if err != nil || !a.GetChange().GetChanged() || len(a.GetChains()) == 0 {
		h.Fatalf("cancel %d: %v, %v", id, a, err)
	}
	if e := w.await("reverted"); e.GetReverted().GetChange().GetId() != id || e.GetReverted().GetExpired() || e.GetCaller().GetPid() != int32(unix.Getpid()) {
		h.Errorf("the watch says %v", e)
	}
	h.unknown(id)
}

// expired waits until the daemon undoes changes, in whichever order.
func (h *host) expired(w *watcher, ids ...uint64) {
	h.Helper()
	for left := slices.Clone(ids); len(left) > 0; {
		e := w.await("reverted")
		i := slices.Index(left, e.GetReverted().GetChange().GetId())
		if i < 0 || !e.GetReverted().GetExpired() || e.GetCaller().GetPid() != int32(h.d.cmd.Process.Pid) {
			h.Fatalf("the watch says %v", e)
		}
		h.unknown(left[i])
		left = slices.Delete(left, i, i+1)
	}
}

// expiredBy waits for a daemon that may have undone a change before anybody could watch, but not before its time.
func (h *host) expiredBy(deadline time.Duration, tr trial) {
	h.Helper()
	w := h.watch("")
	defer w.end()
	claimed, _, _ := strings.Cut(strings.TrimPrefix(tr.claims, "["), "]")
	iface := strings.Fields(claimed)[0]
	a, err := h.client.ListHistory(h.ctx(), &xdpdv1.ListHistoryRequest{Interface: iface})
	if err != nil {
		h.Fatal(err)
	}
	if !strings.HasPrefix(a.GetEntries()[0].GetWhat(), "not confirmed") {
		w.await("reverted")
	}
	_, err = h.client.GetChain(h.ctx(), &xdpdv1.GetChainRequest{Interface: iface}) // after what is still done to it
	if err != nil && client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND {
		h.Fatal(err)
	}
	if now, err := boottime.Now(); err != nil || now < deadline {
		h.Errorf("it was undone %v before its time (%v)", deadline-now, err)
	}
}

func (h *host) chains() []*xdpdv1.Chain {
	h.Helper()
	a, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	return a.GetChains()
}

// unknown looks that a change can neither be confirmed nor cancelled any more.
func (h *host) unknown(id uint64) {
	h.Helper()
	_, err := h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: id})
	_, cerr := h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: id})
	for _, err := range []error{err, cerr} {
		if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_NOT_FOUND || client.Facts(err)["change"] != strconv.FormatUint(id, 10) {
			h.Errorf("of a change that is over: %v %v", err, client.Facts(err))
		}
	}
}

// deadline is when a change is over that is made now, as a time since boot: at the earliest before it is made, and at
// the latest after it.
func (h *host) deadline(d time.Duration) time.Duration {
	h.Helper()
	now, err := boottime.Now()
	if err != nil {
		h.Fatal(err)
	}
	return now + d
}

// waitUntil waits for a time since boot.
func (h *host) waitUntil(deadline time.Duration) {
	h.Helper()
	timer, err := boottime.NewTimer()
	if err != nil {
		h.Fatal(err)
	}
	defer timer.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err = timer.Set(deadline); err == nil {
		err = timer.Wait(ctx)
	}
	if err != nil {
		h.Fatal(err)
	}
}

// TestConfirmed makes each change and confirms it: it stays, also over a kill, and what it replaced is gone.
func TestConfirmed(t *testing.T) {
	h := newTrialHost(t)
	w := h.watch("")
	object := h.object("a")
	for i, tr := range someTrials() {
		before := h.picture(true)
		id := h.try(tr, time.Hour)
		now := strings.ReplaceAll(h.picture(true), fmt.Sprint("pending ", id), "pending 0")
		if now == before {
			t.Errorf("%s changed nothing", tr.name)
		}
		if e := w.await("confirm_pending"); e.GetConfirmPending().GetId() != id {
			t.Errorf("the watch says %v", e)
		}
		a, err := h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: id})
		if err != nil || a.GetChange().GetId() != id {
			t.Fatalf("confirm %d: %v, %v", id, a, err)
		}
		if e := w.await("confirmed"); e.GetConfirmed().GetId() != id {
			t.Errorf("the watch says %v", e)
		}
		h.unknown(id)
		if i%3 == 0 {
			h.d.kill()
			h.start()
			w = h.watch("")
		}
		if after := h.picture(true); after != now {
			t.Errorf("%s, confirmed: there is\n%s\nthere was\n%s", tr.name, after, now)
		}
		h.learn()
		h.Check()
		// Back to the start, by a change that is confirmed before it could be undone.
		back := &xdpdv1.SetChainsRequest{
			Chains:  []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "a", "b"), chainOf(second, "a"), {Interface: third}},
			Options: within(time.Hour), FreshMaps: i%2 == 0,
		}
		for name, function := range map[string]string{"a": "pass", "b": "goon"} {
			back.Programs = append(back.Programs, &xdpdv1.ProgramSpec{
				Name: name, ObjectSha256: object, Function: function, Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT,
			})
		}
		answer, err := h.client.SetChains(h.ctx(), back)
		if err != nil {
			t.Fatal(err)
		}
		if p := answer.GetChange().GetPending(); p != nil {
			if _, err := h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: p.GetId()}); err != nil {
				t.Fatal(err)
			}
			w.await("confirmed")
		}
		h.learn()
		h.Check()
		if t.Failed() {
			return
		}
	}
	h.stop(unix.SIGTERM)
}
