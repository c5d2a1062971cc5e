// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"os"
	"slices"
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

// TestStorageObjectDamaged damages the objects of programs in the store and removes all pins of the daemon's by a rename: they are
// made again, and no program is taken for lost because nobody can tell which maps it has.
func TestStorageObjectDamaged(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	h.Check()
	before := h.chain(nettest.Dev).GetKernelId()
	good, object := h.storeFile(), add("a", "goon").Object
	bad := slices.Clone(good)
	for at := range bad {
		if bytes.HasPrefix(good[at:], object) {
			bad[at+len(object)/2] ^= 1
		}
	}
	h.overwrite(good, bad)
	away := h.pins + "-away"
	h.meanwhileStopped(func() {
		if err := os.Rename(h.pins, away); err != nil {
			t.Fatal(err)
		}
	})
	h.eventually("the status says that pins cannot be looked after", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		return err == nil && strings.Contains(strings.Join(s.GetProblems(), "\n"), "program b: its pins cannot be looked after: ")
	})
	h.overwrite(bad, good)
	h.well()
	if err := os.RemoveAll(away); err != nil {
		t.Fatal(err)
	}
	h.Check()
	if log := h.d.log.String(); strings.Contains(log, "it is loaded anew") || !strings.Contains(log, "the pins of a program cannot be looked after") {
		t.Error("a program was taken for lost, or the log does not tell")
	}
	if after := h.chain(nettest.Dev).GetKernelId(); after != before {
		t.Errorf("the chain runs program %d now, and ran %d", after, before)
	}
	h.stop(unix.SIGTERM)
}
