// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// change is what one request does: the next chains, computed and valid, and what becomes of programs. The
// locks of all its interfaces and programs are held.
type change struct {
	next    map[string]chain.Chain            // by interface; without members: the chain goes
	held    map[string]bool                   // those of next that are only claimed
	relink  bool                              // make a new revision where nothing differs, which is nothing for the history
	put     []store.Program                   // as they shall be
	loaded  []uint64                          // ids of put that were loaded for it
	objects map[string][]byte                 // of put, by sha256
	old     []store.Program                   // as those in put were
	added   []string                          // names of put that there were not
	remove  []store.Program                   // that lose their last place
	kept    map[string][]byte                 // the objects of old and remove, for putting them back
	origins map[string][]dispatcher.MapOrigin // of the maps of what was loaded, by program
	undoes  *store.Pending                    // the change that it takes back
	expired bool                              // undoes was not confirmed in time
	ends    *store.Lease                      // the lease that ends with it
	repairs bool                              // it only mends what somebody damaged
	what    string                            // in a few words
	options Options

	takeover bool // foreign programs are replaced

	steps   []*step
	saved   bool           // the intent is in the store
	pending *store.Pending // what the store has to undo it
	diff    []string
}

// step is the part of a change on one interface.
type step struct {
	iface    string
	device   dispatcher.Device
	gone     bool // nothing of it is or comes into the kernel, as where there is no such interface: only the intent changes
	usurped  bool // it is gone in this sense because our link runs a foreign program, which stays
	before   store.Chain
	known    bool             // before was in the store
	ran      bool             // a revision of it may have packets in it until the change is tidied
	same     bool             // the chain stays: it is only to run again
	counts   []store.Revision // those of before whose counters are to be read, the last one the live one
	after    store.Chain
	diff     []string
	staged   *dispatcher.Staged
	reverted bool // staged was live for a moment, and is not any more
}

// changes tells whether a change, when it is planned, is more than nothing.
func (ch *change) changes() bool {
	return len(ch.steps) > 0 || len(ch.put) > 0 || len(ch.remove) > 0 || ch.insists()
}

// insists tells whether a change waits for no interface: one that cannot have its chain now gets it later.
func (ch *change) insists() bool { return ch.undoes != nil || ch.ends != nil || ch.repairs }

// version is the record of a program that a change puts.
func (ch *change) version(name string) (store.Program, bool) {
	i := slices.IndexFunc(ch.put, func(p store.Program) bool { return p.Name == name })
	if i < 0 {
		return store.Program{}, false
	}
	return ch.put[i], true
}

// swaps tells whether a chain has a member whose program becomes another.
func (ch *change) swaps(c chain.Chain) bool {
	return slices.ContainsFunc(ch.old, func(old store.Program) bool {
		p, _ := ch.version(old.Name)
		return p.ID != old.ID && c.Index(old.Name) >= 0
	})
}

// apply makes a change that is planned, all or nothing: stage on every interface, save, commit on every interface.
// After that only things are left that a later change or start can make up for: they are logged. A dry run ends
// before the save.
func (c *Controller) apply(ctx context.Context, ch *change) error {
	settled := true // the store says what the kernel does, or will when Reconcile finishes what is staged
	defer func() {
		for _, s := range ch.steps {
			switch {
			case s.staged == nil:
			case settled:
				c.logIf("tidy up after a change", s.iface, s.staged.Discard())
			default: // a panic on its way to the server
				c.logIf("tidy up after a change", s.iface, s.staged.Close())
			}
		}
	}()
	for _, s := range ch.steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		err := c.stage(ctx, ch, s)
		if ch.insists() && !s.gone && errors.Is(err, &chain.Error{Reason: chain.InterfaceBusy}) {
			c.giveWay(s)
			err = c.stage(ctx, ch, s)
		}
		if err != nil {
			return about(err, s.iface)
		}
	}
	c.describe(ch)
	if ch.options.DryRun {
		return nil
	}
	if err := failpoint.Err(failpoint.SaveBefore); err != nil {
		return err
	}
	saving, err := c.intent(ch)
	if err != nil {
		return err
	}
	if err := c.save(ctx, saving); err != nil {
		return err
	}
	ch.saved, settled = true, false
	if ch.pending != nil {
		c.rearm()
	}
	failpoint.Hit(failpoint.SaveAfter)
	if err := c.commit(ch.steps); err != nil {
		err = errors.Join(err, c.putBack(ch, saving))
		settled = true
		return err
	}
	settled = true
	c.tidy(ch)
	c.announce(ch)
	return nil
}

// plan finds what each interface has, and drops those where nothing changes.
func (c *Controller) plan(ch *change) error {
	ch.steps = nil
	for _, iface := range slices.Sorted(maps.Keys(ch.next)) {
		s := &step{iface: iface}
		next := ch.next[iface]
		var err error
		if s.before, s.known, err = c.store.Chain(iface); err != nil {
			return storeError(err)
		}
		if !s.known {
			s.before.Chain = chain.New()
		}
		s.same = s.known && s.before.Chain.Equal(next) && !ch.swaps(next)
		if s.same && !ch.relink && (ch.undoes != nil || ch.held[iface] || !c.lacking(s.before)) {
			continue
		}
		if !s.known && len(next.Members) == 0 {
			continue
		}
		if s.known && !ch.options.DryRun {
			c.restore(s.before)
		}
		s.device, s.gone, err = c.locate(iface, s.before, s.known)
		// Undoing waits for nothing: a chain that runs on an interface of another name by now is swapped there, and one
		// whose interface went meanwhile waits for it.
		if isMissing(err) && (ch.insists() || ch.relink) {
			s.device, s.gone, err = c.deviceOf(s.before), !s.known, nil
		}
		if err != nil {
			return err
		}
		err = c.look(ch, s)
		if ch.insists() && errors.Is(err, &chain.Error{Reason: chain.InterfaceBusy}) {
			c.giveWay(s)
			err = nil
		}
		if err != nil {
			return about(err, iface)
		}
		ch.steps = append(ch.steps, s)
	}
	return nil
}

// giveWay leaves an interface to a foreign program: the chain waits for its place, and others do not wait for it.
func (c *Controller) giveWay(s *step) {
	s.gone = true
	if s.known && s.before.Ifindex != 0 {
		_, err := c.plane.Live(c.deviceOf(s.before))
		s.usurped = errors.Is(err, dispatcher.ErrForeign)
	}
}

// look sees what runs on the device of a step's chain, and mends it as far as pins go.
func (c *Controller) look(ch *change, s *step) error {
	s.counts, s.ran = s.before.Revisions, s.known
	if !s.known || s.gone {
		return nil
	}
	d := c.deviceOf(s.before)
	if s.device == d && !ch.relink && !ch.options.DryRun && c.astray(s.before) {
		if err := c.repair(s.before); err != nil {
			return err
		}
	}
	live, err := c.plane.Live(d)
	if errors.Is(err, dispatcher.ErrGone) {
		s.ran = false
		s.gone = len(ch.next[s.iface].Members) == 0 // what is not there need not be taken off; another's program may be in its place
	}
	if i := slices.IndexFunc(s.counts, func(r store.Revision) bool { return err == nil && r.Number == live.Revision }); i >= 0 {
		s.counts = s.counts[:i+1]
	}
	return nil
}

// lacking tells whether an interface is there and does not run its chain.
func (c *Controller) lacking(rec store.Chain) bool {
	nic, err := netif.ByName(rec.Interface)
	if err != nil {
		return false
	}
	live, err := c.plane.Live(c.deviceOf(rec))
	return err != nil || live.Revision != rec.Revision || live.KernelID != nic.XDP.ID
}

// intent is the change as the store shall have it.
func (c *Controller) intent(ch *change) (store.Change, error) {
	out := store.Change{PutPrograms: ch.put, Objects: ch.objects, HistoryLimit: c.history}
	for _, p := range ch.remove {
		out.DeletePrograms = append(out.DeletePrograms, p.Name)
	}
	for _, s := range ch.steps {
		if len(s.after.Chain.Members) == 0 {
			out.DeleteChains = append(out.DeleteChains, s.iface)
		} else {
			out.PutChains = append(out.PutChains, s.after)
		}
		if s.same {
			continue
		}
		entry, err := c.entry(ch, s)
		if err != nil {
			return out, err
		}
		out.PutHistory = append(out.PutHistory, entry)
	}
	if ch.undoes != nil {
		out.DeletePending = []uint64{ch.undoes.ID}
	}
	if ch.ends != nil {
		out.DeleteLeases = []uint64{ch.ends.ID}
	}
	if ch.options.ConfirmWithin > 0 {
		var err error
		if ch.pending, err = c.undoable(ch); err != nil {
			return out, err
		}
		out.PutPending = []store.Pending{*ch.pending}
	}
	return out, nil
}

// entry is the history's of one interface.
func (c *Controller) entry(ch *change, s *step) (store.Entry, error) {
	e := store.Entry{
		Interface: s.iface, Revision: s.after.Revision, Chain: s.after.Chain, Time: time.Now().UTC(),
		Caller: ch.options.Caller, What: ch.what, Comment: ch.options.Comment, Diff: s.diff,
	}
	for _, m := range e.Chain.Members {
		p, err := c.findProgram(ch, m.Program)
		if err != nil {
			return e, err
		}
		e.Programs = append(e.Programs, p)
	}
	return e, nil
}

// commit swaps the revisions of all interfaces; if one fails, those done are swapped back.
func (c *Controller) commit(steps []*step) error {
	for i, s := range steps {
		if s.staged == nil {
			continue
		}
		if err := s.staged.Commit(); err != nil {
			err = about(c.explainBusy(err, s.iface), s.iface)
			for _, done := range slices.Backward(steps[:i]) {
				if done.staged == nil {
					continue
				}
				if back := done.staged.Revert(); back != nil {
					err = errors.Join(err, fmt.Errorf("swap %s back: %w", done.iface, back))
				} else {
					done.reverted = true
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
func (c *Controller) putBack(ch *change, saved store.Change) error {
	back := store.Change{PutPrograms: slices.Concat(ch.old, ch.remove), DeletePrograms: ch.added, Objects: ch.kept}
	c.recount(ch.steps)
	for _, s := range ch.steps {
		if s.known {
			back.PutChains = append(back.PutChains, s.before)
		} else {
			back.DeleteChains = append(back.DeleteChains, s.iface)
		}
	}
	for _, e := range saved.PutHistory {
		back.DeleteHistory = append(back.DeleteHistory, store.EntryKey{Interface: e.Interface, Revision: e.Revision})
	}
	for _, p := range saved.PutPending {
		back.DeletePending = append(back.DeletePending, p.ID)
	}
	if ch.undoes != nil {
		back.PutPending = []store.Pending{*ch.undoes}
	}
	if ch.ends != nil {
		back.PutLeases = []store.Lease{*ch.ends}
	}
	if err := c.save(context.Background(), back); err != nil {
		return fmt.Errorf("put the store back: %w (restart the daemon: it then makes the kernel as the store says)", err)
	}
	ch.saved = false
	return nil
}

// recount adds to what chains counted before a change what they counted while it was live for a moment.
func (c *Controller) recount(steps []*step) {
	swapped := slices.DeleteFunc(slices.Clone(steps), func(s *step) bool { return !s.reverted || !s.known })
	if len(swapped) == 0 {
		return
	}
	c.logIf("wait for packets in flight", "", dispatcher.Quiesce())
	for _, s := range swapped {
		s.before.Totals = totalsOf(s.before, s.before.Chain)
		live := s.after.Revisions[len(s.after.Revisions)-1]
		c.logIf("count what a change that failed counted", s.iface, c.addCounts(&s.before, s.device, live))
	}
}

// findProgram looks a program up among those that a change puts, then in the store.
func (c *Controller) findProgram(ch *change, name string) (store.Program, error) {
	if p, ok := ch.version(name); ok {
		return p, nil
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
