// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestComesBack deletes an interface with a chain and makes one of that name: the chain runs on it, without anybody asking
// for it. Meanwhile it waits, and says so.
func TestComesBack(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", second)))
	h.Check()
	w := h.watch("")
	for range 3 {
		h.unplug(second)
		w.await("interface_gone")
		h.eventually("the chain waits", func() bool {
			c := h.chain(second)
			return c.GetState() == xdpdv1.Chain_STATE_WAITING && c.GetIfindex() == 0 && len(c.GetMembers()) == 2
		})
		h.eventually("nothing of it is pinned", func() bool { return len(h.glob("chains/*")) == 1 })
		h.ns.AddPair(t, second, second+"p")
		h.plug(second, second+"p")
		w.await("interface_up")
		h.well()
		if c := h.chain(second); c.GetState() != xdpdv1.Chain_STATE_RUNNING {
			t.Errorf("the chain is %v", c)
		}
		h.Check()
	}
	h.stop(unix.SIGTERM)
}

// TestFollowsNames renames interfaces with chains, also in a circle, and with a change that waits to be confirmed: the chains
// follow, with their counts and their history, and packets do not notice.
func TestFollowsNames(t *testing.T) {
	h := newHost(t, second, third)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second, third)), adding(add("b", "goon", second)), adding(add("c", "drop", third)))
	h.Check()
	w := h.watch("")
	ids := func(ifaces ...string) (ids []uint32) {
		for _, iface := range ifaces {
			ids = append(ids, h.chain(iface).GetKernelId())
		}
		return ids
	}
	before := ids(second, third)
	entries := len(h.history(second))
	h.rename(second, "xother0")
	if e := w.await("interface_renamed"); e.GetInterface() != "xother0" || e.GetInterfaceRenamed().GetFrom() != second {
		t.Errorf("told of %v", e)
	}
	h.well()
	if c := h.chain("xother0"); c.GetRenamedFrom() != second || c.GetState() != xdpdv1.Chain_STATE_RUNNING {
		t.Errorf("the chain is %v", c)
	}
	if n := len(h.history("xother0")); n != entries {
		t.Errorf("the history has %d entries, want %d", n, entries)
	}
	h.Check()

	r := add("d", "goon", "xother0")
	r.Options = within(time.Hour)
	added, err := h.client.AddProgram(h.ctx(), r)
	if err != nil {
		t.Fatal(err)
	}
	h.meanwhileStopped(func() { // so that all three are seen together
		h.rename("xother0", "xtmp0")
		h.rename(third, "xother0")
		h.rename("xtmp0", third)
	})
	w.await("interface_renamed")
	w.await("interface_renamed")
	h.well()
	if got := []uint32{0, ids("xother0")[0]}; !slices.Equal(got, []uint32{0, before[1]}) {
		t.Errorf("program %d runs on the interface that was %s, want %d", got[1], third, before[1])
	}
	if pending := h.chain(third).GetPending(); pending.GetId() != added.GetChange().GetPending().GetId() || !slices.Contains(pending.GetInterfaces(), third) {
		t.Errorf("pending there: %v", pending)
	}
	h.cancelled(w, added.GetChange().GetPending().GetId())
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestFollowsNamesAtStart renames interfaces while no daemon runs.
func TestFollowsNamesAtStart(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(persistent(add("a", "pass", nettest.Dev))), adding(add("b", "goon", second)))
	h.Check()
	h.d.kill()
	h.rename(nettest.Dev, "xtmp0")
	h.rename(second, nettest.Dev)
	h.rename("xtmp0", second)
	h.start()
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil || len(status.GetProblems()) > 0 {
		t.Errorf("%v %v", status, err)
	}
	h.learn()
	for iface, program := range map[string]string{second: "a", nettest.Dev: "b"} {
		if m := h.chain(iface).GetMembers(); len(m) != 1 || m[0].GetProgram() != program {
			t.Errorf("%s has %v, want %s", iface, m, program)
		}
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestNameTaken renames an interface to a name for which another chain waits: both stay as they are, and the status tells.
// When one of them goes, the other one has the name.
func TestNameTaken(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", second)))
	h.Check()
	id := h.attached(nettest.Dev)
	h.unplug(second)
	h.eventually("the chain waits", func() bool { return h.chain(second).GetState() == xdpdv1.Chain_STATE_WAITING })
	h.rename(nettest.Dev, second)
	h.eventually("both are told", func() bool {
		return h.chain(nettest.Dev).GetState() == xdpdv1.Chain_STATE_DEGRADED && h.chain(second).GetState() != xdpdv1.Chain_STATE_RUNNING
	})
	if now := h.attached(second); now != id {
		t.Errorf("program %d runs, want %d", now, id)
	}
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "b"}); err != nil {
		t.Error(err)
	}
	h.eventually("the chain follows", func() bool {
		chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
		return err == nil && len(chains.GetChains()) == 1 && chains.GetChains()[0].GetInterface() == second
	})
	h.well()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestPatterns places a program by a pattern: on what matches now and what comes later. What it is taken from by name stays
// without it, and the program lives while it has a pattern.
func TestPatterns(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("z", "goon", second)))
	r := add("a", "pass", "xdev*")
	r.Position = first
	if _, err := h.client.AddProgram(h.ctx(), r); err != nil {
		t.Fatal(err)
	}
	h.learn()
	h.Check()
	has := func(iface string) bool {
		chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range chains.GetChains() {
			if c.GetInterface() == iface {
				return len(c.GetMembers()) > 0 && c.GetMembers()[0].GetProgram() == "a" && c.GetState() == xdpdv1.Chain_STATE_RUNNING
			}
		}
		return false
	}
	if !has(second) || len(h.chain(second).GetMembers()) != 2 {
		t.Errorf("the chain of %s is %v", second, h.chain(second))
	}
	for i := range 3 {
		dev := fmt.Sprint("xdev", 10+i)
		h.ns.AddPair(t, dev, fmt.Sprint("xp", i))
		h.plug(dev, fmt.Sprint("xp", i))
		h.eventually("the program is on "+dev, func() bool { return has(dev) })
	}
	h.well()
	h.Check()
	for _, dev := range []string{"xdev10", second} {
		if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{dev}}); err != nil {
			t.Fatal(err)
		}
	}
	h.unplug("xdev11") // goes with its chain: nobody ordered it otherwise
	h.eventually("the chain is gone with its interface", func() bool { return !slices.Contains(h.chained(), "xdev11") })
	h.renew(second, second+"p")
	h.renew("xdev10", "xp0")
	h.renew("xdev12", "xp2")
	h.eventually("the program is on xdev12 again", func() bool { return has("xdev12") })
	h.eventually("the program is on the new peer, which matches too", func() bool { return has(second + "p") })
	h.well()
	if has(second) || slices.Contains(h.chained(), "xdev10") {
		t.Error("the program came back where it was taken from")
	}
	h.Check()
	h.d.kill()
	h.ns.AddPair(t, "xdev13", "xp3")
	h.plug("xdev13", "xp3")
	h.start()
	h.eventually("the program is on what came while no daemon ran", func() bool { return has("xdev13") })
	h.well()
	h.Check()
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_PATTERN_NOT_FOUND, removing("a", "eth*"))
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{"xdev*"}}); err != nil {
		t.Fatal(err)
	}
	h.learn()
	h.Check()
	if got := h.chained(); !slices.Equal(got, []string{second}) {
		t.Errorf("chains of %v, want only %s", got, second)
	}
	if _, err := h.client.AddProgram(h.ctx(), add("p", "pass", "nothing*")); err != nil {
		t.Error(err)
	}
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "p"}); err != nil {
		t.Error(err)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// follows waits until a chain has this name, and all is well.
func (h *host) follows(iface string) {
	h.Helper()
	h.eventually("the chain follows its interface", func() bool { return slices.Contains(h.chained(), iface) })
	h.well()
}

// chained are those with a chain.
func (h *host) chained() (names []string) {
	h.Helper()
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, c := range chains.GetChains() {
		names = append(names, c.GetInterface())
	}
	return names
}
