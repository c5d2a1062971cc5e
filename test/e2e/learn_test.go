// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// learn makes the model say what the daemon says, after changes that a test made without the model and judged
// itself. Check then compares the rest with it: the store, the pins, the kernel, and what packets do.
func (h *host) learn() {
	h.Helper()
	m := newModel()
	m.blind = true
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, p := range programs.GetPrograms() {
		m.programs[p.GetName()] = program{
			object: p.GetObjectSha256(), function: p.GetFunction(), persistent: p.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT,
			settings: settingsOf(p.GetSettings()),
		}
	}
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, c := range chains.GetChains() {
		if len(c.GetMembers()) > 0 { // else it is there for what waits to be confirmed
			ch, counts := decoded(c)
			if err := ch.Validate(); err != nil {
				h.Errorf("the chain of %s: %v", c.GetInterface(), err)
			}
			m.chains[c.GetInterface()], m.tallies[c.GetInterface()] = ch, counts
		}
		p := c.GetPending()
		if p == nil || slices.ContainsFunc(m.pendings, func(q pending) bool { return q.id == p.GetId() }) {
			continue
		}
		waits := pending{id: p.GetId(), what: p.GetWhat(), added: p.GetPrograms(), before: map[string]*chain.Chain{}}
		for _, iface := range p.GetInterfaces() {
			waits.before[iface] = nil // is not told
		}
		m.pendings = append(m.pendings, waits)
	}
	for name := range m.programs {
		if len(m.places(name)) == 0 {
			h.Errorf("program %s has no place", name)
		}
	}
	h.model = m
}

// decoded is a chain of the API in the terms of package chain, and what it counted.
func decoded(c *xdpdv1.Chain) (chain.Chain, *tally) {
	ch, t := chain.New(), &tally{packets: c.GetPackets(), end: c.GetPacketsEnd(), members: map[string]chain.Counts{}}
	ch.Final = chain.Verdict(c.GetFinalVerdict() - 1)
	ch.Mode = map[xdpdv1.Mode]chain.Mode{
		xdpdv1.Mode_MODE_AUTO: chain.Auto, xdpdv1.Mode_MODE_NATIVE: chain.Native, xdpdv1.Mode_MODE_GENERIC: chain.Generic,
	}[c.GetMode()]
	for _, m := range c.GetMembers() {
		ch.Members = append(ch.Members, chain.Member{
			Program: m.GetProgram(), Priority: m.GetPriority(), ProceedOn: setOf(&xdpdv1.ProceedOn{Verdicts: m.GetProceedOn()}), Disabled: !m.GetEnabled(),
		})
		n := m.GetCounters()
		counts := chain.Counts{Seen: n.GetSeen(), PassedOn: n.GetPassedOn()}
		ended := []uint64{n.GetEndedAborted(), n.GetEndedDrop(), n.GetEndedPass(), n.GetEndedTx(), n.GetEndedRedirect(), n.GetEndedOther()}
		copy(counts.Ended[:], ended)
		if counts != (chain.Counts{}) {
			t.members[m.GetProgram()] = counts
		}
	}
	return ch, t
}

// picture is all that a change could change, as the daemon tells it, without revisions and counters: a line for each
// program and chain. With maps it has the kernel's ids of maps, which tell whether they are the same.
func (h *host) picture(maps bool) string {
	h.Helper()
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	var lines []string
	for _, p := range programs.GetPrograms() {
		s := p.GetSettings()
		line := fmt.Sprintf("program %s %s of %.12s %s %v set %v %v %q %q", p.GetName(), p.GetFunction(), p.GetObjectSha256(), p.GetLifetime(),
			p.GetInterfaces(), s.GetGlobals(), s.GetMaxEntries(), s.GetShareMapsFrom(), s.GetMapGroup())
		for _, m := range p.GetMaps() {
			line += " " + m.GetName()
			if maps {
				line += fmt.Sprint("=", m.GetKernelId())
			}
		}
		lines = append(lines, line)
	}
	for _, c := range chains.GetChains() {
		if len(c.GetMembers()) == 0 {
			continue // it is there for what waits to be confirmed
		}
		ch, _ := decoded(c)
		lines = append(lines, fmt.Sprintf("chain %s %+v pending %d", c.GetInterface(), ch, c.GetPending().GetId()))
	}
	return strings.Join(lines, "\n")
}

// mapOf is what the daemon says of a program's map.
func (h *host) mapOf(program, name string) *xdpdv1.Map {
	h.Helper()
	p, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: program})
	if err != nil {
		h.Fatal(err)
	}
	i := slices.IndexFunc(p.GetProgram().GetMaps(), func(m *xdpdv1.Map) bool { return m.GetName() == name })
	if i < 0 {
		h.Fatalf("program %s has no map %s: %v", program, name, p)
	}
	return p.GetProgram().GetMaps()[i]
}
