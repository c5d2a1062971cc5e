// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// reason fails the test unless err is a chain.Error for this reason whose text has all the words.
func reason(t testing.TB, err error, want chain.Reason, words ...string) *chain.Error {
	t.Helper()
	var e *chain.Error
	if !errors.As(err, &e) || e.Reason != want {
		t.Fatalf("the error is %v, want %s", err, want)
	}
	for _, word := range words {
		if !strings.Contains(e.Error(), word) {
			t.Errorf("the error %q says nothing of %q", e, word)
		}
	}
	return e
}

// TestContractModes has an interface whose driver knows no XDP: lo.
func TestContractModes(t *testing.T) {
	b := newBench(t)
	lo := Device{Netns: b.dev.Netns, Ifindex: b.ns.Index(t, "lo")}
	p := b.load("step", "")
	for _, c := range []struct {
		device     Device
		ask, get   chain.Mode
		withReason bool
	}{
		{b.dev, chain.Auto, chain.Native, false},
		{b.dev, chain.Native, chain.Native, false},
		{b.dev, chain.Generic, chain.Generic, false},
		{lo, chain.Auto, chain.Generic, true},
		{lo, chain.Generic, chain.Generic, false},
	} {
		plan := b.plan(p.on(passing))
		plan.Mode = c.ask
		staged, err := b.stage(c.device, plan)
		b.check(err)
		if staged.Actual != c.get || (staged.ModeReason != "") != c.withReason {
			t.Errorf("%v in mode %s is %s, because %q", c.device, c.ask, staged.Actual, staged.ModeReason)
		}
		b.check(errors.Join(staged.Commit(), staged.Discard()))
		nettest.RunIn(b.ns, func() {
			state, attached, err := netif.XDP("", c.device.Ifindex)
			b.check(err)
			if !attached || state.Mode != c.get {
				t.Errorf("%v in mode %s: the kernel says %v, %s", c.device, c.ask, attached, state.Mode)
			}
		})
		if c.device == lo {
			got := b.ns.Receiver(t, "lo", nettest.EtherType)
			b.ns.Sender(t, "lo").Send(frame(), 5)
			got.Wait(5)
		} else {
			b.follow(frame(), 5, 1)
		}
		b.collect()
		b.check(b.plane.Detach(c.device))
	}
	plan := b.plan(p.on(passing))
	err := b.refusedOn(lo, plan)
	reason(t, err, chain.ModeUnsupported, "native", "generic")
	reason(t, b.refusedOn(Device{Netns: b.dev.Netns, Ifindex: 12345}, plan), chain.InterfaceNotFound)
	plan.Mode = chain.Auto
	reason(t, b.refusedOn(Device{Netns: b.dev.Netns, Ifindex: 12345}, plan), chain.InterfaceNotFound)
}

// TestContractLargeMTU has an interface whose packets do not fit into one buffer.
func TestContractLargeMTU(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{nettest.Dev, nettest.Peer} {
		b.ns.SetMTU(t, name, 9000)
	}
	step := b.load("step", "")
	reason(t, b.refused(b.plan(step.on(passing))), chain.ModeUnsupported, "MTU", "xdp.frags")
	plan := b.plan(step.on(passing))
	plan.Mode = chain.Auto
	staged, err := b.stage(b.dev, plan)
	b.check(err)
	if staged.Actual != chain.Generic || staged.ModeReason == "" {
		t.Errorf("mode auto is %s because %q", staged.Actual, staged.ModeReason)
	}
	b.check(errors.Join(staged.Commit(), staged.Discard()))
	b.collect()
	large := append(frame(), make([]byte, 7000)...)
	b.follow(large, 5, 1)
	b.check(b.plane.Detach(b.dev))

	if !kernelAtLeast(t, 5, 18) {
		return // what becomes of frags there: TestContractFragsUnknown
	}
	one, two := b.load("step_frags", ""), b.load("step_frags", "")
	b.run(b.plan(all(passing, one, two)...))
	if f := b.follow(large, 5, byte(one.id), byte(two.id)); len(f) != len(large) {
		t.Errorf("%d bytes arrived, want %d", len(f), len(large))
	}
	live := b.revision
	// Had the chain the flag, the last member would silently see a part of the packet only.
	staged, err = b.stage(b.dev, b.plan(all(passing, one, two, step)...))
	if err == nil {
		err = staged.Commit()
		b.check(staged.Discard())
	}
	reason(t, err, chain.ModeUnsupported, "MTU", "xdp.frags")
	b.live(live)
	b.follow(large, 5, byte(one.id), byte(two.id))
}

// TestContractFragsUnknown says that a kernel without frags refuses such a program with a reason.
func TestContractFragsUnknown(t *testing.T) {
	b := newBench(t)
	o := object(t, "step_frags", "")
	if !o.Frags() || object(t, "step", "").Frags() {
		t.Fatal("the objects are not what the test needs")
	}
	_, err := b.plane.Load(Load{ID: 100, Name: "frags", Object: o})
	if err == nil {
		p := &program{b: b, id: 100, object: o}
		var staged *Staged
		if staged, err = b.stage(b.dev, b.plan(p.on(passing))); err == nil {
			b.check(errors.Join(staged.Commit(), staged.Discard()))
		}
	}
	if kernelAtLeast(t, 5, 18) {
		b.check(err)
		return
	}
	var e *chain.Error
	if !errors.As(err, &e) {
		t.Errorf("the error is %v, want one with a reason", err)
	}
	t.Logf("this kernel: %v", err)
}

// TestContractFragsTogether mixes members with and without frags where packets fit into one buffer, also such
// that make tail calls.
func TestContractFragsTogether(t *testing.T) {
	skipBefore(t, 5, 18, "frags")
	b := newBench(t)
	step, frags := b.load("step", ""), b.load("step_frags", "")
	s, f := byte(step.id), byte(frags.id)
	b.run(b.plan(all(passing, step, frags)...))
	b.follow(frame(), 3, s, f)
	b.run(b.plan(all(passing, frags, frags)...))
	b.follow(frame(), 3, f, f)
	b.run(b.plan(all(passing, frags, step)...))
	b.follow(frame(), 3, f, s)
	tail, tailFrags := b.load("tail", "caller"), b.load("tail_frags", "caller")
	c, d := byte(tail.id), byte(tailFrags.id)
	for _, chain := range []struct {
		members []*program
		marks   []byte
	}{
		{[]*program{tail, step}, []byte{c, c, s}},
		{[]*program{tailFrags}, []byte{d, d}},
		{[]*program{frags, tailFrags, frags}, []byte{f, d, d, f}},
		{[]*program{tail, frags}, []byte{c, c, f}},
		{[]*program{tailFrags, step}, []byte{d, d, s}},
		{[]*program{tailFrags, tail}, []byte{d, d, c, c}},
	} {
		b.run(b.plan(all(passing, chain.members...)...))
		b.follow(frame(), 3, chain.marks...)
	}
}
