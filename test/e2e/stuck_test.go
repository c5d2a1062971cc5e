// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestUndoOfALastMember takes the only program off two interfaces, one of which then goes. The other one gets its chain
// back in time; that of the one that went waits for it.
func TestUndoOfALastMember(t *testing.T) {
	h := newHost(t, second)
	h.start("XDPD_FAILPOINT=" + failpoint.DetachAfter + "=stop@2") // when both are taken off
	h.do(adding(persistent(add("a", "pass", nettest.Dev, second))))
	w := h.watch("")
	id := h.meanwhile(&xdpdv1.RemoveProgramRequest{Name: "a", Options: within(time.Second)}, func() { h.unplug(second) })
	h.expired(w, id)
	for iface, runs := range map[string]bool{nettest.Dev: true, second: false} {
		if c := h.chain(iface); len(c.GetMembers()) != 1 || c.GetLinkId() != 0 != runs {
			t.Errorf("the chain of %s is %v", iface, c)
		}
	}
	h.ns.AddPair(t, second, second+"p")
	h.plug(second, second+"p")
	h.d.kill()
	h.start()
	if c := h.chain(second); len(c.GetMembers()) != 1 || c.GetLinkId() == 0 {
		t.Errorf("after a start the chain of %s is %v", second, c)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestPendingChangesDoNotMeet places a program on a further interface, to be confirmed. What it would take to undo that
// is not for another change to have, nor for a stop to forget.
func TestPendingChangesDoNotMeet(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(persistent(add("a", "pass", nettest.Dev))), adding(add("b", "goon", second)))
	h.do(adding(add("a", "pass", second)).within(time.Hour))
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING, removing("a", nettest.Dev).within(time.Hour))
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING, removing("a", nettest.Dev))
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING, replacing(replace("a", "drop")))
	h.Check()
	h.stop(unix.SIGTERM)
	h.start()
	h.Check()
	if c := h.chains(); len(c) != 1 || c[0].GetInterface() != nettest.Dev {
		t.Errorf("after a stop there is %v", c)
	}
	h.stop(unix.SIGTERM)
}

// TestUndoOfMutualSharers removes two programs that came to share the maps of each other, and undoes that.
func TestUndoOfMutualSharers(t *testing.T) {
	h := newHost(t)
	h.start()
	b := add("b", "goon", nettest.Dev)
	b.Settings = &xdpdv1.ProgramSettings{ShareMapsFrom: "a"}
	a := replace("a", "goon")
	a.Settings = &xdpdv1.ProgramSettings{ShareMapsFrom: "b"}
	h.do(adding(add("a", "pass", nettest.Dev)), adding(b), replacing(a))
	h.learn()
	before := h.picture(true)
	r, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{{Interface: nettest.Dev}}, Options: within(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.client.Cancel(h.ctx(), &xdpdv1.CancelRequest{Id: r.GetChange().GetPending().GetId()}); err != nil {
		t.Fatal(err)
	}
	if after := h.picture(true); after != before {
		t.Errorf("there is\n%s\nthere was\n%s", after, before)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestLongChangeAndStop stops a daemon with a change that waits to be confirmed and whose name is as long as there can
// be, which must not keep the stop from undoing it.
func TestLongChangeAndStop(t *testing.T) {
	const interfaces = 18
	var more []string
	r := &xdpdv1.SetChainsRequest{Options: within(time.Hour), Objects: [][]byte{verdicts}, Programs: []*xdpdv1.ProgramSpec{specOf("a", "pass")}}
	for i := range interfaces {
		more = append(more, fmt.Sprintf("long-name-e2e%02d", i))
		r.Chains = append(r.Chains, chainOf(more[i], "a"))
	}
	r.Programs[0].Lifetime = xdpdv1.Lifetime_LIFETIME_PERSISTENT
	h := newHost(t)
	for _, dev := range more {
		h.ns.AddPair(t, dev, strings.Replace(dev, "e2e", "p", 1))
	}
	h.start()
	made, err := h.client.SetChains(h.ctx(), r)
	if err != nil {
		t.Fatal(err)
	}
	if what := made.GetChange().GetPending().GetWhat(); len(what) != 255 {
		t.Errorf("the change is called %q", what)
	}
	h.stop(unix.SIGTERM)
	h.start()
	if c := h.chains(); len(c) != 0 {
		t.Errorf("after a stop there is %v", c)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
