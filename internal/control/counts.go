// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"io/fs"
	"slices"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/store"
)

// fold adds to the totals what revisions before the live one counted: no packet is in them any more since the
// change that replaced them was tidied. The live one's counters are final only when it is not live any more, and are folded by the change
// after this one, in the same transaction that saves that change's intent.
func (c *Controller) fold(s *step, next store.Revision) error {
	s.after.Totals = totalsOf(s.before, s.after.Chain)
	s.after.Revisions = []store.Revision{next}
	done := s.counts
	if n := len(done); n > 0 && c.deviceOf(s.before) == s.device {
		if _, err := c.plane.Counters(s.device, done[n-1].Number); !errors.Is(err, fs.ErrNotExist) {
			s.after.Revisions = []store.Revision{disown(done[n-1], s.after.Chain), next}
			done = done[:n-1]
		}
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
