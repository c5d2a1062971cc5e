// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// dueNow are the leases whose time is up, each taken as ended without success but for gone.
func dueNow(t *testing.T, n *tenures) (ids []uint64, next time.Duration) {
	t.Helper()
	now, next := n.due(t.Context())
	for id := range now {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, next
}

func held(n *tenures, l store.Lease) *Held {
	lost := make(chan error, 1)
	n.take(l, lost)
	return &Held{Token: l.Token, Lease: LeaseView{ID: l.ID}, Lost: lost, lost: lost}
}

func TestTenureAfterStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTenures(30 * time.Second)
		n.await([]store.Lease{{ID: 1}, {ID: 2, Grace: time.Minute}, {ID: 3}})
		if ids, next := dueNow(t, n); len(ids) > 0 || next != 30*time.Second {
			t.Fatalf("at the start %v are due, others in %v", ids, next)
		}
		if v := n.view(store.Lease{ID: 2, Grace: time.Minute}); v.Held || v.Left != time.Minute {
			t.Errorf("after the start: %+v", v)
		}
		h := held(n, store.Lease{ID: 3, Grace: time.Second})
		time.Sleep(30 * time.Second)
		if ids, next := dueNow(t, n); !slices.Equal(ids, []uint64{1}) || next != 30*time.Second {
			t.Errorf("after 30 s %v are due, others in %v", ids, next)
		}
		if why, ok := n.mayEnd(1); !ok || why != notRenewed {
			t.Errorf("lease 1 may end: %v, %s", ok, why)
		}
		if _, ok := n.mayEnd(3); ok {
			t.Error("a lease that is held may end")
		}
		n.letGo(h)
		n.await([]store.Lease{{ID: 1}, {ID: 2}, {ID: 3}}) // as when the task begins anew: nothing new
		if ids, next := dueNow(t, n); len(ids) > 0 || next != time.Second {
			t.Errorf("just let go: %v are due, others in %v", ids, next)
		}
	})
}

// TestTenureOverslept has the daemon stand still for longer than clients have: who waits at its socket since then comes first,
// and who ended a lease is not asked again.
func TestTenureOverslept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTenures(30 * time.Second)
		n.await([]store.Lease{{ID: 1}, {ID: 2}, {ID: 3, Grace: time.Hour}})
		over := held(n, store.Lease{ID: 4})
		n.ended(4, n.endNow(t.Context(), over), false, true)
		n.of[4].retryAt = time.Now().Add(30 * time.Second)
		if _, next := dueNow(t, n); next != 30*time.Second {
			t.Fatalf("the first is due in %v", next)
		}
		time.Sleep(40 * time.Second)
		if ids, next := dueNow(t, n); !slices.Equal(ids, []uint64{4}) || next != 3*time.Second {
			t.Errorf("after it stood still %v are due, others in %v", ids, next)
		}
		held(n, store.Lease{ID: 2})
		time.Sleep(4 * time.Second) // a second late is a busy host
		if ids, next := dueNow(t, n); !slices.Equal(ids, []uint64{1}) || next != time.Hour-44*time.Second {
			t.Errorf("when clients had their time %v are due, others in %v", ids, next)
		}
	})
}

func TestTenureTakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTenures(0)
		l := store.Lease{ID: 1, Holder: Caller{UID: 7, PID: 8}}
		first := held(n, l)
		second := held(n, l)
		err := <-first.Lost
		var taken *chain.Error
		if !errors.As(err, &taken) || taken.Reason != chain.LeaseTaken || taken.Facts["uid"] != "7" || taken.Facts["pid"] != "8" {
			t.Errorf("the first one hears %v", err)
		}
		// What the first one does is nothing to the lease.
		if _, had := n.letGo(first); had || n.has(1, first) || n.endNow(t.Context(), first) != nil {
			t.Error("who lost a lease has it")
		}
		if ids, next := dueNow(t, n); len(ids) > 0 || next >= 0 || !n.has(1, second) {
			t.Errorf("of a lease that is held %v, in %v", ids, next)
		}
		if grace, had := n.letGo(second); !had || grace != 0 {
			t.Errorf("let go: %v, %v", grace, had)
		}
		if _, had := n.letGo(second); had {
			t.Error("it can be let go twice")
		}
		if n.has(1, &Held{Lease: LeaseView{ID: 1}}) {
			t.Error("nobody has the lease, and one who never had any does")
		}
	})
}

// TestTenureClaim claims a lease while it is being ended: that attempt is told to give up, and no other begins.
func TestTenureClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTenures(0)
		l := store.Lease{ID: 1}
		n.letGo(held(n, l))
		now, _ := n.due(t.Context())
		attempt := now[1]
		if attempt == nil {
			t.Fatal("it is not due")
		}
		if ids, _ := dueNow(t, n); len(ids) > 0 {
			t.Error("it is ended twice at the same time")
		}
		unclaim := n.claim(l)
		if attempt.ctx.Err() == nil {
			t.Error("the attempt goes on")
		}
		if n.ended(1, attempt, false, true) {
			t.Error("an attempt that gave up counts as failed")
		}
		if ids, next := dueNow(t, n); len(ids) > 0 || next >= 0 {
			t.Errorf("a lease that is claimed: %v, in %v", ids, next)
		}
		unclaim() // whoever claimed it did not take it
		if ids, _ := dueNow(t, n); !slices.Equal(ids, []uint64{1}) {
			t.Errorf("a lease that was not taken in the end: %v", ids)
		}
		// One whose end is decided is not there any more.
		if n.ended(1, n.of[1].ending, true, false); len(n.of) > 0 {
			t.Error("the tenure of a lease that ended is kept")
		}
	})
}

// TestTenureAttempts has a client release a lease while an earlier attempt to end it has not given up yet: what comes of that
// one has no say, whichever of them is the first.
func TestTenureAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, goneFirst := range []bool{false, true} {
			n := newTenures(0)
			l := store.Lease{ID: 1}
			n.letGo(held(n, l))
			now, _ := n.due(t.Context())
			early := now[1]
			unclaim := n.claim(l)
			h := held(n, l)
			unclaim()
			late := n.endNow(t.Context(), h)
			if late == nil {
				t.Fatal("the client cannot release its lease")
			}
			if goneFirst {
				n.ended(1, late, true, false)
			}
			if n.ended(1, early, false, false) || late.ctx.Err() != nil != goneFirst {
				t.Error("an attempt that gave up ends another one")
			}
			if ids, _ := dueNow(t, n); len(ids) > 0 {
				t.Errorf("it is ended twice at the same time: %v", ids)
			}
			n.ended(1, late, true, false)
			if len(n.of) > 0 {
				t.Error("the tenure is kept")
			}
		}
	})
}

func TestTenureRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newTenures(0)
		l := store.Lease{ID: 1, Grace: time.Hour}
		h := held(n, l)
		attempt := n.endNow(t.Context(), h)
		if attempt == nil || !n.over(1) {
			t.Fatal("the client cannot end its lease")
		}
		n.claim(l)() // nobody can have it any more
		if attempt.ctx.Err() != nil {
			t.Error("the attempt is told to give up")
		}
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			if !n.ended(1, n.of[1].ending, false, true) {
				t.Fatal("it is not tried again")
			}
			ids, next := dueNow(t, n)
			if len(ids) > 0 || next != wait*time.Second {
				t.Errorf("%v is due, others in %v, want %v s", ids, next, wait)
			}
			if v := n.view(l); v.Left != 0 || v.Held {
				t.Errorf("a lease that is over: %+v", v)
			}
			time.Sleep(next)
			if ids, _ := dueNow(t, n); len(ids) != 1 {
				t.Error("it is not tried again in time")
			}
		}
		n.ended(1, n.of[1].ending, false, true)
		n.retry()
		if ids, _ := dueNow(t, n); len(ids) != 1 {
			t.Error("it is not tried at once when what was in the way may be gone")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if n.ended(1, n.of[1].ending, false, false) {
			t.Error("an attempt that was cut off counts as failed")
		}
		if now, _ := n.due(ctx); now[1] == nil || now[1].ctx.Err() == nil {
			t.Error("an attempt does not end with the context")
		}
	})
}

func TestWithout(t *testing.T) {
	c := chain.Chain{Mode: chain.Auto, Members: []chain.Member{{Program: "a"}, {Program: "b"}, {Program: "c"}}}
	got := without(c, []store.Program{{Name: "a"}, {Name: "c"}, {Name: "x"}})
	if len(got.Members) != 1 || got.Members[0].Program != "b" || len(c.Members) != 3 || c.Members[0].Program != "a" {
		t.Errorf("%v without a and c is %v", c, got)
	}
}
