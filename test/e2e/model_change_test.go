// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"slices"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// goal is what a request wants.
type goal struct {
	chains   map[string]chain.Chain // of interfaces that it names; without members: none
	programs map[string]wanted      // that are new or become another
	undoes   *pending
}

func newGoal() goal { return goal{chains: map[string]chain.Chain{}, programs: map[string]wanted{}} }

// wanted is what a program is to be.
type wanted struct {
	program
	loads   bool // it is loaded for that
	fresh   bool // without the maps that it had
	lenient bool // also where the program whose maps it shares is gone
}

// made is what a change does, or would do if it were not only tried.
type made struct {
	next     *model
	dry      bool
	changed  bool
	swapped  []string          // interfaces with a new revision, sorted
	named    []string          // interfaces that the answer tells of, sorted
	origins  map[string]string // where the map runs of programs that were loaded comes from
	unloaded []string          // programs without a place
	back     uint64            // the revision that a rollback found; 0: not known
}

// change is the way of every request: compute says what it wants.
func (m *model) change(what string, o *xdpdv1.ChangeOptions, compute func() (goal, error)) (*made, error) {
	g, err := compute()
	if stale := m.expected(o.GetExpectedRevisions()); stale != nil {
		return nil, stale
	}
	if err != nil {
		return nil, err
	}
	m.complete(&g, o.GetConfirmWithin() != nil)
	out := &made{next: m.clone(), dry: o.GetDryRun(), origins: map[string]string{}, named: slices.Sorted(maps.Keys(g.chains))}
	for _, iface := range out.named {
		if m.chains[iface].Equal(g.chains[iface]) && !m.swaps(g, g.chains[iface]) || len(m.chains[iface].Members)+len(g.chains[iface].Members) == 0 {
			continue
		}
		if iface == nowhere {
			return nil, refusal(chain.InterfaceNotFound)
		}
		out.swapped = append(out.swapped, iface)
	}
	out.changed = len(out.swapped)+len(g.programs) > 0 || g.undoes != nil
	if !out.changed {
		return out, nil
	}
	held := m.held(g, out, o)
	if err := m.unclaimed(g, slices.Concat(out.swapped, held)); err != nil {
		return nil, err
	}
	p := pending{before: map[string]*chain.Chain{}, programs: map[string]program{}, what: what}
	for _, name := range m.orphans(g) {
		out.unloaded = append(out.unloaded, name)
		p.programs[name] = m.programs[name]
		delete(out.next.programs, name)
	}
	for name := range g.programs {
		if old, exists := m.programs[name]; exists {
			p.programs[name] = old
		} else {
			p.added = append(p.added, name)
		}
	}
	if err := out.load(g); err != nil {
		return nil, err
	}
	for _, iface := range out.swapped {
		if before, known := m.chains[iface]; known {
			p.before[iface] = &before
		} else {
			p.before[iface] = nil
		}
		for _, d := range chain.Diff(m.chains[iface], g.chains[iface]) {
			name := d.Before.Program
			if d.Kind == chain.Added {
				name = d.After.Program
			}
			if old, exists := m.programs[name]; exists && d.Kind != chain.Changed {
				p.programs[name] = old
			}
		}
		out.next.setChain(iface, g.chains[iface])
		out.next.record(iface, m.chains[iface], g.chains[iface], entry{what: what, comment: o.GetComment()})
		out.next.swapped(iface)
	}
	for _, iface := range held {
		before := m.chains[iface]
		p.before[iface] = &before
	}
	if g.undoes != nil {
		out.next.settle(*g.undoes)
	}
	if o.GetConfirmWithin() != nil {
		slices.Sort(p.added)
		out.next.pendings = append(out.next.pendings, p)
	}
	return out, nil
}

// expected looks whether the interfaces have these revisions.
func (m *model) expected(revisions map[string]uint64) error {
	for iface, want := range revisions {
		live := m.revisions[iface].live
		if _, known := m.chains[iface]; !known {
			live = 0
		}
		if live != want {
			return refusal(chain.RevisionMismatch)
		}
	}
	return nil
}

// held are interfaces that a change claims which waits to be confirmed, without a new revision: those of programs that
// become another without a load.
func (m *model) held(g goal, out *made, o *xdpdv1.ChangeOptions) (interfaces []string) {
	if o.GetConfirmWithin() == nil {
		return nil
	}
	for _, iface := range out.named {
		if !slices.Contains(out.swapped, iface) && slices.ContainsFunc(g.chains[iface].Members, func(m chain.Member) bool {
			_, becomes := g.programs[m.Program]
			return becomes
		}) {
			interfaces = append(interfaces, iface)
		}
	}
	return interfaces
}

// complete adds to a goal the chains of all places of programs that are loaded anew, and if it waits to be confirmed, of
// all that become another.
func (m *model) complete(g *goal, waits bool) {
	for iface, ch := range m.chains {
		if _, named := g.chains[iface]; !named && slices.ContainsFunc(ch.Members, func(m chain.Member) bool {
			w, becomes := g.programs[m.Program]
			return becomes && (w.loads || waits)
		}) {
			g.chains[iface] = ch
		}
	}
}

// swaps tells whether a chain has a program of which a goal wants another load.
func (m *model) swaps(g goal, ch chain.Chain) bool {
	return slices.ContainsFunc(ch.Members, func(member chain.Member) bool {
		w, wanted := g.programs[member.Program]
		old, exists := m.programs[member.Program]
		return wanted && exists && (w.loads || w.load != old.load)
	})
}

// orphans are programs that lose their last place.
func (m *model) orphans(g goal) (gone []string) {
	for _, name := range slices.Sorted(maps.Keys(m.programs)) {
		placed := slices.ContainsFunc(m.places(name), func(iface string) bool { _, named := g.chains[iface]; return !named })
		for _, next := range g.chains {
			placed = placed || next.Index(name) >= 0
		}
		if !placed {
			gone = append(gone, name)
		}
	}
	return gone
}

// unclaimed fails where a change that waits to be confirmed has what a goal changes.
func (m *model) unclaimed(g goal, swapped []string) error {
	touched := slices.Collect(maps.Keys(g.programs))
	for _, iface := range swapped {
		for _, d := range chain.Diff(m.chains[iface], g.chains[iface]) {
			if d.Kind == chain.Added {
				touched = append(touched, d.After.Program)
			}
			if d.Kind == chain.Removed {
				touched = append(touched, d.Before.Program)
			}
		}
	}
	for _, p := range m.pendings {
		if g.undoes != nil && g.undoes.id == p.id {
			continue
		}
		interfaces, programs := p.claims()
		if common(interfaces, swapped) || common(programs, touched) {
			return refusal(chain.ChangePending)
		}
	}
	return nil
}

func common(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

// load makes programs what a goal wants, those last that share maps of others.
func (out *made) load(g goal) error {
	m := out.next
	waiting := slices.Sorted(maps.Keys(g.programs))
	for len(waiting) > 0 {
		i := slices.IndexFunc(waiting, func(name string) bool {
			from := g.programs[name].settings.ShareMapsFrom
			return from == name || !g.programs[name].loads || !slices.Contains(waiting, from)
		})
		alone := i < 0 // each that is left shares the maps of another one of them
		if alone {
			i = 0
		}
		name := waiting[i]
		waiting = slices.Delete(waiting, i, i+1)
		w := g.programs[name]
		if !w.loads {
			m.programs[name] = w.program
			continue
		}
		if w.settings.ShareMapsFrom == name || alone && !w.lenient {
			return refusal(chain.InvalidArgument)
		}
		var old, from *program
		if p, exists := m.programs[name]; exists {
			old = &p
		}
		if p, exists := m.programs[w.settings.ShareMapsFrom]; exists && !alone {
			from = &p
		}
		var err error
		if m.programs[name], out.origins[name], err = m.load(w.program, old, from, w); err != nil {
			return err
		}
	}
	return nil
}

// settle takes a change from those that wait to be confirmed.
func (m *model) settle(p pending) {
	m.pendings = slices.DeleteFunc(slices.Clone(m.pendings), func(q pending) bool { return q.id == p.id })
}

// confirm makes a change stay.
func (m *model) confirm(id uint64) (*model, error) {
	next := m.clone()
	if next.settle(pending{id: id}); len(next.pendings) == len(m.pendings) {
		return m, refusal(chain.ChangeNotFound)
	}
	return next, nil
}

// undo takes a change back.
func (m *model) undo(id uint64, why string) (*made, error) {
	i := slices.IndexFunc(m.pendings, func(p pending) bool { return p.id == id })
	if i < 0 {
		return nil, refusal(chain.ChangeNotFound)
	}
	p := m.pendings[i]
	return m.change(clip(why+p.what), nil, func() (goal, error) {
		g := newGoal()
		g.undoes = &p
		for iface, before := range p.before {
			g.chains[iface] = empty(m.chains[iface])
			if before != nil {
				g.chains[iface] = *before
			}
		}
		for name, old := range p.programs {
			g.programs[name] = wanted{program: old}
		}
		return g, nil
	})
}

// empty is a chain without its members.
func empty(ch chain.Chain) chain.Chain {
	ch.Members = nil
	return ch
}
