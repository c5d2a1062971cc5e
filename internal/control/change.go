// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// change is what one request does: the next chains, computed and valid, and what becomes of programs. The
// locks of all its interfaces are held.
type change struct {
	next    map[string]chain.Chain // by interface; without members: the chain goes
	force   bool                   // make a new revision also where nothing differs
	put     []store.Program
	objects map[string][]byte // of put, by sha256
	remove  []store.Program
	kept    map[string][]byte // the objects of remove, for putting them back
}

// step is the part of a change on one interface.
type step struct {
	iface  string
	device dispatcher.Device
	gone   bool // the interface does not exist: only the intent changes
	before store.Chain
	known  bool // before was in the store
	after  store.Chain
	staged *dispatcher.Staged
}

// apply makes a change, all or nothing: stage on every interface, save, commit on every interface. After
// that only things are left that a later change or start can make up for: they are logged.
func (c *Controller) apply(ctx context.Context, ch change) error {
	steps, err := c.plan(ch)
	if err != nil {
		return err
	}
	settled := true // the store says what the kernel does, or will when Reconcile finishes what is staged
	defer func() {
		for _, s := range steps {
			switch {
			case s.staged == nil:
			case settled:
				c.logIf("tidy up after a change", s.iface, s.staged.Discard())
			default: // a panic on its way to the server
				c.logIf("tidy up after a change", s.iface, s.staged.Close())
			}
		}
	}()
	for _, s := range steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := c.stage(ch, s); err != nil {
			return about(err, s.iface)
		}
	}
	if err := failpoint.Err(failpoint.SaveBefore); err != nil {
		return err
	}
	if err := c.store.Save(c.intent(ch, steps)); err != nil {
		return storeError(err)
	}
	settled = false
	failpoint.Hit(failpoint.SaveAfter)
	if err := c.commit(steps); err != nil {
		err = errors.Join(err, c.putBack(ch, steps))
		settled = true
		return err
	}
	settled = true
	c.tidy(ch, steps)
	return nil
}

// plan finds what each interface has, and drops those where nothing changes.
func (c *Controller) plan(ch change) ([]*step, error) {
	var steps []*step
	for _, iface := range slices.Sorted(maps.Keys(ch.next)) {
		s := &step{iface: iface}
		var err error
		if s.before, s.known, err = c.store.Chain(iface); err != nil {
			return nil, storeError(err)
		}
		if s.known && !ch.force && s.before.Chain.Equal(ch.next[iface]) {
			continue
		}
		if s.device, s.gone, err = c.locate(iface, s.before, s.known); err != nil {
			return nil, err
		}
		if s.known && !s.gone && s.device == c.deviceOf(s.before) && c.astray(s.before) {
			if err := c.repair(s.before); err != nil {
				return nil, about(err, iface)
			}
		}
		steps = append(steps, s)
	}
	return steps, nil
}

// stage makes the next revision of one interface and the record of it.
func (c *Controller) stage(ch change, s *step) error {
	last, err := c.store.LastRevision(s.iface)
	if err != nil {
		return storeError(err)
	}
	s.after = s.before
	s.after.Interface, s.after.Ifindex = s.iface, s.device.Ifindex
	s.after.Chain = ch.next[s.iface]
	s.after.Revision = last + 1
	if s.gone {
		err := c.settle(&s.after)
		s.after.Revisions = nil
		return err
	}
	plan := dispatcher.Plan{Revision: last + 1, Final: s.after.Chain.Final, Mode: s.after.Chain.Mode}
	if plan.Frags, err = c.anyFrags(s.before.Chain); err != nil {
		return err
	}
	live := store.Revision{Number: last + 1}
	for _, m := range s.after.Chain.Enabled() {
		p, err := c.findProgram(ch, m.Program)
		if err != nil {
			return err
		}
		o, err := c.object(p)
		if err != nil {
			return err
		}
		plan.Slots = append(plan.Slots, dispatcher.Slot{Program: p.ID, Name: p.Name, Object: o, ProceedOn: m.ProceedOn})
		live.Slots = append(live.Slots, store.Slot{Program: p.Name, ProgramID: p.ID})
	}
	if s.staged, err = c.plane.Stage(s.device, plan); err != nil {
		return c.explainBusy(err, s.device.Ifindex)
	}
	if s.staged.Actual != "" {
		s.after.Actual, s.after.ModeReason = s.staged.Actual, s.staged.ModeReason
	}
	s.after.Linker, _ = c.plane.Linker()
	return c.fold(s, live)
}

// fold adds to the totals what revisions before the live one counted: no packet is in them any more since the
// change that replaced them was tidied. The live one's counters are final only when it is not live any more, and are folded by the change
// after this one, in the same transaction that saves that change's intent.
func (c *Controller) fold(s *step, next store.Revision) error {
	s.after.Totals = totalsOf(s.before, s.after.Chain)
	s.after.Revisions = []store.Revision{next}
	done := s.before.Revisions
	if n := len(done); n > 0 && c.deviceOf(s.before) == s.device {
		done = done[:n-1]
		s.after.Revisions = []store.Revision{disown(s.before.Revisions[n-1], s.after.Chain), next}
	}
	if len(done) == 0 {
		return nil
	}
	if err := failpoint.Err(failpoint.FoldBefore); err != nil {
		return err
	}
	for _, rev := range done {
		if err := c.addCounts(&s.after, c.deviceOf(s.before), rev); err != nil {
			return err
		}
	}
	return nil
}

// disown takes the names of members that leave the chain out of a revision, so that its counts do not go to a
// member of that name that is placed here later.
func disown(rev store.Revision, c chain.Chain) store.Revision {
	rev.Slots = slices.Clone(rev.Slots)
	for i := range rev.Slots {
		if c.Index(rev.Slots[i].Program) < 0 {
			rev.Slots[i] = store.Slot{}
		}
	}
	return rev
}

// addCounts adds a revision's counters to the totals of the members that are still there. A revision whose
// pins somebody removed counts for nothing.
func (c *Controller) addCounts(rec *store.Chain, d dispatcher.Device, rev store.Revision) error {
	exits, err := c.plane.Counters(d, rev.Number)
	if errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("the counts of a revision are lost: its pins are gone", "interface", rec.Interface, "revision", rev.Number)
		return nil
	}
	if err != nil {
		return err
	}
	n := len(rev.Slots)
	rec.End += exits.End(n)
	rec.Packets += exits.Packets(n)
	for i, slot := range rev.Slots {
		if total, ok := rec.Totals[slot.Program]; ok {
			total.Add(exits.Member(i, n))
			rec.Totals[slot.Program] = total
		}
	}
	return nil
}

// settle adds all that is only counted in the kernel to a chain's totals, the live revision's counts too.
func (c *Controller) settle(rec *store.Chain) error {
	rec.Totals = totalsOf(*rec, rec.Chain)
	var errs []error
	for _, rev := range rec.Revisions {
		errs = append(errs, c.addCounts(rec, c.deviceOf(*rec), rev))
	}
	return errors.Join(errs...)
}

// totalsOf is a map of its own with the totals of the members of c, which is the chain of rec or its next.
func totalsOf(rec store.Chain, c chain.Chain) map[string]chain.Counts {
	totals := make(map[string]chain.Counts, len(c.Members))
	for _, m := range c.Members {
		totals[m.Program] = rec.Totals[m.Program]
	}
	return totals
}

// intent is the change as the store shall have it.
func (c *Controller) intent(ch change, steps []*step) store.Change {
	out := store.Change{PutPrograms: ch.put, Objects: ch.objects}
	for _, p := range ch.remove {
		out.DeletePrograms = append(out.DeletePrograms, p.Name)
	}
	for _, s := range steps {
		if len(s.after.Chain.Members) == 0 {
			out.DeleteChains = append(out.DeleteChains, s.iface)
		} else {
			out.PutChains = append(out.PutChains, s.after)
		}
	}
	return out
}

// commit swaps the revisions of all interfaces; if one fails, those done are swapped back.
func (c *Controller) commit(steps []*step) error {
	for i, s := range steps {
		if s.staged == nil {
			continue
		}
		if err := s.staged.Commit(); err != nil {
			err = about(c.explainBusy(err, s.device.Ifindex), s.iface)
			for _, done := range slices.Backward(steps[:i]) {
				if done.staged == nil {
					continue
				}
				if back := done.staged.Revert(); back != nil {
					err = errors.Join(err, fmt.Errorf("swap %s back: %w", done.iface, back))
				}
			}
			return err
		}
		failpoint.Hit(failpoint.CommitAfter)
	}
	return nil
}

// putBack makes the store say again what it said before a change whose commit failed. The objects of removed
// programs are written anew.
func (c *Controller) putBack(ch change, steps []*step) error {
	back := store.Change{PutPrograms: ch.remove, Objects: ch.kept}
	for _, p := range ch.put {
		back.DeletePrograms = append(back.DeletePrograms, p.Name)
	}
	for _, s := range steps {
		if s.known {
			back.PutChains = append(back.PutChains, s.before)
		} else {
			back.DeleteChains = append(back.DeleteChains, s.iface)
		}
	}
	if err := c.store.Save(back); err != nil {
		return fmt.Errorf("put the store back: %w (restart the daemon: it then makes the kernel as the store says)", err)
	}
	return nil
}

// tidy removes what no packet goes through any more.
func (c *Controller) tidy(ch change, steps []*step) {
	// A packet that is still in an old revision must find its members in their slots, and its counts are final
	// only when it has left.
	if err := dispatcher.Quiesce(); err != nil {
		c.log.Error("wait for packets in flight", "error", err)
	}
	for _, s := range steps {
		old := c.deviceOf(s.before)
		if s.known && s.before.Ifindex != 0 && (s.gone || old != s.device) {
			c.logIf("remove the pins of an interface that is gone", s.iface, c.plane.Detach(old))
		}
		switch {
		case s.gone:
		case len(s.after.Chain.Members) == 0:
			c.logIf("detach an empty chain", s.iface, c.plane.Detach(s.device))
		default:
			c.logIf("remove the pins of old revisions", s.iface, c.prune(s.after))
		}
		c.setProblem(s.iface, "")
	}
	for _, p := range ch.remove {
		c.remember(p.ID, nil)
		c.setProblem("program "+p.Name, "")
		c.logIf("unload program "+p.Name, "", c.plane.Unload(p.ID))
	}
}

// prune keeps of a chain's pins those of the intended revision, and the counters that are not folded yet.
func (c *Controller) prune(rec store.Chain) error {
	var counted []uint64
	for _, rev := range rec.Revisions {
		counted = append(counted, rev.Number)
	}
	return c.plane.Prune(c.deviceOf(rec), rec.Revision, counted)
}

func (c *Controller) deviceOf(rec store.Chain) dispatcher.Device {
	return dispatcher.Device{Netns: c.netns, Ifindex: rec.Ifindex}
}

// findProgram looks a program up among those that a change adds, then in the store.
func (c *Controller) findProgram(ch change, name string) (store.Program, error) {
	for _, p := range ch.put {
		if p.Name == name {
			return p, nil
		}
	}
	return c.program(name)
}

func (c *Controller) program(name string) (store.Program, error) {
	p, ok, err := c.store.Program(name)
	if err != nil {
		return p, storeError(err)
	}
	if !ok {
		return p, chain.Errorf(chain.ProgramNotFound, chain.Facts{"program": name}, "there is no program %q (xdpctl ls lists them)", name)
	}
	return p, nil
}

// explainBusy says who holds an interface.
func (c *Controller) explainBusy(err error, ifindex int) error {
	if errors.Is(err, dispatcher.ErrGone) {
		return chain.Errorf(chain.Kernel, chain.Facts{"error": err.Error()},
			"%w: the interface went, or somebody detached its link, in the middle of the change (try again)", err)
	}
	if !errors.Is(err, dispatcher.ErrBusy) && !errors.Is(err, dispatcher.ErrForeign) {
		return err
	}
	state, attached, xerr := netif.XDP(ifindex)
	if xerr != nil {
		return chain.Errorf(chain.InterfaceBusy, nil, "%w (who it is cannot be found out: %v)", err, xerr)
	}
	if !attached {
		return chain.Errorf(chain.InterfaceBusy, nil, "%w (it has gone meanwhile: try again)", err)
	}
	name, nerr := dispatcher.ProgramName(state.ID)
	if nerr != nil {
		name = "unknown"
	}
	return chain.Errorf(chain.InterfaceBusy, chain.Facts{
		"holder_id": fmt.Sprint(state.ID), "holder_name": name, "holder_mode": string(state.Mode),
	}, "%w: program %d (%s) in %s mode holds the interface; xdpd does not touch it (detach it with the tool that attached it)",
		err, state.ID, name, state.Mode)
}

// about adds the interface to an error that carries facts.
func about(err error, iface string) error {
	var e *chain.Error
	if errors.As(err, &e) && e.Facts["interface"] == "" {
		return e.With("interface", iface)
	}
	return err
}

func (c *Controller) logIf(what, iface string, err error) {
	if err != nil {
		c.log.Error(what, "interface", iface, "error", err)
	}
}
