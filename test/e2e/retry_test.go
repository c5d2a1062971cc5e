// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestUndoingIsTriedAgain lets the time of a change be up while it cannot be undone: the daemon says so, goes on with
// all else, and undoes it when it can.
func TestUndoingIsTriedAgain(t *testing.T) {
	t.Run("a foreign program", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, second, third)
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev, second)))
		before := h.picture(true)
		w := h.watch("")
		removed, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
			Chains: []*xdpdv1.ChainSpec{chainSpec(nettest.Dev), chainSpec(second)}, Options: within(2 * time.Second),
		})
		if err != nil {
			t.Fatal(err)
		}
		_, detach := h.foreign(nettest.Dev)
		h.triedAgain(w, removed.GetChange().GetPending().GetId(), detach)
		if after := h.picture(true); after != before {
			t.Errorf("there is\n%s\nthere was\n%s", after, before)
		}
		h.learn()
		h.Check()
		h.stop(unix.SIGTERM)
	})
	t.Run("another name", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, second, third)
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev)))
		before := h.picture(true)
		w := h.watch("")
		r := add("b", "goon", nettest.Dev)
		r.Options = within(2 * time.Second)
		added, err := h.client.AddProgram(h.ctx(), r)
		if err != nil {
			t.Fatal(err)
		}
		h.ns.Rename(t, nettest.Dev, "other0")
		h.triedAgain(w, added.GetChange().GetPending().GetId(), func() { h.ns.Rename(t, "other0", nettest.Dev) })
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
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", second)))
		before := h.picture(true)
		removed, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Options: within(time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		h.d.kill()
		_, detach := h.foreign(nettest.Dev)
		h.waitUntil(h.deadline(time.Second))
		h.start()
		w := h.watch("")
		h.stuck()
		h.triedAgain(w, removed.GetChange().GetPending().GetId(), detach)
		if after := h.picture(true); after != before {
			t.Errorf("there is\n%s\nthere was\n%s", after, before)
		}
		h.learn()
		h.Check()
		h.stop(unix.SIGTERM)
	})
}

// stuck waits until the status says that a change cannot be undone.
func (h *host) stuck() {
	h.Helper()
	h.eventually("the status says that a change cannot be undone", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		if err != nil {
			h.Fatal(err)
		}
		return strings.Contains(strings.Join(s.GetProblems(), "\n"), "cannot be undone")
	})
}

// triedAgain waits until a change cannot be undone, sees that other changes can be made, mends what is in the way and
// waits until it is undone.
func (h *host) triedAgain(w *watcher, id uint64, mend func()) {
	h.Helper()
	h.stuck()
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
