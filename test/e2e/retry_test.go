// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestUndoneAroundAForeignProgram lets the time of a change be up while somebody else's program is on one of its
// interfaces: it is undone on the others, and there when that program is gone.
func TestUndoneAroundAForeignProgram(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
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
		h.expired(w, id)
		h.around(before, detach)
	})
	t.Run("at a start", func(t *testing.T) {
		t.Parallel()
		h := newHost(t, second, third)
		h.start("XDPD_FAILPOINT=" + failpoint.DetachAfter + "=stop")
		h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", second)))
		before := h.picture(true)
		var detach func()
		h.meanwhile(&xdpdv1.RemoveProgramRequest{Name: "a", Options: within(time.Second)}, func() { _, detach = h.foreign(nettest.Dev) })
		h.d.kill()
		h.waitUntil(h.deadline(time.Second))
		h.start()
		h.around(before, detach)
	})
}

// around looks that everything is as before, but on an interface where a foreign program is, and all of it when that is gone.
func (h *host) around(before string, detach func()) {
	h.Helper()
	if after := h.picture(true); after != before {
		h.Errorf("there is\n%s\nthere was\n%s", after, before)
	}
	if c := h.chain(nettest.Dev); c.GetState() != xdpdv1.Chain_STATE_FOREIGN || c.GetPending() != nil {
		h.Errorf("the chain is %v", c)
	}
	if c := h.chain(second); c.GetState() != xdpdv1.Chain_STATE_RUNNING {
		h.Errorf("the other chain is %v", c)
	}
	detach()
	h.well()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestUndoingIsTriedAgain lets the time of a change be up while it cannot be saved that it is undone: the daemon says so, goes
// on with all else, and undoes it when it can.
func TestUndoingIsTriedAgain(t *testing.T) {
	h := newHost(t, second)
	h.start("XDPD_FAILPOINT=" + failpoint.SaveBefore + "=error@3")
	h.do(adding(add("a", "pass", nettest.Dev)))
	before := h.picture(true)
	w := h.watch("")
	r := add("b", "goon", nettest.Dev)
	r.Options = within(time.Second)
	added, err := h.client.AddProgram(h.ctx(), r)
	if err != nil {
		t.Fatal(err)
	}
	id := added.GetChange().GetPending().GetId()
	if e := w.await("degraded"); e.GetDegraded().GetSubject() != fmt.Sprint("change ", id) || !strings.Contains(e.GetDegraded().GetText(), "cannot be undone") {
		t.Errorf("the watch says %v", e)
	}
	if _, err := h.client.AddProgram(h.ctx(), add("free", "goon", second)); err != nil {
		t.Error(err)
	}
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "free"}); err != nil {
		t.Error(err)
	}
	h.expired(w, id)
	h.well()
	if after := h.picture(true); after != before {
		t.Errorf("there is\n%s\nthere was\n%s", after, before)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestUndoneAroundAnIntruder does the same on two interfaces: the other one does not wait.
func TestUndoneAroundAnIntruder(t *testing.T) {
	h := newHost(t, second, third)
	h.start("XDPD_FAILPOINT=" + failpoint.UnpinAfter + "=stop@3")
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	before := h.picture(true)
	w := h.watch("")
	r := add("b", "goon", nettest.Dev, second)
	r.Options = within(time.Second)
	id := h.meanwhile(r, func() { h.intrude(nettest.Dev) })
	h.expired(w, id)
	intruder := h.attached(nettest.Dev)
	h.around(before, func() {
		if now := h.attached(nettest.Dev); now != intruder {
			t.Errorf("program %d is in the place of the intruder", now)
		}
		h.detachLink(nettest.Dev)
	})
}

// TestUndoneWithoutANamespace undoes a change that took the last program off an interface, whose namespace is deleted
// meanwhile: the other interface is as before.
func TestUndoneWithoutANamespace(t *testing.T) {
	h := newHost(t)
	netns := h.beside()
	ref := netns + ":" + eth0
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev, ref)))
	h.Check()
	removed, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "b", Options: within(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	h.raze(netns)
	if _, err := h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: removed.GetChange().GetPending().GetId()}); err != nil {
		t.Errorf("cancel: %v", err)
	}
	if names := h.seated(nettest.Dev); strings.Join(names, " ") != "a b" {
		t.Errorf("there are %v", names)
	}
	if c := h.chain(ref); c.GetState() != xdpdv1.Chain_STATE_WAITING {
		t.Errorf("the chain that has no interface is %v", c)
	}
	h.stop(unix.SIGTERM)
}

// TestUndoingDoesNotWaitForOthers lets the time of two changes be up, and the undoing of the first does not get on: the second
// is undone.
func TestUndoingDoesNotWaitForOthers(t *testing.T) {
	t.Parallel() // it takes 18 s
	h := newHost(t, second)
	env, reached := h.halt(failpoint.StagePinned, 4)
	h.start(env...)
	h.do(adding(add("a", "pass", second)))
	w := h.watch("")
	var ids []uint64
	for i, iface := range []string{second, nettest.Dev} {
		r := add(fmt.Sprint("b", i), "goon", iface)
		r.Options = within(time.Duration(15+3*i) * time.Second) // both are there before the first is up
		added, err := h.client.AddProgram(h.ctx(), r)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, added.GetChange().GetPending().GetId())
	}
	release := reached()
	h.expired(w, ids[1])
	release()
	h.expired(w, ids[0])
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// intrude puts a program of somebody else into the daemon's link of an interface.
func (h *host) intrude(iface string) {
	h.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		h.Fatal(err)
	}
	defer p.Close()
	l, err := link.LoadPinnedLink(h.glob("chains/*-%d/link", h.ns.Index(h, iface))[0], nil)
	if err != nil {
		h.Fatal(err)
	}
	defer l.Close()
	if err := l.Update(p); err != nil {
		h.Fatal(err)
	}
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
	h.follows(nettest.Dev)
	if after := h.picture(true); after != before {
		t.Errorf("there is\n%s\nthere was\n%s", after, before)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
