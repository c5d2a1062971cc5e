// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// renew deletes an interface and makes one of that name anew.
func (h *host) renew(dev, peer string) {
	h.Helper()
	h.unplug(dev)
	h.ns.AddPair(h, dev, peer)
	h.plug(dev, peer)
}

// TestRemoveWhereNothingRuns removes the last program of a chain that does not run, from an interface on which somebody
// else has a program: that one stays.
func TestRemoveWhereNothingRuns(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
	h.Check()
	var foreign uint32
	var detach func()
	h.meanwhileStopped(func() {
		h.renew(second, second+"p")
		foreign, detach = h.foreign(second)
	})
	h.do(removing("a"))
	if now := h.attached(second); now != foreign {
		t.Errorf("program %d is on %s, want the foreign one, %d", now, second, foreign)
	}
	detach()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestApplyWhereNothingRuns sets the chain that an interface has, and does not run, since the daemon waits before it repairs
// it once more: it runs again. The revision that is shown is the one that a change expects.
func TestApplyWhereNothingRuns(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", second)))
	h.Check()
	for range 3 {
		h.detachLink(second)
		h.eventually("the chain is attached again", func() bool { return h.attached(second) != 0 })
		h.well() // and pinned
	}
	set := func(dry bool) (*xdpdv1.Change, error) {
		answer, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
			Chains:  []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "a"), chainOf(second, "a", "b")},
			Options: &xdpdv1.ChangeOptions{DryRun: dry, ExpectedRevisions: map[string]uint64{second: h.chain(second).GetRevision()}},
		})
		return answer.GetChange(), err
	}
	entries := len(h.history(second))
	// attempt says what is not as it has to be, which may be because the daemon was quicker.
	attempt := func() string {
		before := h.chain(second)
		h.detachLink(second)
		if now := h.chain(second); now.GetRevision() != before.GetRevision() || now.GetKernelId() != 0 {
			return fmt.Sprintf("revision %d, kernel id %d; want revision %d, and none", now.GetRevision(), now.GetKernelId(), before.GetRevision())
		}
		if did, err := set(true); err != nil || !did.GetChanged() || h.attached(second) != 0 {
			return fmt.Sprintf("the dry run says %v, %v, and program %d runs", did, err, h.attached(second))
		}
		did, err := set(false)
		if err != nil || !did.GetChanged() {
			return fmt.Sprintf("the answer is %v, %v", did, err)
		}
		if h.attached(second) == 0 {
			t.Error("the chain was changed, and does not run")
		}
		return ""
	}
	why := attempt()
	for tries := 1; why != "" && tries < 8; tries++ {
		t.Log(why)
		h.eventually("the chain is attached again", func() bool { return h.attached(second) != 0 })
		h.well()
		why = attempt()
	}
	if why != "" {
		t.Fatal(why)
	}
	if did, err := set(false); err != nil || did.GetChanged() {
		t.Errorf("the second answer is %v, %v", did, err)
	}
	if n := len(h.history(second)); n != entries {
		t.Errorf("the history has %d entries, not %d: the chain is as it was", n, entries)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestIndexUsedAgain gives another interface the index of one with a chain that is gone: it can have a chain of its
// own, and so can the other when it is back.
func TestIndexUsedAgain(t *testing.T) {
	const newcomer = "xnew0"
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	h.Check()
	w := h.watch("")
	index := h.ns.Index(t, second)
	h.unplug(second)
	w.await("interface_gone")
	h.addAt(index, newcomer, newcomer+"p")
	h.do(adding(add("b", "goon", newcomer)))
	h.ns.AddPair(t, second, second+"p")
	h.plug(second, second+"p")
	h.well()
	h.do(updating(&xdpdv1.MemberUpdate{Program: "a", Interface: second, Priority: ptr(int32(9))}))
	h.Check()
	h.do(removing("a"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestKilledWhileLinking kills a daemon between the save and the commit, takes away the pins of what it staged, and kills
// the next one while it links the chain anew: the third one does not take the old revision for the new chain.
func TestKilledWhileLinking(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	h.Check()
	h.d.kill()
	d := h.start("XDPD_FAILPOINT=" + failpoint.SaveAfter + "=kill")
	if _, err := h.client.AddProgram(h.ctx(), add("b", "drop", nettest.Dev)); err == nil {
		t.Error("the daemon was to be killed")
	}
	d.killed()
	revisions := h.glob("chains/*/rev-*")
	slices.Sort(revisions)
	if len(revisions) != 2 {
		t.Fatalf("revisions %v, want two", revisions)
	}
	if err := os.RemoveAll(revisions[1]); err != nil {
		t.Fatal(err)
	}
	h.launch("XDPD_FAILPOINT=" + failpoint.SaveBefore + "=kill").killed()
	h.start()
	h.learn()
	if c := h.chain(nettest.Dev); len(c.GetMembers()) != 2 {
		t.Errorf("the chain is %v, want two members", c)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestPendingWithoutLinks changes no more of a program than its lifetime, until that is confirmed: its chains show it,
// others wait, and it can be cancelled and confirmed.
func TestPendingWithoutLinks(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	h.Check()
	ask := func() uint64 {
		answer, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
			Programs: []*xdpdv1.ProgramSpec{{Name: "a", Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT}},
			Chains:   []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "a")},
			Options:  within(time.Hour),
		})
		if err != nil {
			t.Fatal(err)
		}
		id := answer.GetChange().GetPending().GetId()
		for _, iface := range []string{nettest.Dev, second} {
			if shown := h.chain(iface).GetPending().GetId(); shown != id {
				t.Errorf("%s shows pending change %d, want %d", iface, shown, id)
			}
			_, err := h.client.AddProgram(h.ctx(), add("b", "goon", iface))
			if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING || client.Facts(err)["interface"] != iface {
				t.Errorf("another change of %s: %v", iface, err)
			}
		}
		return id
	}
	lifetime := func() xdpdv1.Lifetime {
		p, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: "a"})
		if err != nil {
			t.Fatal(err)
		}
		return p.GetProgram().GetLifetime()
	}
	revision := h.chain(second).GetRevision()
	h.cancelled(h.watch(""), ask())
	if got := lifetime(); got != xdpdv1.Lifetime_LIFETIME_DAEMON {
		t.Errorf("cancelled: %v", got)
	}
	if _, err := h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: ask()}); err != nil {
		t.Error(err)
	}
	if got := lifetime(); got != xdpdv1.Lifetime_LIFETIME_PERSISTENT {
		t.Errorf("confirmed: %v", got)
	}
	if now := h.chain(second).GetRevision(); now != revision {
		t.Errorf("revision %d, want %d: nothing was linked", now, revision)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
