// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// stage makes the next revision of one interface and the record of it.
func (c *Controller) stage(ctx context.Context, ch *change, s *step) error {
	last, err := c.store.LastRevision(s.iface)
	if err != nil {
		return storeError(err)
	}
	s.after = s.before
	s.after.Interface = s.iface
	s.after.Chain = ch.next[s.iface]
	s.after.Revision = last + 1
	if s.gone {
		err := c.settle(&s.after)
		s.after.Netns, s.after.Ifindex, s.after.Use, s.after.Revisions = 0, 0, 0, nil
		return err
	}
	c.putOn(&s.after, s.device)
	nic, err := netif.ByName(s.iface)
	plan := dispatcher.Plan{
		Moved:    err != nil || device(nic) != bare(s.device),
		Revision: last + 1, Final: s.after.Chain.Final, Mode: s.after.Chain.Mode, Dry: ch.options.DryRun, In: inside(s.iface),
	}
	plan.Lingers = err == nil && nic.XDP.ID != 0 && c.plane.Ran(s.device, nic.XDP.ID)
	if ch.takeover {
		if err := takeover(&plan, s); err != nil {
			return err
		}
	}
	if plan.Frags, err = c.anyFrags(s.before.Chain); err != nil {
		return err
	}
	live := store.Revision{Number: last + 1}
	if plan.Slots, err = c.slots(ch, s.after.Chain); err != nil {
		return err
	}
	for _, slot := range plan.Slots {
		live.Slots = append(live.Slots, store.Slot{Program: slot.Name, ProgramID: slot.Program})
	}
	if err := c.wholePrograms(plan.Slots); err != nil {
		return err
	}
	if s.staged, err = c.plane.Stage(ctx, s.device, plan); err != nil {
		return c.explainBusy(err, s.iface)
	}
	if s.staged.Took == nil && ch.options.DryRun {
		if err := c.vacant(s); err != nil {
			return err
		}
	}
	if s.staged.Actual != "" {
		s.after.Actual, s.after.ModeReason = s.staged.Actual, s.staged.ModeReason
	}
	s.after.Linker, _ = c.plane.Linker()
	return c.fold(s, live)
}

// wholePrograms makes the pins of programs again that somebody removed and that nobody has noticed yet.
func (c *Controller) wholePrograms(slots []dispatcher.Slot) error {
	for _, s := range slots {
		missing, err := c.plane.DamageProgram(s.Program)
		if err == nil && len(missing) > 0 {
			_, err = c.plane.RestoreProgram(s.Program)
		}
		if err != nil {
			c.rouse()
			return chain.Errorf(chain.Kernel, chain.Facts{"program": s.Name, "error": err.Error()},
				"somebody removed the pins of program %q, which is going to be loaded anew (try again): %w", s.Name, err)
		}
	}
	return nil
}

// took are the foreign programs that a change replaces, or did.
func (ch *change) took() (took []Takeover) {
	for _, s := range ch.steps {
		if s.staged != nil && s.staged.Took != nil {
			t := s.staged.Took
			took = append(took, Takeover{s.iface, Foreign{t.ID, t.Name, t.Mode}, t.Swapped})
		}
	}
	return took
}

// takeover makes a plan replace the foreign program that the interface of a step has, if any.
func takeover(plan *dispatcher.Plan, s *step) error {
	nic, err := netif.ByName(s.iface)
	if err != nil {
		return err
	}
	netns, _, err := chain.ParseInterface(s.iface)
	if err != nil {
		return err
	}
	plan.Takeover, plan.Holder, plan.HolderMode = true, nic.XDP.ID, nic.XDP.Mode
	plan.Hook = func(program int) error { return netif.Hook(netns, nic.Index, program, nic.XDP.Mode) }
	plan.Unhook = func(program int) error { return netif.Unhook(netns, nic.Index, program, nic.XDP.Mode) }
	return nil
}

// slots are the members of a chain that run, with the versions of their programs that the change makes.
func (c *Controller) slots(ch *change, of chain.Chain) ([]dispatcher.Slot, error) {
	var slots []dispatcher.Slot
	for _, m := range of.Enabled() {
		p, err := c.findProgram(ch, m.Program)
		if err != nil {
			return nil, err
		}
		o, err := c.object(p)
		if err != nil {
			return nil, err
		}
		slots = append(slots, dispatcher.Slot{Program: p.ID, Name: p.Name, Object: o, ProceedOn: m.ProceedOn})
	}
	return slots, nil
}

// vacant fails where a dry run would put the first program on an interface that has a foreign one.
func (c *Controller) vacant(s *step) error {
	if s.known && s.device == c.deviceOf(s.before) {
		if _, err := c.plane.Live(s.device); !errors.Is(err, dispatcher.ErrGone) {
			return nil
		}
	}
	nic, err := netif.ByName(s.iface)
	if err != nil || nic.XDP.ID == 0 {
		return err
	}
	return c.explainBusy(dispatcher.ErrBusy, s.iface)
}

// anyFrags tells whether a member of a chain can work on packets of more than one buffer: the interface may then
// take no program that cannot, not even one without members.
func (c *Controller) anyFrags(of chain.Chain) (bool, error) {
	for _, m := range of.Members {
		p, err := c.program(m.Program)
		if err != nil {
			return false, err
		}
		o, err := c.object(p)
		if err != nil {
			return false, err
		}
		if o.Frags() {
			return true, nil
		}
	}
	return false, nil
}
