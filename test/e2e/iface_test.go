// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// unplug removes a pair.
func (h *host) unplug(dev string) {
	h.Helper()
	h.ns.Delete(h, dev)
	delete(h.wires, dev)
}

// TestInterfaceGone deletes an interface with a chain. The daemon says that something is wrong, programs can
// be removed all the same, and nothing is left.
func TestInterfaceGone(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "pass", second)))
	h.Check()
	h.unplug(second)
	if _, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{}); err != nil {
		t.Error(err)
	}
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil || len(status.GetProblems()) != 1 {
		t.Errorf("status: %v, %v; want one problem", status, err)
	}
	h.do(removing("b"), removing("a"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestInterfaceGoneForGood stops a daemon that has a chain on an interface which is gone.
func TestInterfaceGoneForGood(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	h.Check()
	h.unplug(second)
	h.stop(unix.SIGTERM)
}

// TestInterfaceRecreated deletes an interface and makes one of that name anew while no daemon runs. The start links the
// chain to it, with its counts.
func TestInterfaceRecreated(t *testing.T) {
	for _, by := range []string{"a restart", "a start after a kill"} {
		t.Run("linked by "+by, func(t *testing.T) {
			h := newHost(t, second)
			h.start()
			h.do(adding(persistent(add("a", "pass", second))), adding(persistent(add("b", "goon", second))))
			h.Check()
			switch by {
			case "a restart":
				h.stop(unix.SIGTERM)
			case "a start after a kill":
				h.d.kill()
			}
			h.unplug(second)
			h.ns.AddPair(t, second, second+"p")
			h.plug(second, second+"p")
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}
