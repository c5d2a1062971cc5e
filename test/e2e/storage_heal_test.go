// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestStorageGoneWhileNeighbours takes the store's file away, renames an interface, which the store has to follow, and removes
// a pin: that is made again all the same, and the chain follows when the file is back.
func TestStorageGoneWhileNeighbours(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	h.Check()
	aside := h.storePath() + ".aside"
	if err := os.Rename(h.storePath(), aside); err != nil {
		t.Fatal(err)
	}
	h.rename(second, "xother0")
	h.eventually("the status says that the chain cannot follow", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		return err == nil && strings.Contains(strings.Join(s.GetProblems(), "\n"), "follow the names of interfaces: ")
	})
	pin := h.glob("chains/*-%d/rev-*/dispatcher", h.ns.Index(t, nettest.Dev))[0]
	if err := os.Remove(pin); err != nil {
		t.Fatal(err)
	}
	h.eventually("the pin is made again", func() bool { _, err := os.Lstat(pin); return err == nil })
	if err := os.Rename(aside, h.storePath()); err != nil {
		t.Fatal(err)
	}
	h.follows("xother0")
	h.Check()
	h.stop(unix.SIGTERM)
}
