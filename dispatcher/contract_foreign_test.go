// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestPinsTakeoverOfOurLink has somebody put a program into the plane's link.
func TestPinsTakeoverOfOurLink(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	foreign := b.stranger(ebpf.AttachXDP)
	ours := b.hold(b.path("link")).(xdpLink)
	b.check(ours.UpdateArgs(link.RawLinkUpdateOptions{New: foreign.Program}))
	if err := b.refused(b.plan(p.on(passing))); !errors.Is(err, ErrForeign) {
		t.Errorf("Stage gives %v, want ErrForeign", err)
	}
	s := b.startStream([][]byte{{strangersMark}, {1}})
	defer s.end()
	staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	if staged.Took == nil || !staged.Took.Swapped || staged.Took.ID != foreign.id || staged.Actual != "" {
		t.Errorf("it takes over from %+v in mode %q", staged.Took, staged.Actual)
	}
	b.check(staged.Commit())
	b.live(b.revision)
	s.flows(t)
	b.check(staged.Revert())
	b.on(foreign.id, chain.Native)
	b.check(staged.Commit())
	b.check(staged.Discard())
	b.live(b.revision)
	s.flows(t)
	b.check(s.end())
}

// TestPinsTakeoverDry only says what would be taken over. Without anything to take over a plan is as any other.
func TestPinsTakeoverDry(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.load("step", "")
	dry := func() *Staged {
		t.Helper()
		plan := b.takeover(chain.Auto, p.on(passing))
		plan.Dry = true
		var staged *Staged
		b.atRest("dry run", func() {
			var err error
			staged, err = b.plane.Stage(b.Context(), b.dev, plan)
			b.check(err)
			if err := staged.Commit(); err == nil {
				t.Error("a dry run was committed")
			}
			b.check(staged.Discard())
		})
		return staged
	}
	empty := b.pins()
	if staged := dry(); staged.Took != nil {
		t.Errorf("it takes over from %+v where nobody is", staged.Took)
	}
	foreign := b.stranger(ebpf.AttachXDP)
	held := b.byLink(foreign, chain.Native)
	if staged := dry(); staged.Took == nil || !staged.Took.Swapped || staged.Took.ID != foreign.id {
		t.Errorf("it takes over from %+v", staged.Took)
	}
	b.on(foreign.id, chain.Native)
	b.check(held.Close())
	b.until("the foreign program is gone", func() bool { return b.xdp() == 0 })
	b.check(b.in(func() error { return netif.Hook("", b.dev.Ifindex, foreign.FD(), chain.Generic) }))
	if staged := dry(); staged.Took == nil || staged.Took.Swapped || staged.Took.Mode != chain.Generic {
		t.Errorf("it takes over from %+v", staged.Took)
	}
	b.on(foreign.id, chain.Generic)
	b.follow(frame(), 3, strangersMark)
	b.check(b.in(func() error { return netif.Unhook("", b.dev.Ifindex, foreign.FD(), chain.Generic) }))
	if now := b.pins(); !slices.Equal(now, empty) {
		t.Errorf("the pins are %q, they were %q", now, empty)
	}
	staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	if staged.Took != nil || staged.Actual != chain.Native {
		t.Errorf("a new chain takes over from %+v, in mode %s", staged.Took, staged.Actual)
	}
	b.check(errors.Join(staged.Commit(), staged.Discard()))
	b.follow(frame(), 3, 1)
}

// TestPinsTakeoverRefused leaves everything as it was.
func TestPinsTakeoverRefused(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.load("step", "")
	foreign, other := b.stranger(ebpf.AttachXDP), b.stranger(ebpf.AttachXDP)
	held := b.byLink(foreign, chain.Native).(xdpLink)
	empty := b.pins()
	same := func() {
		t.Helper()
		b.on(foreign.id, chain.Native)
		if now := b.pins(); !slices.Equal(now, empty) {
			t.Errorf("the pins are %q, they were %q", now, empty)
		}
		b.follow(frame(), 2, strangersMark)
	}
	refused := func(plan Plan, words ...string) {
		t.Helper()
		staged, err := b.plane.Stage(b.Context(), b.dev, plan)
		if err == nil {
			b.check(staged.Discard())
		}
		e := reason(t, err, chain.TakeoverFailed, words...)
		if e.Facts["holder_id"] != fmt.Sprint(plan.Holder) || e.Facts["error"] == "" {
			t.Errorf("the facts are %v", e.Facts)
		}
		same()
	}
	plan := b.takeover(chain.Auto, p.on(passing))
	without(t, unix.CAP_SYS_ADMIN, func() {
		staged, err := b.plane.Stage(b.Context(), b.dev, plan)
		if err == nil {
			b.check(staged.Discard())
		}
		reason(t, err, chain.TakeoverFailed, "CAP_SYS_ADMIN")
	})
	same()
	plan = b.takeover(chain.Auto, p.on(passing))
	plan.HolderMode = "offload"
	refused(plan, "offload")
	plan = b.takeover(chain.Auto, p.on(passing))
	plan.Holder = 1 << 30
	refused(plan, "not in the kernel")
	plan.Holder = other.id
	refused(plan, "its link is gone")

	// Somebody else changes it at the same time.
	staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	b.check(held.UpdateArgs(link.RawLinkUpdateOptions{New: other.Program}))
	reason(t, staged.Commit(), chain.TakeoverFailed, "try again")
	b.check(staged.Discard())
	b.on(other.id, chain.Native)
	staged, err = b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Generic, p.on(passing)))
	b.check(err)
	b.check(held.UpdateArgs(link.RawLinkUpdateOptions{New: foreign.Program}))
	reason(t, staged.Commit(), chain.TakeoverFailed, "try again")
	b.check(staged.Discard())
	same()
	b.check(held.Close())
	b.until("the foreign program is gone", func() bool { return b.xdp() == 0 })

	// What is detached for a mode that the driver has not is attached again.
	b.dev.Ifindex = b.ns.Index(t, "lo")
	b.check(b.in(func() error { return netif.Hook("", b.dev.Ifindex, foreign.FD(), chain.Generic) }))
	staged, err = b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Native, p.on(passing)))
	b.check(err)
	reason(t, staged.Commit(), chain.TakeoverFailed, "native")
	b.check(staged.Discard())
	b.on(foreign.id, chain.Generic)
	if now := b.pins(); !slices.Equal(now, empty) {
		t.Errorf("the pins are %q, they were %q", now, empty)
	}
	b.check(b.in(func() error { return netif.Unhook("", b.dev.Ifindex, foreign.FD(), chain.Generic) }))
}

// TestPinsTakeoverOfOneOfTwo has the same program on interfaces of the same index in two namespaces.
func TestPinsTakeoverOfOneOfTwo(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.load("step", "")
	other := nettest.New(t)
	if index := other.Index(t, nettest.Dev); index != b.dev.Ifindex {
		t.Fatalf("the interfaces have the indexes %d and %d", b.dev.Ifindex, index)
	}
	foreign := b.stranger(ebpf.AttachXDP)
	b.byLink(foreign, chain.Native)
	ns := b.ns
	b.ns = other
	elsewhere := b.byLink(foreign, chain.Native)
	b.ns = ns
	staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	if err == nil {
		b.check(staged.Discard())
	}
	reason(t, err, chain.TakeoverFailed, "several network namespaces")
	b.on(foreign.id, chain.Native)
	b.check(elsewhere.Close())
	b.until("one link is left", func() bool {
		links, err := xdpLinks(func(info linkInfo) bool { return info.program == foreign.id })
		b.check(err)
		for _, l := range links {
			l.Close()
		}
		return len(links) == 1
	})
	staged, err = b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	b.check(errors.Join(staged.Commit(), staged.Discard()))
	b.follow(frame(), 3, 1)
}

// TestContractIn stages from another namespace, whose interfaces have nothing to do with it.
func TestContractIn(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	plan := b.plan(p.on(passing))
	plan.In = b.in
	staged, err := b.plane.Stage(b.Context(), b.dev, plan)
	b.check(err)
	b.check(errors.Join(staged.Commit(), staged.Discard()))
	b.follow(frame(), 3, 1)
	plan = b.plan(p.on(passing))
	plan.In = b.in
	b.atRest("Stage on an interface that is gone", func() {
		staged, err := b.plane.Stage(b.Context(), Device{Netns: b.dev.Netns, Ifindex: 12345}, plan)
		if err == nil {
			b.check(staged.Discard())
		}
		reason(t, err, chain.InterfaceNotFound)
	})
	plan.In = func(func() error) error { return fmt.Errorf("the namespace is gone: %w", unix.ENODEV) }
	if staged, err = b.plane.Stage(b.Context(), Device{Netns: b.dev.Netns, Ifindex: 12345}, plan); err == nil {
		b.check(staged.Discard())
	}
	reason(t, err, chain.InterfaceNotFound, "the namespace is gone")
}
