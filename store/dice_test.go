// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// dice makes random changes.
type dice struct {
	*rand.Rand
	t        *testing.T
	s        *Store
	contents []string
	clock    int64
}

func (d *dice) name() string    { return string(rune('a' + d.IntN(6))) }
func (d *dice) content() string { return d.contents[d.IntN(len(d.contents))] }

// iface returns one of three that have chains, or one that never has.
func (d *dice) iface() string {
	if d.IntN(3) == 0 {
		return fmt.Sprint("eth", d.IntN(3))
	}
	return fmt.Sprint("gone", d.IntN(400))
}

// newProgram makes a program, and mostly adds its object to the change.
func (d *dice) newProgram(c *Change, name string) Program {
	content := d.content()
	if d.IntN(4) > 0 {
		if c.Objects == nil {
			c.Objects = map[string][]byte{}
		}
		maps.Copy(c.Objects, objects(content))
	}
	return program(d.s.NextProgramID(), name, content)
}

func (d *dice) change(m model) Change {
	c := Change{HistoryLimit: d.IntN(5)}
	d.addRenames(&c, m)
	if next := m.clone(); next.rename(c.RenameChains) {
		m = next // the rest of the change is about what comes of that
	}
	d.addLeases(&c, m)
	next := maps.Clone(m.programs)
	for range d.IntN(3) {
		p := d.newProgram(&c, d.name())
		if d.IntN(6) == 0 {
			p = leased(p, uint64(1+d.IntN(6))) // which may not exist
		}
		c.PutPrograms = append(c.PutPrograms, p)
		next[p.Name] = p
	}
	for range d.IntN(4) / 3 {
		name := d.name()
		c.DeletePrograms = append(c.DeletePrograms, name)
		delete(next, name)
	}
	d.addChains(&c, m, next)
	for range d.IntN(4) {
		iface := d.iface()
		e := entryOf(d.t, iface, m.last(iface)+uint64(d.IntN(3)), d.newProgram(&c, "a"), d.newProgram(&c, "b"))
		e.Revision = max(e.Revision, 1)
		d.clock++
		e.Time = time.Unix(d.clock, 0).UTC()
		c.PutHistory = append(c.PutHistory, e)
	}
	for range d.IntN(2) {
		iface := d.iface()
		for _, e := range m.entries(iface)[:min(1, len(m.entries(iface)))] {
			c.DeleteHistory = append(c.DeleteHistory, e.key())
		}
	}
	d.addPending(&c, m)
	return c
}

// addChains puts and deletes chains. One of a replaced program gets a new revision; one of a deleted program is to be refused.
func (d *dice) addChains(c *Change, m model, next map[string]Program) {
	chains := maps.Clone(m.chains)
	if iface := fmt.Sprint("eth", d.IntN(3)); d.IntN(3) == 0 {
		c.DeleteChains = []string{iface}
		delete(chains, iface)
	} else if all := slices.Sorted(maps.Keys(next)); len(all) > 0 {
		chains[iface] = chainOf(d.t, iface, m.last(iface)+1, next[all[d.IntN(len(all))]])
	}
	for _, iface := range slices.Sorted(maps.Keys(chains)) {
		p, exists := next[chains[iface].Chain.Members[0].Program]
		switch {
		case exists && chains[iface].Revisions[0].Slots[0].ProgramID != p.ID:
			c.PutChains = append(c.PutChains, chainOf(d.t, iface, m.last(iface)+1, p))
		case chains[iface].Revision > m.last(iface):
			c.PutChains = append(c.PutChains, chains[iface])
		}
	}
}

// addRenames gives chains other names: some take each other's, and some that of one that stays, which is to be refused.
func (d *dice) addRenames(c *Change, m model) {
	names := slices.Sorted(maps.Keys(m.chains))
	if d.IntN(8) > 0 || len(names) == 0 {
		return
	}
	c.RenameChains = map[string]string{}
	all := []string{"eth0", "eth1", "eth2", fmt.Sprint("gone", d.IntN(400))}
	d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for i, from := range names[:1+d.IntN(len(names))] {
		if i < len(all) {
			c.RenameChains[from] = all[i]
		}
	}
	if d.IntN(6) == 0 {
		c.RenameChains["none"] = "some"
	}
}

// addLeases puts and deletes leases, also some that have programs, which is to be refused.
func (d *dice) addLeases(c *Change, m model) {
	if d.IntN(4) == 0 {
		l := leaseOf(uint64(1 + d.IntN(6)))
		if d.IntN(8) == 0 {
			l.Token = "token 1"
		}
		c.PutLeases = []Lease{l}
	}
	if ids := slices.Sorted(maps.Keys(m.leases)); len(ids) > 0 && d.IntN(8) == 0 {
		c.DeleteLeases = []uint64{ids[d.IntN(len(ids))], 99}
	}
}

// addPending puts and deletes pending changes.
func (d *dice) addPending(c *Change, m model) {
	ids := slices.Sorted(maps.Keys(m.pending))
	if len(ids) > 0 && d.IntN(2) == 0 {
		c.DeletePending = append(c.DeletePending, ids[d.IntN(len(ids))])
	}
	if d.IntN(3) > 0 {
		return
	}
	kept, other := d.newProgram(c, d.name()), program(1, d.name(), "-")
	members := []Program{kept}
	if other.Name != kept.Name {
		members = append(members, other)
	}
	p := pendingOf(d.t, d.s.NextPendingID(), fmt.Sprint("eth", d.IntN(6)), members...)
	p.Programs = []Program{kept}
	if len(ids) > 0 && d.IntN(3) == 0 {
		p.ID = ids[d.IntN(len(ids))]
	}
	p.Added = []string{fmt.Sprint("new", d.IntN(6))}
	c.PutPending = append(c.PutPending, p)
}

// touched are the interfaces of which a change puts or deletes something.
func touched(c Change) []string {
	var names []string
	for _, e := range c.PutHistory {
		names = append(names, e.Interface)
	}
	for _, k := range c.DeleteHistory {
		names = append(names, k.Interface)
	}
	for _, ch := range c.PutChains {
		names = append(names, ch.Interface)
	}
	for from, to := range c.RenameChains {
		names = append(names, from, to)
	}
	return append(names, c.DeleteChains...)
}
