// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/examples"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestPinsReplaced moves pins over others: what was there is made again, or anew.
func TestPinsReplaced(t *testing.T) {
	for _, c := range [][2]string{
		{"rev-*/counters", "link"}, {"rev-*/counters", "rev-*/dispatcher"}, {"rev-*/dispatcher", "link"}, {"rev-*/dispatcher", "rev-*/counters"},
	} {
		t.Run(c[0]+" to "+c[1], func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.start()
			h.do(adding(add("a", "pass", nettest.Dev)))
			h.Check()
			w := h.watch("")
			i := h.ns.Index(t, nettest.Dev)
			from, to := h.glob("chains/*-%d/"+c[0], i)[0], h.glob("chains/*-%d/"+c[1], i)[0]
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			w.await("degraded")
			w.await("recovered")
			h.well()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// TestLinkPinMoved moves the pin of a link over that of another chain, also while no daemon runs: both chains run again, each on
// its interface, and with one of them removed the other does.
func TestLinkPinMoved(t *testing.T) {
	for _, how := range []string{"at once", "unseen", "removed"} {
		h := newHost(t, second)
		d := h.start()
		h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", second)))
		h.Check()
		w := h.watch("")
		one, two := h.glob("chains/*-%d/link", h.ns.Index(t, nettest.Dev))[0], h.glob("chains/*-%d/link", h.ns.Index(t, second))[0]
		move := func() {
			if err := os.Rename(one, two); err != nil {
				t.Fatal(err)
			}
		}
		switch how {
		case "at once":
			move()
			w.await("degraded")
		case "unseen":
			d.kill()
			move()
			h.start()
		case "removed":
			h.meanwhileStopped(func() {
				move()
				h.bare(second)
			})
			if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "b"}); err != nil {
				t.Error(err)
			}
		}
		h.eventually("both are attached", func() bool { return h.attached(nettest.Dev) != 0 && h.attached(second) != 0 })
		h.well()
		h.Check()
		h.stop(unix.SIGTERM)
	}
}

// TestLinkPinAway moves the pin of a link away just before its chain is changed, or ends, or everything does: what runs is what
// the answer says all the same.
func TestLinkPinAway(t *testing.T) {
	for name, do := range map[string]func(h *host){
		"remove": func(h *host) { h.do(removing("a", nettest.Dev)) },
		"add":    func(h *host) { h.do(adding(add("b", "drop", nettest.Dev))) },
		"stop":   func(h *host) { h.d.wait() },
	} {
		for _, what := range []string{"/link", ""} {
			t.Run(name+what, func(t *testing.T) {
				h := newHost(t)
				h.start()
				h.do(adding(add("a", "goon", nettest.Dev)))
				h.Check()
				away := h.pins + "-away"
				t.Cleanup(func() { os.RemoveAll(away) })
				h.meanwhileStopped(func() {
					if err := os.Rename(h.glob("chains/*-%d"+what, h.ns.Index(t, nettest.Dev))[0], away); err != nil {
						t.Fatal(err)
					}
					if name == "stop" {
						h.d.signal(unix.SIGTERM)
					}
				})
				do(h)
				if name != "add" {
					h.bare(nettest.Dev)
				}
				if err := os.RemoveAll(away); err != nil {
					t.Error(err)
				}
				if name == "stop" {
					h.stopped()
					return
				}
				h.well()
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}

// TestProgramPinsRemovedWhileDown removes pins of a program while no daemon runs: what is pinned in the end is what the chain
// uses.
func TestProgramPinsRemovedWhileDown(t *testing.T) {
	for _, what := range []string{"maps/denied4", "maps", ""} {
		t.Run("programs/1/"+what, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			h.start()
			if _, err := h.client.AddProgram(h.ctx(), &xdpdv1.AddProgramRequest{Object: examples.Blocklist, Interfaces: []string{nettest.Dev}}); err != nil {
				t.Fatal(err)
			}
			h.d.kill()
			if err := os.RemoveAll(filepath.Join(h.glob("programs/*")[0], what)); err != nil {
				t.Fatal(err)
			}
			h.start()
			h.eventually("the map that is pinned is the one that runs", func() bool {
				p, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: "blocklist"})
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(p.GetProgram().GetMaps(), func(m *xdpdv1.Map) bool { return m.GetName() == "denied4" })
				return i >= 0 && slices.Contains(h.mapsOf(h.attached(nettest.Dev), p.GetProgram()), p.GetProgram().GetMaps()[i].GetKernelId())
			})
			h.well()
			if _, err := h.client.AddProgram(h.ctx(), add("b", "goon", nettest.Dev)); err != nil {
				t.Error(err)
			}
			h.stop(unix.SIGTERM)
		})
	}
}

// mapsOf are the ids of the maps that the program on an interface uses, and with freplace the one in its slot.
func (h *host) mapsOf(dispatcher uint32, in *xdpdv1.Program) (ids []uint32) {
	h.Helper()
	for _, id := range []uint32{dispatcher, in.GetKernelId()} {
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(id))
		if id == 0 || err != nil {
			continue
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			h.Fatal(err)
		}
		maps, _ := info.MapIDs()
		for _, m := range maps {
			ids = append(ids, uint32(m))
		}
	}
	return ids
}

// TestFollowsOntoPending renames an interface to the name of a chain that comes back unless its removal is confirmed: none
// of the two is lost.
func TestFollowsOntoPending(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "drop", second)))
	removed, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "b", Options: within(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	h.unplug(second)
	h.rename(nettest.Dev, second)
	h.eventually("it is told", func() bool { return h.chain(nettest.Dev).GetState() == xdpdv1.Chain_STATE_DEGRADED })
	h.cancelled(h.watch(""), removed.GetChange().GetPending().GetId())
	for iface, program := range map[string]string{nettest.Dev: "a", second: "b"} {
		if m := h.chain(iface).GetMembers(); len(m) != 1 || m[0].GetProgram() != program {
			t.Errorf("the chain of %s has %v, want %s", iface, m, program)
		}
	}
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "b"}); err != nil {
		t.Error(err)
	}
	h.follows(second)
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestPatternsDoNotWait places what can be placed by pattern where one program cannot, and forgets that when there is
// nothing to place any more.
func TestPatternsDoNotWait(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("z", "goon", nettest.Dev)))
	r := add("a", "goon", "xdev*")
	r.Position = before("z")
	for _, r := range []*xdpdv1.AddProgramRequest{r, add("guard", "drop", "xdev*")} {
		if _, err := h.client.AddProgram(h.ctx(), r); err != nil {
			t.Fatal(err)
		}
	}
	h.ns.AddPair(t, "xdev10", "xp10")
	h.plug("xdev10", "xp10")
	h.eventually("guard is on the new interface", func() bool { return slices.Contains(h.chained(), "xdev10") })
	h.eventually("the other one is told of", func() bool {
		s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		return err == nil && len(s.GetProblems()) == 1
	})
	h.unplug("xdev10")
	h.eventually("the chain is gone with its interface", func() bool { return !slices.Contains(h.chained(), "xdev10") })
	h.well()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestHealsBesideStuckChanges detaches the links of interfaces that are stuck in a change, and of one that is not: that one is
// repaired.
func TestHealsBesideStuckChanges(t *testing.T) {
	devs := []string{"xs0", "xs1", "xs2", "xs3"}
	h := newHost(t, append(devs, second)...)
	env, reached := h.halt(failpoint.StagePinned, 6)
	h.start(env...)
	h.do(adding(add("a", "pass", append(devs, second)...)))
	done := make(chan error, 1)
	go func() {
		_, err := h.client.AddProgram(h.ctx(), add("b", "goon", devs...))
		done <- err
	}()
	release := reached()
	for _, dev := range append(devs, second) {
		h.detachLink(dev)
	}
	h.eventually("the other interface is repaired", func() bool { return h.attached(second) != 0 })
	release()
	<-done // it may have met what was detached
	h.well()
	h.stop(unix.SIGTERM)
}
