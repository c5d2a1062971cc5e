// SPDX-License-Identifier: Apache-2.0

package control

import (
	"slices"

	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/store"
)

// tidy removes what no packet goes through any more.
func (c *Controller) tidy(ch *change) {
	// A packet that is still in an old revision must find its members in their slots, and its counts are final
	// only when it has left.
	if slices.ContainsFunc(ch.steps, func(s *step) bool { return s.ran }) {
		if err := dispatcher.Quiesce(); err != nil {
			c.log.Error("wait for packets in flight", "error", err)
		}
	}
	for _, s := range ch.steps {
		old := c.deviceOf(s.before)
		if s.known && s.before.Ifindex != 0 && !s.usurped && (s.gone || old != s.device) {
			c.logIf("remove the pins of an interface that is gone", s.iface, c.plane.Detach(old))
		}
		switch {
		case s.gone:
		case len(s.after.Chain.Members) == 0:
			c.logIf("detach an empty chain", s.iface, c.plane.Detach(s.device))
		default:
			c.logIf("remove the pins of old revisions", s.iface, c.prune(s.after))
			c.logIf("learn the pins of the new revision", s.iface, c.plane.Learn(s.device))
		}
		if !s.gone || len(s.after.Chain.Members) == 0 {
			c.well(s.iface)
		}
	}
	if ch.pending != nil {
		return // what it replaced and removed stays loaded, to be put back
	}
	for _, p := range slices.Concat(ch.remove, ch.old) {
		now, exists := ch.version(p.Name)
		if exists && now.ID == p.ID {
			continue
		}
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
