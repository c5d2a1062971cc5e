// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"maps"
	"slices"
	"strings"

	"github.com/xdpd/xdpd/chain"
)

// nowhere is an interface that no host of these tests has.
const nowhere = "nosuch0"

// historyLimit is how many chains of an interface a daemon keeps that is not told otherwise.
const historyLimit = 32

// program is a version of a program, as a daemon has it loaded.
type program struct {
	object     string // its sha256
	function   string
	persistent bool
	settings   chain.Settings
	load       int // of each load another one
	runs       int // its map of that name, in model.runs; 0: it has none
}

// same tells whether two versions load the same.
func (p program) same(q program) bool {
	return p.object == q.object && p.function == q.function && p.settings.Equal(q.settings)
}

// counter is a map in which programs count how often they ran.
type counter struct {
	entries uint32
	n       uint64
}

// tally is what an interface's chain counted.
type tally struct {
	packets, end uint64
	members      map[string]chain.Counts
}

// entry is a chain that an interface has or had.
type entry struct {
	revision uint64 // 0: not known
	chain    chain.Chain
	programs map[string]program
	what     string
	comment  string
	diff     []string
	silent   bool // it was made without telling the differences
}

// pending is a change that waits to be confirmed.
type pending struct {
	id       uint64 // 0: not known
	before   map[string]*chain.Chain
	programs map[string]program // that it replaced or removed from a chain, as they were
	added    []string
	what     string
}

// claims are the interfaces and programs that no other change may touch, sorted.
func (p pending) claims() (interfaces, programs []string) {
	programs = append(slices.Collect(maps.Keys(p.programs)), p.added...)
	slices.Sort(programs)
	return slices.Sorted(maps.Keys(p.before)), programs
}

// missing is the refusal of a request about a program that there is not: it may be back.
func (m *model) missing(name string) error {
	for _, p := range m.pendings {
		if _, programs := p.claims(); slices.Contains(programs, name) {
			return refusal(chain.ChangePending)
		}
	}
	return refusal(chain.ProgramNotFound)
}

// revision is what is known of the revisions of an interface.
type revision struct {
	live, last uint64 // live: of a chain that there is
	exact      bool   // no daemon started since they were seen, which may make a new one
	skips      bool   // the next one may not be the one after last: one was given to a change that came to nothing
}

// model is what a daemon should have, computed with package chain alone. Its methods that change something return
// another model and leave it as it is, but those about packets and what was learned from answers.
type model struct {
	programs  map[string]program
	chains    map[string]chain.Chain // none is empty
	tallies   map[string]*tally      // of the chains
	history   map[string][]entry     // the newest first
	pendings  []pending
	runs      map[int]counter
	revisions map[string]revision
	number    int  // the last one given to a load or a map
	blind     bool // the history is not known
}

func newModel() *model {
	return &model{
		programs: map[string]program{}, chains: map[string]chain.Chain{}, tallies: map[string]*tally{},
		history: map[string][]entry{}, runs: map[int]counter{}, revisions: map[string]revision{},
	}
}

func (m *model) clone() *model {
	c := *m
	c.programs, c.runs, c.revisions = maps.Clone(m.programs), maps.Clone(m.runs), maps.Clone(m.revisions)
	c.chains, c.tallies, c.history = map[string]chain.Chain{}, map[string]*tally{}, map[string][]entry{}
	for iface, ch := range m.chains {
		c.chains[iface] = ch.Clone()
	}
	for iface, t := range m.tallies {
		c.tallies[iface] = &tally{t.packets, t.end, maps.Clone(t.members)}
	}
	for iface, entries := range m.history {
		c.history[iface] = slices.Clone(entries)
	}
	c.pendings = slices.Clone(m.pendings)
	return &c
}

func (m *model) places(name string) (places []string) {
	for _, iface := range slices.Sorted(maps.Keys(m.chains)) {
		if m.chains[iface].Index(name) >= 0 {
			places = append(places, iface)
		}
	}
	return places
}

// version is the chain of an interface with the versions of its programs, to compare.
func (m *model) version(iface string) (chain.Chain, map[string]program) {
	ch := m.chains[iface]
	return ch, m.versions(ch)
}

func (m *model) versions(ch chain.Chain) map[string]program {
	programs := map[string]program{}
	for _, member := range ch.Members {
		programs[member.Program] = m.programs[member.Program]
	}
	return programs
}

// runsSame tells whether an interface has the same revision in two models that follow each other.
func (m *model) runsSame(o *model, iface string) bool {
	a, programs := m.version(iface)
	b, others := o.version(iface)
	return a.Equal(b) && maps.EqualFunc(programs, others, func(p, q program) bool { return p.load == q.load })
}

// knows tells whether the daemon has an object, for a program or its history.
func (m *model) knows(sha string) bool {
	has := func(programs map[string]program) bool {
		for _, p := range programs {
			if p.object == sha {
				return true
			}
		}
		return false
	}
	for _, entries := range m.history {
		if slices.ContainsFunc(entries, func(e entry) bool { return has(e.programs) }) {
			return true
		}
	}
	return has(m.programs) || slices.ContainsFunc(m.pendings, func(p pending) bool { return has(p.programs) })
}

// record adds to the history of an interface that it has another chain; one without members stands for none.
func (m *model) record(iface string, before, now chain.Chain, e entry) {
	if len(before.Members) == 0 {
		before = chain.New()
	}
	e.chain = now.Clone()
	e.programs = m.versions(e.chain)
	e.diff = chain.DiffLines(before, e.chain)
	rev := m.revisions[iface]
	if rev.exact && !rev.skips {
		e.revision = rev.last + 1
	}
	entries := slices.Insert(m.history[iface], 0, e)
	m.history[iface] = entries[:min(len(entries), historyLimit)]
}

// swapped accounts for a new revision of an interface.
func (m *model) swapped(iface string) {
	rev := m.revisions[iface]
	rev.last++
	rev.live, rev.exact, rev.skips = rev.last, rev.exact && !rev.skips, false
	m.revisions[iface] = rev
}

// failed is what a change does that came to nothing after its revisions were saved.
func (m *model) failed() {
	for iface, rev := range m.revisions {
		rev.skips = true
		m.revisions[iface] = rev
	}
}

// started is what a start of a daemon does that is not told: it makes new revisions where something is missing.
func (m *model) started() {
	for iface, rev := range m.revisions {
		rev.exact = false
		m.revisions[iface] = rev
	}
}

// stopped is what a stop does: changes that wait to be confirmed are undone, and only persistent programs are to come
// back, with new maps.
func (m *model) stopped() {
	m.cutOff()
	m.reload()
}

// cutOff is what a stop does that leaves the pins of programs: their maps stay.
func (m *model) cutOff() { *m = *m.ended() }

func (m *model) ended() *model {
	m = m.clone()
	for _, p := range m.pendings {
		before := m.clone()
		m.putBack(p)
		for _, iface := range slices.Sorted(maps.Keys(p.before)) {
			m.record(iface, before.chains[iface], m.chains[iface], entry{what: clip("stop: undid " + p.what), silent: true})
			m.swapped(iface)
		}
	}
	m.pendings = nil
	for name, p := range m.programs {
		if p.persistent && len(m.places(name)) > 0 {
			continue
		}
		for _, iface := range m.places(name) {
			m.setChain(iface, must(m.chains[iface].Remove(name)))
		}
		delete(m.programs, name)
	}
	m.started()
	return m
}

// reload gives all programs new maps, in the order in which a start loads them: who shares maps comes later.
func (m *model) reload() {
	names := slices.Sorted(maps.Keys(m.programs))
	loaded := map[string]program{}
	for len(names) > 0 {
		i := max(slices.IndexFunc(names, func(name string) bool {
			return !slices.Contains(names, m.programs[name].settings.ShareMapsFrom)
		}), 0)
		p := m.programs[names[i]]
		if from := loaded[p.settings.ShareMapsFrom]; from.runs != 0 && p.runs != 0 && m.runs[from.runs].entries == p.entries() {
			p.runs = from.runs
		} else {
			p.runs = m.newRuns(p)
		}
		m.number++
		p.load = m.number
		loaded[names[i]], m.programs[names[i]] = p, p
		names = slices.Delete(names, i, i+1)
	}
}

// putBack gives interfaces and programs back what they had before a change.
func (m *model) putBack(p pending) {
	for _, name := range p.added {
		delete(m.programs, name)
	}
	maps.Copy(m.programs, p.programs)
	for iface, before := range p.before {
		next := chain.Chain{}
		if before != nil {
			next = *before
		}
		m.setChain(iface, next)
	}
	m.pendings = slices.DeleteFunc(slices.Clone(m.pendings), func(q pending) bool { return slices.Equal(q.ifaces(), p.ifaces()) && q.what == p.what && q.id == p.id })
}

func (p pending) ifaces() []string { return slices.Sorted(maps.Keys(p.before)) }

// setChain gives an interface a chain, or none, and drops the counts of members that are gone.
func (m *model) setChain(iface string, next chain.Chain) {
	if len(next.Members) == 0 {
		delete(m.chains, iface)
		delete(m.tallies, iface)
		return
	}
	if m.tallies[iface] == nil {
		m.tallies[iface] = &tally{members: map[string]chain.Counts{}}
	}
	for name := range m.tallies[iface].members {
		if next.Index(name) < 0 {
			delete(m.tallies[iface].members, name)
		}
	}
	m.chains[iface] = next.Clone()
}

// sendThrough accounts for k packets that go through the chain that an interface has in from, which may not be the
// intended one, and returns how many of them arrive behind it. Only members of the intended chain are accounted for.
func (m *model) sendThrough(from *model, iface string, k uint64) (arrive uint64) {
	ch := from.chains[iface]
	if len(ch.Members) == 0 {
		return k
	}
	t := m.tallies[iface]
	if t == nil {
		t = &tally{members: map[string]chain.Counts{}}
	}
	t.packets += k
	for _, member := range ch.Enabled() {
		p := from.programs[member.Program]
		if c, exists := m.runs[p.runs]; exists {
			c.n += k
			m.runs[p.runs] = c
		}
		verdict := p.verdict()
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
		if !proceeds {
			return passing(verdict, k)
		}
	}
	t.end += k
	return passing(ch.Final, k)
}

// passing is how many of k packets with a verdict arrive.
func passing(v chain.Verdict, k uint64) uint64 {
	if v == chain.Pass {
		return k
	}
	return 0
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// clip is how a text comes out that the daemon keeps.
func clip(s string) string { return strings.TrimSpace(s[:min(len(s), 255)]) }
