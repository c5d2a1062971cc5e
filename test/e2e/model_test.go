// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	_ "embed"
	"maps"
	"slices"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// verdicts is the object whose functions are named after the verdict that they always have.
//
//go:embed testdata/verdict.bpf.o
var verdicts []byte

var verdictOf = map[string]chain.Verdict{
	"pass": chain.Pass, "drop": chain.Drop, "tx": chain.Tx, "aborted": chain.Aborted, "goon": chain.Continue, "plain": chain.Continue,
}

// program is one that a test added.
type program struct {
	function   string
	persistent bool
}

// tally is what an interface's chain counted.
type tally struct {
	packets, end uint64
	members      map[string]chain.Counts
}

// model is what a daemon should have, computed with package chain alone.
type model struct {
	programs  map[string]program
	chains    map[string]chain.Chain // none is empty
	tallies   map[string]*tally      // of the chains
	functions map[string]string      // of all programs that there ever were
}

func newModel() *model {
	return &model{map[string]program{}, map[string]chain.Chain{}, map[string]*tally{}, map[string]string{}}
}

func (m *model) clone() *model {
	c := newModel()
	c.programs, c.functions = maps.Clone(m.programs), maps.Clone(m.functions)
	for iface, ch := range m.chains {
		c.chains[iface] = ch.Clone()
	}
	for iface, t := range m.tallies {
		c.tallies[iface] = &tally{t.packets, t.end, maps.Clone(t.members)}
	}
	return c
}

// add is AddProgram on a clone, which it returns; m stays.
func (m *model) add(r *xdpdv1.AddProgramRequest) (*model, error) {
	next := m.clone()
	if _, known := m.programs[r.GetName()]; !known {
		next.programs[r.GetName()] = program{r.GetFunction(), r.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT}
		next.functions[r.GetName()] = r.GetFunction()
	}
	proceed := chain.Of(chain.Pass)
	if r.GetProceedOn() != nil {
		proceed = setOf(r.GetProceedOn())
	}
	for _, iface := range r.GetInterfaces() {
		ch, known := m.chains[iface]
		if !known {
			ch = chain.New()
			next.tallies[iface] = &tally{members: map[string]chain.Counts{}}
		}
		var err error
		ch, err = ch.Insert(chain.Member{Program: r.GetName(), ProceedOn: proceed}, r.Priority, positionOf(r.GetPosition()))
		if err != nil {
			return m, err
		}
		next.chains[iface] = ch
	}
	return next, nil
}

// remove is RemoveProgram.
func (m *model) remove(name string, interfaces ...string) (*model, error) {
	next := m.clone()
	if _, known := m.programs[name]; !known {
		return m, chain.Errorf(chain.ProgramNotFound, nil, "no program %s", name)
	}
	if len(interfaces) == 0 {
		interfaces = m.places(name)
	}
	for _, iface := range interfaces {
		ch, err := m.chains[iface].Remove(name)
		if err != nil {
			return m, err
		}
		next.chains[iface] = ch
		delete(next.tallies[iface].members, name)
		if len(ch.Members) == 0 {
			delete(next.chains, iface)
			delete(next.tallies, iface)
		}
	}
	if len(next.places(name)) == 0 {
		delete(next.programs, name)
	}
	return next, nil
}

// update is UpdateMembers.
func (m *model) update(updates ...*xdpdv1.MemberUpdate) (*model, error) {
	next := m.clone()
	for _, u := range updates {
		interfaces := []string{u.GetInterface()}
		if _, known := m.programs[u.GetProgram()]; !known {
			return m, chain.Errorf(chain.ProgramNotFound, nil, "no program %s", u.GetProgram())
		}
		if u.GetInterface() == "" {
			interfaces = m.places(u.GetProgram())
		}
		c := chain.Change{Program: u.GetProgram(), Priority: u.Priority, Position: positionOf(u.GetPosition()), Enabled: u.Enabled}
		if u.GetProceedOn() != nil {
			set := setOf(u.GetProceedOn())
			c.ProceedOn = &set
		}
		for _, iface := range interfaces {
			ch, err := next.chains[iface].Update([]chain.Change{c})
			if err != nil {
				return m, err
			}
			next.chains[iface] = ch
		}
	}
	return next, nil
}

// stopped is what a stop does: only persistent programs are to come back.
func (m *model) stopped() {
	for _, name := range slices.Collect(maps.Keys(m.programs)) {
		if m.programs[name].persistent {
			continue
		}
		next, err := m.remove(name)
		if err != nil {
			panic(err)
		}
		*m = *next
	}
}

func (m *model) places(name string) (places []string) {
	for _, iface := range slices.Sorted(maps.Keys(m.chains)) {
		if m.chains[iface].Index(name) >= 0 {
			places = append(places, iface)
		}
	}
	return places
}

// sendThrough accounts for k packets that go through a chain of an interface, which may not be the intended one,
// and returns how many of them arrive behind it; one without members stands for no chain. Only members of the intended chain are accounted for.
func (m *model) sendThrough(ch chain.Chain, iface string, k uint64) (arrive uint64) {
	if len(ch.Members) == 0 {
		return k
	}
	t := m.tallies[iface]
	if t == nil {
		t = &tally{members: map[string]chain.Counts{}}
	}
	t.packets += k
	for _, member := range ch.Enabled() {
		verdict := verdictOf[m.functions[member.Program]]
		counts := chain.Counts{Seen: k}
		proceeds := member.ProceedOn.Has(verdict)
		if proceeds {
			counts.PassedOn = k
		} else {
			counts.Ended[verdict] = k
		}
		if m.chains[iface].Index(member.Program) >= 0 {
			counts.Add(t.members[member.Program])
			t.members[member.Program] = counts
		}
		if proceeds {
			continue
		}
		if verdict == chain.Pass {
			return k
		}
		return 0
	}
	t.end += k
	return k
}

func setOf(p *xdpdv1.ProceedOn) chain.ProceedOn {
	var set chain.ProceedOn
	for _, v := range p.GetVerdicts() {
		set |= chain.Of(chain.Verdict(v - 1))
	}
	return set
}

func positionOf(p *xdpdv1.Position) chain.Position {
	return chain.Position{First: p.GetFirst(), Last: p.GetLast(), Before: p.GetBefore(), After: p.GetAfter()}
}
