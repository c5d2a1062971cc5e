// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// Why leases end, in the words of the history and of events.
const (
	clientGone   = "its client went"
	notRenewed   = "nobody held it again after the start of the daemon"
	clientEndsIt = "released"
)

// tenures say who holds which lease, and until when those last that nobody holds. They do not outlive the daemon: the next
// one gives clients some time to come back. Times are Go's, which do not go on while the host sleeps: clients sleep too.
type tenures struct {
	renewal time.Duration // how long a lease lasts after a start, at least
	wake    chan struct{} // has a value when the next end may be earlier than it was

	mu      sync.Mutex // protects those below
	of      map[uint64]*tenure
	planned time.Time // when due is to be asked again, at the latest; zero: nothing is planned
}

// A daemon that was stopped, or had no processor, for longer than lateness finds clients waiting at its socket, whom it has not
// heard. They have so long to hold their leases.
const (
	lateness = time.Second
	catchUp  = 3 * time.Second
)

// tenure is what becomes of one lease.
type tenure struct {
	holder  chan error // of who holds it; nil: nobody
	grace   time.Duration
	until   time.Time     // where nobody holds it: when it ends
	why     string        // it ends then
	over    bool          // it was released: nobody can hold it again
	takers  int           // that are about to hold it: it is not ended meanwhile
	ending  *attempt      // to end it; nil: there is none
	retryAt time.Time     // the next attempt after one that failed
	wait    time.Duration // before it; 0: none failed
}

// attempt is one to end a lease.
type attempt struct {
	ctx    context.Context //nolint:containedctx // each attempt has one of its own, which makes it give up
	cancel context.CancelFunc
}

func newAttempt(ctx context.Context) *attempt {
	ctx, cancel := context.WithCancel(ctx)
	return &attempt{ctx, cancel}
}

func newTenures(renewal time.Duration) *tenures {
	return &tenures{renewal: renewal, wake: make(chan struct{}, 1), of: map[uint64]*tenure{}}
}

// get is a lease's tenure; that of one which the daemon found in the store is that its client is awaited. mu is locked.
func (t *tenures) get(l store.Lease) *tenure {
	n := t.of[l.ID]
	if n == nil {
		n = &tenure{grace: l.Grace, until: time.Now().Add(max(l.Grace, t.renewal)), why: notRenewed}
		t.of[l.ID] = n
	}
	return n
}

// await begins the time in which clients can hold the leases again that they had before the daemon started.
func (t *tenures) await(leases []store.Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range leases {
		t.get(l)
	}
}

// claim keeps a lease from being ended until the function that it returns is called. An attempt to end it that is under way
// gives up, unless that is decided.
func (t *tenures) claim(l store.Lease) (unclaim func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.get(l)
	n.takers++
	if n.ending != nil && !n.over {
		n.ending.cancel()
	}
	return func() {
		t.mu.Lock()
		n.takers--
		t.mu.Unlock()
		t.hurry()
	}
}

// take makes somebody the holder of a lease, and tells the former one.
func (t *tenures) take(l store.Lease, by chan error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.get(l)
	if n.holder != nil {
		n.holder <- chain.Errorf(chain.LeaseTaken, chain.Facts{
			"uid": strconv.FormatUint(uint64(l.Holder.UID), 10), "pid": strconv.FormatInt(int64(l.Holder.PID), 10),
		}, "lease %d was taken over by another client (uid %d, pid %d), which has its programs now", l.ID, l.Holder.UID, l.Holder.PID)
	}
	n.holder, n.grace, n.wait, n.retryAt = by, l.Grace, 0, time.Time{}
}

// letGo notes that a client went, unless it had lost the lease already.
func (t *tenures) letGo(h *Held) (grace time.Duration, had bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.of[h.Lease.ID]
	if n == nil || n.holder == nil || n.holder != h.lost {
		return 0, false
	}
	n.holder, n.until, n.why = nil, time.Now().Add(n.grace), clientGone
	t.hurry()
	return n.grace, true
}

// endNow notes that its client ends a lease, and returns the attempt to do so; nil: it had lost the lease. One that gives up
// already has no say any more.
func (t *tenures) endNow(ctx context.Context, h *Held) *attempt {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.of[h.Lease.ID]
	if n == nil || n.holder == nil || n.holder != h.lost {
		return nil
	}
	n.holder, n.until, n.why, n.over = nil, time.Now(), clientEndsIt, true
	n.ending = newAttempt(ctx)
	return n.ending
}

// due are the leases whose time is up, each with an attempt to end it, and how long it takes until others are, when it is to be
// asked again; negative: there are no others. If it is asked too late, clients have some time more.
func (t *tenures) due(ctx context.Context) (now map[uint64]*attempt, next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wakeUp()
	now, next = map[uint64]*attempt{}, -1
	for id, n := range t.of {
		if n.holder != nil || n.takers > 0 || n.ending != nil {
			continue
		}
		at := n.until
		if n.retryAt.After(at) {
			at = n.retryAt
		}
		left := time.Until(at)
		switch {
		case left <= 0:
			n.ending = newAttempt(ctx)
			now[id] = n.ending
		case next < 0 || left < next:
			next = left
		}
	}
	if next >= 0 {
		t.planned = time.Now().Add(next)
	}
	return now, next
}

// wakeUp gives the clients of leases that nobody holds the time of catchUp, if it is much later than planned. mu is locked.
func (t *tenures) wakeUp() {
	planned := t.planned
	t.planned = time.Time{}
	if planned.IsZero() || time.Since(planned) <= lateness {
		return
	}
	least := time.Now().Add(catchUp)
	for _, n := range t.of {
		if n.holder == nil && !n.over && n.until.Before(least) {
			n.until = least
		}
	}
}

// ended takes in what came of an attempt to end a lease. again: it failed, and is to be repeated after some time.
func (t *tenures) ended(id uint64, a *attempt, gone, failed bool) (again bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.cancel()
	n := t.of[id]
	if n == nil {
		return false // another attempt ended it
	}
	current := n.ending == a
	if current {
		n.ending = nil
	}
	switch {
	case gone:
		delete(t.of, id)
	case current && n.holder == nil && n.takers == 0 && failed:
		n.wait = min(max(2*n.wait, firstRetry), lastRetry)
		n.retryAt = time.Now().Add(n.wait)
		again = true
	}
	t.hurry()
	return again
}

// known tells whether a lease has not ended.
func (t *tenures) known(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[id] != nil
}

// retry makes what failed be tried again at once.
func (t *tenures) retry() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.of {
		n.wait, n.retryAt = 0, time.Time{}
	}
	t.hurry()
}

// hurry makes the task look anew what is due.
func (t *tenures) hurry() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// mayEnd tells whether the time of a lease is up, and why.
func (t *tenures) mayEnd(id uint64) (why string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.of[id]
	if n == nil || n.holder != nil {
		return "", false
	}
	return n.why, true
}

// over tells whether nobody can hold a lease again.
func (t *tenures) over(id uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[id] != nil && t.of[id].over
}

// has tells whether a client has a lease.
func (t *tenures) has(id uint64, h *Held) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.of[id] != nil && h.lost != nil && t.of[id].holder == h.lost
}

func (t *tenures) setGrace(l store.Lease) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.get(l).grace = l.Grace
}

// view is a lease without its programs.
func (t *tenures) view(l store.Lease) LeaseView {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := LeaseView{ID: l.ID, Holder: l.Holder, Grace: l.Grace}
	n := t.get(l)
	if v.Held = n.holder != nil; !v.Held {
		v.Left = max(time.Until(n.until), 0)
	}
	return v
}
