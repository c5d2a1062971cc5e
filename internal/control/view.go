// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/store"
)

// Programs returns all programs, sorted by name.
func (c *Controller) Programs(context.Context) ([]Program, error) {
	programs, err := c.store.Programs()
	if err != nil {
		return nil, storeError(err)
	}
	out := make([]Program, 0, len(programs))
	for _, p := range programs {
		view, err := c.programView(p)
		if err != nil {
			return nil, err
		}
		out = append(out, view)
	}
	return out, nil
}

// Program returns one program.
func (c *Controller) Program(_ context.Context, name string) (Program, error) {
	p, err := c.program(name)
	if err != nil {
		return Program{}, err
	}
	return c.programView(p)
}

// Chains returns all chains, sorted by interface.
func (c *Controller) Chains(ctx context.Context) ([]Chain, error) {
	chains, err := c.store.Chains()
	if err != nil {
		return nil, storeError(err)
	}
	out := make([]Chain, 0, len(chains))
	for _, rec := range chains {
		view, err := c.Chain(ctx, rec.Interface)
		if errors.Is(err, &chain.Error{Reason: chain.ChainNotFound}) {
			continue // it went while the others were looked at
		}
		if err != nil {
			return nil, err
		}
		out = append(out, view)
	}
	return out, nil
}

// Chain returns the chain of one interface, after any change of it that is being made.
func (c *Controller) Chain(ctx context.Context, iface string) (Chain, error) {
	unlock, err := c.lock(ctx, nil, []string{iface})
	if err != nil {
		return Chain{}, err
	}
	defer unlock()
	rec, err := c.chainOf(iface)
	if err != nil {
		return Chain{}, err
	}
	return c.chainView(rec)
}

// Status tells about the working parts. Problems are looked for anew, but on interfaces that are just being
// changed: it waits for nobody.
func (c *Controller) Status(context.Context) (Status, error) {
	s := Status{Kernel: kernelRelease(), BPFFS: c.plane.Root(), Probes: c.plane.Probes()}
	s.Linker, s.LinkerReason = c.plane.Linker()
	programs, err := c.store.Programs()
	if err != nil {
		return s, storeError(err)
	}
	chains, err := c.store.Chains()
	if err != nil {
		return s, storeError(err)
	}
	s.Programs, s.Chains = len(programs), len(chains)
	for _, rec := range chains {
		if err := c.examine(rec.Interface); err != nil {
			return s, err
		}
	}
	c.mu.Lock()
	for what, problem := range c.problems {
		s.Problems = append(s.Problems, what+": "+problem)
	}
	c.mu.Unlock()
	slices.Sort(s.Problems)
	return s, nil
}

// examine looks whether an interface runs what it shall.
func (c *Controller) examine(iface string) error {
	unlock, ok := c.interfaces.try(iface)
	if !ok {
		return nil
	}
	defer unlock()
	rec, known, err := c.store.Chain(iface)
	if err != nil {
		return storeError(err)
	}
	if known {
		c.live(rec)
	}
	return nil
}

// live finds what runs on an interface, and notes it as a problem where that is not what shall run.
func (c *Controller) live(rec store.Chain) dispatcher.Live {
	live, err := c.plane.Live(c.deviceOf(rec))
	switch {
	case errors.Is(err, dispatcher.ErrGone) && c.problem(rec.Interface) != "":
		return dispatcher.Live{} // why is known
	case err != nil:
		c.setProblem(rec.Interface, err.Error())
		return dispatcher.Live{}
	case live.Revision != rec.Revision:
		c.setProblem(rec.Interface, fmt.Sprintf("runs revision %d, not %d", live.Revision, rec.Revision))
	default:
		c.setProblem(rec.Interface, "")
	}
	return live
}

// answer is what a change of a program returns; the locks of the interfaces are held.
func (c *Controller) answer(p store.Program, interfaces []string) (Program, []Chain, error) {
	view, err := c.programView(p)
	if err != nil {
		return Program{}, nil, err
	}
	chains, err := c.views(interfaces)
	return view, chains, err
}

// views are the chains of interfaces whose locks are held; one without a chain has no members.
func (c *Controller) views(interfaces []string) ([]Chain, error) {
	interfaces = slices.Clone(interfaces)
	slices.Sort(interfaces)
	var out []Chain
	for _, iface := range slices.Compact(interfaces) {
		rec, known, err := c.store.Chain(iface)
		if err != nil {
			return nil, storeError(err)
		}
		if !known {
			out = append(out, Chain{Interface: iface})
			continue
		}
		view, err := c.chainView(rec)
		if err != nil {
			return nil, err
		}
		out = append(out, view)
	}
	return out, nil
}

func (c *Controller) programView(p store.Program) (Program, error) {
	places, err := c.places(p.Name)
	if err != nil {
		return Program{}, err
	}
	kernelID, maps, err := c.plane.Program(p.ID)
	if err != nil {
		c.log.Error("a program's pins cannot be read", "program", p.Name, "error", err)
	}
	return Program{
		ID: p.ID, Name: p.Name, Function: p.Function, SHA256: p.Object, Size: p.Size, Lifetime: Lifetime(p.Lifetime),
		Interfaces: places, Maps: maps, KernelID: kernelID, Added: p.Added, OwnerUID: p.OwnerUID,
	}, nil
}

// chainView is a chain with the counts of all revisions it had. Where the kernel does not run the intended
// revision the view has no kernel id, and the status says why.
func (c *Controller) chainView(rec store.Chain) (Chain, error) {
	view := Chain{
		Interface: rec.Interface, Ifindex: rec.Ifindex, Mode: rec.Chain.Mode, Actual: rec.Actual, ModeReason: rec.ModeReason,
		Final: rec.Chain.Final, Linker: rec.Linker,
	}
	live := c.live(rec)
	view.Revision, view.KernelID, view.LinkID = live.Revision, live.KernelID, live.LinkID
	total := rec
	if err := c.settle(&total); err != nil {
		c.log.Error("counters cannot be read", "interface", rec.Interface, "error", err)
	}
	view.Packets, view.End = total.Packets, total.End
	slot := 0
	for _, m := range rec.Chain.Members {
		member := Member{Member: m, Slot: -1, Counts: total.Totals[m.Program]}
		if !m.Disabled {
			member.Slot = slot
			slot++
		}
		view.Members = append(view.Members, member)
	}
	return view, nil
}
