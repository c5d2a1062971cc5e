// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf/link"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestContractStagedIsNotLive says that nothing changes before Commit, and nothing is left after Discard.
func TestContractStagedIsNotLive(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	empty := b.pins()
	b.atRest("Discard of a new chain", func() {
		staged, err := b.stage(b.dev, b.plan(p[0].on(passing)))
		b.check(err)
		if staged.Actual != chain.Native || staged.ModeReason != "" {
			t.Errorf("the mode is %q (%s)", staged.Actual, staged.ModeReason)
		}
		b.live(0)
		b.follow(frame(), 3)
		b.check(staged.Discard())
		b.check(staged.Discard())
	})
	if now := b.pins(); !slices.Equal(now, empty) || b.xdp() != 0 {
		t.Fatalf("pins %q after Discard, %q before; program %d", now, empty, b.xdp())
	}
	if _, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live gives %v, want ErrGone", err)
	}

	b.run(b.plan(p[0].on(passing)))
	live, before := b.live(b.revision), b.pins()
	b.atRest("Discard of a change", func() {
		staged, err := b.stage(b.dev, b.plan(p[1].on(passing)))
		b.check(err)
		if staged.Actual != "" {
			t.Errorf("the mode of a change is %q, want none", staged.Actual)
		}
		b.follow(frame(), 3, 1)
		b.check(staged.Discard())
	})
	if now := b.pins(); !slices.Equal(now, before) || b.live(live.Revision) != live {
		t.Errorf("pins %q after Discard, %q before", now, before)
	}
	b.follow(frame(), 3, 1)
}

func TestContractRevert(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	first, before := b.revision, b.pins()
	b.atRest("Revert", func() {
		staged, err := b.stage(b.dev, b.plan(p[1].on(passing)))
		b.check(err)
		b.check(staged.Revert()) // not committed: nothing to do
		b.check(staged.Commit())
		b.live(b.revision)
		b.follow(frame(), 3, 2)
		b.check(staged.Revert())
		b.live(first)
		b.follow(frame(), 3, 1)
		b.check(staged.Discard())
	})
	if now := b.pins(); !slices.Equal(now, before) {
		t.Errorf("pins %q after Revert and Discard, %q before", now, before)
	}
	b.check(b.plane.Detach(b.dev))
	b.atRest("Revert of a new chain", func() {
		staged, err := b.stage(b.dev, b.plan(p[1].on(passing)))
		b.check(err)
		b.check(errors.Join(staged.Commit(), staged.Revert(), staged.Discard()))
	})
	if id := b.xdp(); id != 0 {
		t.Errorf("program %d is on the interface", id)
	}
}

// TestContractResume commits what another process staged, and throws away what it did not stage.
func TestContractResume(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	b.atRest("Resume", func() {
		plan := b.plan(p[1].on(passing))
		staged, err := b.stage(b.dev, plan)
		b.check(err)
		b.check(staged.close()) // the process dies
		resumed, err := b.plane.Resume(b.dev, plan.Revision)
		b.check(err)
		b.follow(frame(), 3, 1)
		b.check(errors.Join(resumed.Commit(), resumed.Discard()))
		b.live(plan.Revision)
		b.follow(frame(), 3, 2)

		staged, err = b.stage(b.dev, b.plan(p[0].on(passing)))
		b.check(err)
		b.check(staged.close())
		resumed, err = b.plane.Resume(b.dev, b.revision)
		b.check(err)
		b.check(resumed.Discard())
		b.live(plan.Revision)
		if _, err := b.plane.Resume(b.dev, b.revision); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resume of a discarded revision gives %v", err)
		}
		if _, err := b.plane.Resume(Device{Netns: 9, Ifindex: 9}, 1); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Resume on a device without pins gives %v", err)
		}
	})
	b.revision = 2
	b.follow(frame(), 3, 2)
}

// TestContractRevisionInUse says that a number that is taken is refused, and who has it keeps it.
func TestContractRevisionInUse(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	plan := b.plan(p[1].on(passing))
	plan.Revision--
	if err := b.refused(plan); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Stage gives %v", err)
	}
	b.live(plan.Revision)
	b.follow(frame(), 3, 1)
	if _, err := b.plane.Load(p[0].asLoad()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Load with an id in use gives %v", err)
	}
	if s := p[0].state(); s.Seen != 3 {
		t.Errorf("the program saw %d packets, want 3", s.Seen)
	}
}

// TestContractRevisionLeftBehind says that the number of a revision that a process staged before it died can be
// used again, with and without a chain that runs.
func TestContractRevisionLeftBehind(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	for _, running := range []bool{false, true} {
		staged, err := b.stage(b.dev, b.plan(p[0].on(passing)))
		b.check(err)
		b.check(staged.close()) // the process dies
		b.collect()
		if !running {
			held, err := asXDP(link.LoadPinnedLink(filepath.Join(b.plane.chainDir(b.dev), "link"), nil))
			b.check(err)
			b.check(errors.Join(held.Detach(), held.Close()))
		}
		b.revision--
		b.run(b.plan(p[1].on(passing)))
		b.live(b.revision)
		b.follow(frame(), 3, 2)
		b.exits(1, 3)
	}
}

func TestContractPrune(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	for range 4 {
		staged, err := b.stage(b.dev, b.plan(p.on(passing)))
		b.check(err)
		b.check(errors.Join(staged.Commit(), staged.Discard()))
		b.collect()
		b.follow(frame(), int(b.revision), 1)
	}
	b.check(Quiesce())
	b.atRest("Prune", func() { b.check(b.plane.Prune(b.dev, 4, []uint64{2, 3})) })
	revisions, err := b.plane.Revisions(b.dev)
	b.check(err)
	if !slices.Equal(revisions, []uint64{2, 3, 4}) {
		t.Errorf("revisions %v, want 2, 3 and 4", revisions)
	}
	for rev := range uint64(6) {
		e, err := b.plane.Counters(b.dev, rev)
		switch {
		case rev >= 2 && rev <= 4:
			if err != nil || e.Packets(1) != rev {
				t.Errorf("revision %d: %d packets, %v", rev, e.Packets(1), err)
			}
		case !errors.Is(err, fs.ErrNotExist):
			t.Errorf("revision %d: %v", rev, err)
		}
	}
	if entries, err := os.ReadDir(b.plane.revisionDir(b.dev, 2)); err != nil || len(entries) != 1 {
		t.Errorf("revision 2 has pins %v, %v; want its counters", entries, err)
	}
	b.live(4)
	b.follow(frame(), 2, 1)
	b.check(b.plane.Prune(b.dev, 4, nil))
	b.check(b.plane.Prune(Device{Netns: 9, Ifindex: 9}, 1, nil))
	if revisions, err := b.plane.Revisions(b.dev); err != nil || !slices.Equal(revisions, []uint64{4}) {
		t.Errorf("revisions %v, %v, want 4", revisions, err)
	}
}

func TestContractDetach(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, 1)
	b.atRest("Detach", func() { b.check(b.plane.Detach(b.dev)) })
	if id := b.xdp(); id != 0 {
		t.Errorf("program %d is on the interface after Detach", id)
	}
	b.follow(frame(), 3)
	b.check(b.plane.Detach(b.dev))
	if _, err := os.Stat(b.plane.chainDir(b.dev)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the device has pins: %v", err)
	}
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, 1)
	b.collect()
	b.ns.Delete(t, nettest.Dev)
	if _, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live without the interface gives %v, want ErrGone", err)
	}
	b.atRest("Detach of what is gone", func() { b.check(b.plane.Detach(b.dev)) })
}

// TestContractTeardown says that a plane that only tears down needs no probes, and that nothing stays, also of
// revisions that were only staged.
func TestContractTeardown(t *testing.T) {
	b := newBench(t)
	p := b.steps(3)
	b.load("tail", "caller")
	b.run(b.plan(all(passing, p...)...))
	staged, err := b.stage(b.dev, b.plan(p[0].on(passing)))
	b.check(err)
	b.check(staged.close()) // the process dies
	b.collect()
	b.check(b.plane.Close())
	b.plane, err = OpenForTeardown(b.plane.Root())
	b.check(err)
	if len(b.owned) < 10 {
		t.Errorf("only %d things are in the kernel: %v", len(b.owned), b.owned)
	}
	b.atRest("Teardown", func() { b.check(b.plane.Teardown()) })
	if id := b.xdp(); id != 0 {
		t.Errorf("program %d is on the interface", id)
	}
	b.gone()
	b.follow(frame(), 3)
	b.check(b.plane.Close())
	b.plane, err = Open(b.plane.Root(), testLinker())
	b.check(err)
}

// attach puts a program on the interface that is not the plane's. The caller closes the link.
func (b *bench) attach(flags link.XDPAttachFlags) link.Link {
	b.Helper()
	pass, err := newTransparent(0)
	b.check(err)
	defer pass.Close()
	var held link.Link
	nettest.RunIn(b.ns, func() {
		held, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: b.dev.Ifindex, Flags: flags})
	})
	b.check(err)
	return held
}

func TestContractForeignProgram(t *testing.T) {
	for _, foreign := range []link.XDPAttachFlags{link.XDPDriverMode, link.XDPGenericMode} {
		for _, mode := range []chain.Mode{chain.Auto, chain.Native, chain.Generic} {
			t.Run(fmt.Sprintf("%s for flags %d", mode, foreign), func(t *testing.T) {
				b := newBench(t)
				held := b.attach(foreign)
				id := b.xdp()
				plan := b.plan(b.load("step", "").on(passing))
				plan.Mode = mode
				if err := b.refused(plan); !errors.Is(err, ErrBusy) {
					t.Errorf("Stage gives %v, want ErrBusy", err)
				}
				if now := b.xdp(); now != id || id == 0 {
					t.Errorf("the foreign program %d became %d", id, now)
				}
				b.check(held.Close())
				b.until("the foreign program is gone", func() bool { return b.xdp() == 0 })
				b.run(plan)
				b.follow(frame(), 3, 1)
			})
		}
	}
}

// TestContractLinkDetached has somebody detach the plane's link: Live says so, and Stage repairs it.
func TestContractLinkDetached(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	b.collect()
	held, err := asXDP(link.LoadPinnedLink(filepath.Join(b.plane.chainDir(b.dev), "link"), nil))
	b.check(err)
	staged, err := b.stage(b.dev, b.plan(p.on(passing)))
	b.check(err)
	b.check(errors.Join(held.Detach(), held.Close()))
	if err := staged.Commit(); !errors.Is(err, ErrGone) {
		t.Errorf("Commit gives %v, want ErrGone", err)
	}
	b.check(staged.Discard())
	if _, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live gives %v, want ErrGone", err)
	}
	if _, err := b.plane.Resume(b.dev, 1); !errors.Is(err, ErrGone) {
		t.Errorf("Resume gives %v, want ErrGone", err)
	}
	b.run(b.plan(p.on(passing)))
	b.live(b.revision)
	b.follow(frame(), 3, 1)
}

// TestContractLinkUpdated has somebody put a program into the plane's link: it is not touched.
func TestContractLinkUpdated(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	foreign, err := newTransparent(0)
	b.check(err)
	id, err := programID(foreign)
	b.check(err)
	staged, err := b.stage(b.dev, b.plan(p.on(passing)))
	b.check(err)
	held, err := asXDP(link.LoadPinnedLink(filepath.Join(b.plane.chainDir(b.dev), "link"), nil))
	b.check(err)
	b.check(errors.Join(held.UpdateArgs(link.RawLinkUpdateOptions{New: foreign}), held.Close(), foreign.Close()))
	if err := staged.Commit(); !errors.Is(err, ErrForeign) {
		t.Errorf("Commit gives %v, want ErrForeign", err)
	}
	b.check(staged.Discard())
	if live, err := b.plane.Live(b.dev); !errors.Is(err, ErrForeign) || live.KernelID != id {
		t.Errorf("Live gives %+v, %v, want program %d and ErrForeign", live, err, id)
	}
	if err := b.refused(b.plan(p.on(passing))); !errors.Is(err, ErrForeign) {
		t.Errorf("Stage gives %v, want ErrForeign", err)
	}
	if now := b.xdp(); now != id {
		t.Errorf("program %d is on the interface, want %d", now, id)
	}
	b.follow(frame(), 3)
}
