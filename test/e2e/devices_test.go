// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// addAt adds a pair whose first end has that index.
func (h *host) addAt(index int, dev, peer string) {
	h.Helper()
	const passing = "xpassing0" // until it is up
	var err error
	nettest.RunIn(h.ns, func() {
		pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: passing, Index: index}, PeerName: peer}
		other := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: peer}}
		err = errors.Join(netlink.LinkAdd(pair), netlink.LinkSetUp(other))
	})
	if err != nil {
		h.Fatal(err)
	}
	h.ns.Rename(h, passing, dev)
	h.plug(dev, peer)
}

// rename gives an interface another name, and tells the host of it.
func (h *host) rename(from, to string) {
	h.Helper()
	h.ns.Rename(h, from, to)
	h.wires[to] = h.wires[from]
	delete(h.wires, from)
}

// TestRenamedDuringAChange renames an interface while its last program is removed: a chain that it gets under its new
// name is not taken off by that.
func TestRenamedDuringAChange(t *testing.T) {
	h := newHost(t, second)
	h.start("XDPD_FAILPOINT=" + failpoint.SaveAfter + "=stop@3")
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
	done := make(chan error, 1)
	go func() {
		_, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{second}})
		done <- err
	}()
	h.eventually("the daemon stands still", func() bool { return h.state() == "T" })
	h.rename(second, "xother0")
	added := make(chan error, 1)
	go func() {
		_, err := h.client.AddProgram(h.ctx(), add("b", "goon", "xother0"))
		added <- err
	}()
	h.d.signal(unix.SIGCONT)
	for _, err := range []error{<-done, <-added} {
		if err != nil {
			t.Error(err)
		}
	}
	if h.attached("xother0") == 0 {
		t.Error("what was added is not there")
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestKilledWhileUndoing kills a daemon that undoes a change on an interface of another name by now: the next one goes on
// with that.
func TestKilledWhileUndoing(t *testing.T) {
	h := newHost(t)
	h.start("XDPD_FAILPOINT=" + failpoint.SaveAfter + "=kill@3")
	h.do(adding(add("a", "pass", nettest.Dev)))
	r := add("b", "drop", nettest.Dev)
	r.Options = within(time.Hour)
	added, err := h.client.AddProgram(h.ctx(), r)
	if err != nil {
		t.Fatal(err)
	}
	h.ns.Rename(t, nettest.Dev, "xother0")
	if _, err := h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: added.GetChange().GetPending().GetId()}); err == nil {
		t.Error("the daemon was to be killed")
	}
	h.d.killed()
	h.start()
	h.ns.Rename(t, "xother0", nettest.Dev)
	h.follows(nettest.Dev)
	if members := h.chain(nettest.Dev).GetMembers(); len(members) != 1 {
		t.Errorf("there are %v, want one", members)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestKilledWhileLettingGo kills a daemon while it lets go of an interface that was deleted, and starts it with the
// interface still away, or there again: its chain waits for it with its counts, and nothing is left of the old one.
func TestKilledWhileLettingGo(t *testing.T) {
	for _, point := range []string{failpoint.DetachBefore, failpoint.DetachAfter} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, back %v", point, back), func(t *testing.T) {
				h := newHost(t, second)
				h.start()
				h.do(adding(add("a", "pass", nettest.Dev, second)))
				h.Check()
				index := h.ns.Index(t, second)
				h.d.kill()
				d := h.start("XDPD_FAILPOINT=" + point + "=kill")
				h.unplug(second)
				d.killed()
				if back {
					h.addAt(index, second, second+"p")
				}
				h.start()
				if !back {
					if pins := h.glob("chains/*-%d", index); len(pins) > 0 {
						t.Errorf("pins are left: %v", pins)
					}
					h.addAt(index, second, second+"p")
					h.do(updating(&xdpdv1.MemberUpdate{Program: "a", Interface: second, Priority: ptr(int32(9))}))
				}
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}

// TestUndoingWaitsForNothing undoes changes of one interface while another one, that the change only claimed or whose
// name another chain's interface has by now, cannot be linked.
func TestUndoingWaitsForNothing(t *testing.T) {
	t.Run("a claimed interface with a foreign program", func(t *testing.T) {
		h := newHost(t, second)
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", second)))
		lifetime := func(chains ...*xdpdv1.ChainSpec) uint64 {
			answer, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
				Programs: []*xdpdv1.ProgramSpec{{Name: "a", Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT}}, Chains: chains,
				Options: within(time.Hour),
			})
			if err != nil {
				t.Fatal(err)
			}
			return answer.GetChange().GetPending().GetId()
		}
		id := lifetime(chainOf(nettest.Dev))
		var detach func()
		h.meanwhileStopped(func() {
			h.renew(second, second+"p")
			_, detach = h.foreign(second)
		})
		w := h.watch("")
		h.cancelled(w, id)
		if h.attached(nettest.Dev) == 0 {
			t.Error("the chain is not back")
		}
		h.cancelled(w, lifetime(chainOf(nettest.Dev, "a"))) // what it only claims may be as it will
		detach()
		h.well()
		h.Check()
		h.stop(unix.SIGTERM)
	})
	t.Run("a name that another interface has", func(t *testing.T) {
		h := newHost(t, second, third)
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("c", "goon", third)))
		r := add("b", "drop", nettest.Dev, second)
		r.Options = within(time.Hour)
		added, err := h.client.AddProgram(h.ctx(), r)
		if err != nil {
			t.Fatal(err)
		}
		h.unplug(second)
		h.ns.Rename(t, third, second) // whose chain cannot have that name
		h.cancelled(h.watch(""), added.GetChange().GetPending().GetId())
		if members := h.chain(nettest.Dev).GetMembers(); len(members) != 1 {
			t.Errorf("there are %v, want one", members)
		}
		if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a"}); err != nil {
			t.Error(err)
		}
		h.ns.Rename(t, second, third)
		h.follows(third)
		h.Check()
		h.stop(unix.SIGTERM)
	})
}

// TestIndexesMoved gives interfaces the indexes of others with chains, in all orders, with and without a daemon that sees
// it: each chain comes to run on the interface of its name.
func TestIndexesMoved(t *testing.T) {
	h := newHost(t, second, third)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second, third)))
	h.Check()
	two, three := h.ns.Index(t, second), h.ns.Index(t, third)

	h.unplug(second)
	h.addAt(two, "xnew0", "xnew0p")
	h.do(adding(add("b", "goon", "xnew0")))
	h.do(removing("b"))
	h.unplug("xnew0")

	h.d.kill()
	h.unplug(third)
	h.addAt(three, second, second+"p")
	h.start()
	if h.attached(second) == 0 {
		t.Errorf("%s has the index of %s, and does not run its chain", second, third)
	}

	h.d.kill()
	h.unplug(second)
	h.addAt(two, third, third+"p")
	h.addAt(three, second, second+"p")
	h.start()
	h.learn()
	h.Check()

	h.d.kill()
	h.unplug(second)
	h.unplug(third)
	h.addAt(three, third, third+"p")
	h.addAt(two, second, second+"p")
	h.start()
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil || len(status.GetProblems()) > 0 {
		t.Errorf("%v %v", status.GetProblems(), err)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
