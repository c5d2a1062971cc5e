// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestUndoingIsTriedAgain lets the time of a change be up while it cannot be undone: the daemon says so, goes on with
// all else, and undoes it when it can.
func TestUndoingIsTriedAgain(t *testing.T) {
	t.Run("a foreign program", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, second, third)
		h.start("XDPD_FAILPOINT=" + failpoint.DetachAfter + "=stop@2")
		h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev, second)))
		before := h.picture(true)
		w := h.watch("")
		var detach func()
		id := h.meanwhile(&xdpdv1.SetChainsRequest{
			Chains: []*xdpdv1.ChainSpec{chainOf(nettest.Dev), chainOf(second)}, Options: within(time.Second),
		}, func() { _, detach = h.foreign(nettest.Dev) })
		h.triedAgain(w, id, detach)
		if after := h.picture(true); after != before {
			t.Errorf("there is\n%s\nthere was\n%s", after, before)
		}
		h.learn()
		h.Check()
		h.stop(unix.SIGTERM)
	})
	t.Run("a foreign program at a start", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, second, third)
		h.start("XDPD_FAILPOINT=" + failpoint.DetachAfter + "=stop")
		h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", second)))
		before := h.picture(true)
		var detach func()
		id := h.meanwhile(&xdpdv1.RemoveProgramRequest{Name: "a", Options: within(time.Second)}, func() { _, detach = h.foreign(nettest.Dev) })
		h.d.kill()
		h.waitUntil(h.deadline(time.Second))
		h.start()
		w := h.watch("")
		h.triedAgain(w, id, detach)
		if after := h.picture(true); after != before {
			t.Errorf("there is\n%s\nthere was\n%s", after, before)
		}
		h.learn()
		h.Check()
		h.stop(unix.SIGTERM)
	})
}

// TestUndoneUnderAnotherName renames an interface on which a change waits to be confirmed: it is undone there.
func TestUndoneUnderAnotherName(t *testing.T) {
	h := newHost(t)
	h.start("XDPD_FAILPOINT=" + failpoint.UnpinAfter + "=stop@2")
	h.do(adding(add("a", "pass", nettest.Dev)))
	before := h.picture(true)
	w := h.watch("")
	r := add("b", "goon", nettest.Dev)
	r.Options = within(time.Second)
	id := h.meanwhile(r, func() { h.ns.Rename(t, nettest.Dev, "other0") })
	h.expired(w, id)
	h.ns.Rename(t, "other0", nettest.Dev)
	if after := h.picture(true); after != before {
		t.Errorf("there is\n%s\nthere was\n%s", after, before)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// triedAgain waits until a change cannot be undone, sees that other changes can be made, mends what is in the way and
// waits until it is undone.
func (h *host) triedAgain(w *watcher, id uint64, mend func()) {
	h.Helper()
	h.eventually("the status says that a change cannot be undone", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		if err != nil {
			h.Fatal(err)
		}
		return strings.Contains(strings.Join(s.GetProblems(), "\n"), "cannot be undone")
	})
	if _, err := h.client.AddProgram(h.ctx(), add("free", "goon", third)); err != nil {
		h.Error(err)
	}
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "free"}); err != nil {
		h.Error(err)
	}
	mend()
	h.expired(w, id)
	h.eventually("nothing is wrong", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		return err == nil && len(s.GetProblems()) == 0
	})
}
