// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/xdpd/xdpd/chain"
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
	findSharers(out, out)
	return out, nil
}

// Program returns one program.
func (c *Controller) Program(ctx context.Context, name string) (Program, error) {
	if _, err := c.program(name); err != nil {
		return Program{}, err
	}
	all, err := c.Programs(ctx) // whoever shares its maps is among them
	if err != nil {
		return Program{}, err
	}
	if i := slices.IndexFunc(all, func(p Program) bool { return p.Name == name }); i >= 0 {
		return all[i], nil
	}
	_, err = c.program(name) // it went while the others were looked at
	return Program{}, err
}

// listPatience is how long a list waits, in all, for changes that are being made.
const listPatience = 5 * time.Second

// Chains returns all chains, sorted by interface, and with them interfaces that a change left without one and that
// get it back unless the change is confirmed. One that is just being changed, for long, is as it was saved last.
func (c *Controller) Chains(ctx context.Context) ([]Chain, error) {
	interfaces, err := c.chained()
	if err != nil {
		return nil, err
	}
	patience := listPatience
	out, missing, err := c.viewAll(ctx, interfaces, &patience)
	if err != nil || !missing {
		return out, err
	}
	renamed, err := c.chained()
	if err != nil {
		return nil, err
	}
	renamed = slices.DeleteFunc(renamed, func(name string) bool { return slices.Contains(interfaces, name) })
	more, _, err := c.viewAll(ctx, renamed, &patience)
	out = slices.DeleteFunc(out, func(old Chain) bool {
		return slices.ContainsFunc(more, func(now Chain) bool { return now.Former == old.Interface })
	})
	out = append(out, more...)
	slices.SortFunc(out, func(a, b Chain) int { return strings.Compare(a.Interface, b.Interface) })
	return out, err
}

// viewAll looks at the chains of interfaces. missing: some went meanwhile, or have other names now. What is waited for is taken
// off patience.
func (c *Controller) viewAll(ctx context.Context, interfaces []string, patience *time.Duration) (out []Chain, missing bool, err error) {
	out = make([]Chain, 0, len(interfaces))
	for _, iface := range interfaces {
		began, free := time.Now(), c.interfaces.free(iface)
		patient, cancel := context.WithTimeout(ctx, *patience)
		view, err := c.Chain(patient, iface)
		if err != nil && patient.Err() != nil && ctx.Err() == nil {
			view, err = c.lastView(iface)
		}
		cancel()
		if !free {
			*patience -= time.Since(began) // what it takes to look is no waiting
		}
		if errors.Is(err, &chain.Error{Reason: chain.ChainNotFound}) {
			missing = true
			continue
		}
		if err != nil {
			return nil, false, err
		}
		out = append(out, view)
	}
	return out, missing, nil
}

// chained are the interfaces that have a chain, or get one back unless a change is confirmed, sorted.
func (c *Controller) chained() (interfaces []string, err error) {
	chains, err := c.chains()
	if err != nil {
		return nil, err
	}
	for _, rec := range chains {
		interfaces = append(interfaces, rec.Interface)
	}
	pending, err := c.store.Pending()
	if err != nil {
		return nil, storeError(err)
	}
	for _, p := range pending {
		changed, _ := claims(p)
		interfaces = append(interfaces, changed...)
	}
	slices.Sort(interfaces)
	return slices.Compact(interfaces), nil
}

// lastView is the chain of an interface as it was saved last, while a change of it is being made that takes long.
func (c *Controller) lastView(iface string) (Chain, error) {
	rec, err := c.chainOf(iface)
	if err != nil {
		return Chain{}, err
	}
	view := Chain{
		Interface: rec.Interface, Ifindex: rec.Ifindex, Revision: rec.Revision, Mode: rec.Chain.Mode, Actual: rec.Actual, ModeReason: rec.ModeReason,
		Final: rec.Chain.Final, Linker: rec.Linker, Former: rec.Former, Packets: rec.Packets, End: rec.End, Members: members(rec),
		Problem: "a change of it is being made and takes long: this is what was saved last, without the packets since",
	}
	c.mu.Lock()
	if runs, ok := c.running[iface]; ok {
		view.State, view.KernelID = Running, runs.kernelID
	}
	c.mu.Unlock()
	view.Pending, _, err = c.pendingOf(iface)
	return view, err
}

// Chain returns the chain of one interface, after any change of it that is being made.
func (c *Controller) Chain(ctx context.Context, iface string) (Chain, error) {
	unlock, err := c.lock(ctx, nil, []string{iface})
	if err != nil {
		return Chain{}, err
	}
	defer unlock()
	rec, err := c.chainOf(iface)
	if err == nil {
		return c.chainView(rec)
	}
	if !errors.Is(err, &chain.Error{Reason: chain.ChainNotFound}) {
		return Chain{}, err
	}
	p, before, pendingErr := c.pendingOf(iface)
	if pendingErr != nil || before == nil {
		return Chain{}, errors.Join(pendingErr, err)
	}
	return Chain{Interface: iface, Mode: before.Mode, Final: before.Final, Pending: p}, nil
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
	chains, err := c.chains()
	if err != nil {
		return s, err
	}
	s.Programs, s.Chains = len(programs), len(chains)
	for _, rec := range chains {
		if err := c.examine(rec.Interface); err != nil {
			return s, err
		}
	}
	if s.Leases, err = c.leaseViews(); err != nil {
		return s, err
	}
	c.examineStore()
	c.mu.Lock()
	for what, problem := range c.problems {
		s.Problems = append(s.Problems, what+": "+problem)
	}
	c.mu.Unlock()
	slices.Sort(s.Problems)
	return s, nil
}

// examineStore notes what is wrong with the store.
func (c *Controller) examineStore() {
	text := ""
	if err := c.store.Problem(); err != nil {
		text = err.Error()
	}
	c.setProblem("store", text)
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
		c.examined(rec)
	}
	return nil
}

// views are the chains that a change names; one that is gone, or never was, has no members.
func (c *Controller) views(ch *change) ([]Chain, error) {
	var out []Chain
	for _, iface := range slices.Sorted(maps.Keys(ch.next)) {
		if i := slices.IndexFunc(ch.steps, func(s *step) bool { return s.iface == iface }); i >= 0 && ch.options.DryRun {
			out = append(out, imagined(ch.steps[i]))
			continue
		}
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

// imagined is the chain that a dry run would have made. Nothing of it is in the kernel.
func imagined(s *step) Chain {
	rec := s.after
	if len(rec.Chain.Members) == 0 {
		return Chain{Interface: s.iface}
	}
	view := Chain{
		Interface: rec.Interface, Ifindex: rec.Ifindex, Revision: rec.Revision, Mode: rec.Chain.Mode, Actual: rec.Actual,
		ModeReason: rec.ModeReason, Final: rec.Chain.Final, Linker: rec.Linker, Packets: rec.Packets, End: rec.End,
	}
	view.Members = members(rec)
	return view
}

// imagine is a program as a dry run would have left it.
func (ch *change) imagine(p Program) Program {
	if slices.Contains(ch.loaded, p.ID) {
		p.KernelID = 0
		for i := range p.Maps {
			p.Maps[i].Pin, p.Maps[i].KernelID = "", 0
		}
	}
	p.Interfaces = slices.DeleteFunc(p.Interfaces, func(iface string) bool { _, named := ch.next[iface]; return named })
	for iface, next := range ch.next {
		if next.Index(p.Name) >= 0 {
			p.Interfaces = append(p.Interfaces, iface)
		}
	}
	slices.Sort(p.Interfaces)
	return p
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
	view := Program{
		ID: p.ID, Name: p.Name, Function: p.Function, SHA256: p.Object, Size: p.Size, Lifetime: Lifetime(p.Lifetime),
		Interfaces: places, KernelID: kernelID, Added: p.Added, OwnerUID: p.OwnerUID, Settings: p.Settings,
		Lease: p.Lease, Patterns: p.Patterns,
	}
	for _, m := range maps {
		view.Maps = append(view.Maps, Map{Map: m})
	}
	return view, nil
}

// findSharers adds to programs' maps who else uses them. others are programs too, all that there are.
func findSharers(programs, others []Program) {
	users := map[uint32][]string{}
	for _, p := range others {
		for _, m := range p.Maps {
			users[m.KernelID] = append(users[m.KernelID], p.Name)
		}
	}
	for _, p := range programs {
		for i := range p.Maps {
			for _, name := range users[p.Maps[i].KernelID] {
				if name != p.Name {
					p.Maps[i].SharedWith = append(p.Maps[i].SharedWith, name)
				}
			}
		}
	}
}

// chainView is a chain with the counts of all revisions it had. Where the kernel does not run the intended
// revision the view has no kernel id, and the status says why.
func (c *Controller) chainView(rec store.Chain) (Chain, error) {
	view := Chain{
		Interface: rec.Interface, Revision: rec.Revision, Mode: rec.Chain.Mode, Actual: rec.Actual, ModeReason: rec.ModeReason,
		Final: rec.Chain.Final, Linker: rec.Linker, Former: rec.Former,
	}
	cond := c.examined(rec)
	view.State, view.Problem, view.Ifindex = cond.state, cond.text, cond.ifindex
	if live := cond.live; live.Revision == rec.Revision {
		view.KernelID, view.LinkID, view.Ifindex = live.KernelID, live.LinkID, live.Ifindex
	}
	total := rec
	if err := c.settle(&total); err != nil {
		c.log.Error("counters cannot be read", "interface", rec.Interface, "error", err)
	}
	view.Packets, view.End = total.Packets, total.End
	view.Members = members(total)
	var err error
	view.Pending, _, err = c.pendingOf(rec.Interface)
	return view, err
}

// members are those of a chain with their slots and counts.
func members(rec store.Chain) (out []Member) {
	slot := 0
	for _, m := range rec.Chain.Members {
		member := Member{Member: m, Slot: -1, Counts: rec.Totals[m.Program]}
		if !m.Disabled {
			member.Slot = slot
			slot++
		}
		out = append(out, member)
	}
	return out
}
