// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// look is what the daemon says of everything at some moment, and what is pinned then.
type look struct {
	*host
	programs []*xdpdv1.Program
	chains   []*xdpdv1.Chain
	leaving  []*xdpdv1.Chain // of interfaces without one, which get it back unless a change is confirmed
	status   *xdpdv1.GetStatusResponse
	pins     []string
}

func (h *host) look() *look {
	h.Helper()
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	l := &look{host: h, programs: programs.GetPrograms(), status: status, pins: h.pinned()}
	for _, c := range chains.GetChains() {
		if len(c.GetMembers()) > 0 {
			l.chains = append(l.chains, c)
		} else {
			l.leaving = append(l.leaving, c)
		}
	}
	return l
}

// program is what the daemon says of a program; nil: nothing.
func (l *look) program(name string) *xdpdv1.Program {
	for _, p := range l.programs {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// imprint is all that a request which changes nothing leaves as it is: pins, and the kernel's ids of programs, maps and
// links. Packets do not matter.
func (l *look) imprint() string {
	var b strings.Builder
	fmt.Fprintln(&b, l.pins)
	for _, p := range l.programs {
		fmt.Fprintf(&b, "program %s is %d, %d", p.GetName(), p.GetId(), p.GetKernelId())
		for _, m := range p.GetMaps() {
			fmt.Fprintf(&b, " %s %d", m.GetName(), m.GetKernelId())
		}
		fmt.Fprintln(&b)
	}
	for _, c := range l.chains {
		fmt.Fprintf(&b, "%s runs %d by %d, revision %d, pending %d\n", c.GetInterface(), c.GetKernelId(), c.GetLinkId(), c.GetRevision(), c.GetPending().GetId())
	}
	return b.String()
}

// compareRest is what Check does besides what the API says and packets do.
func (l *look) compareRest() {
	l.Helper()
	l.compareRuns()
	l.compareStore()
	l.compareKernel()
	l.checkDescriptors()
}

// compareAPI compares what the daemon says with the model, and learns numbers from it.
func (l *look) compareAPI() {
	l.Helper()
	got := map[string]string{}
	for _, p := range l.programs {
		got[p.GetName()] = describe(p)
	}
	want := map[string]string{}
	for name := range l.model.programs {
		want[name] = l.model.describe(name)
	}
	if !maps.Equal(got, want) {
		l.Errorf("programs:\n got %v\nwant %v", got, want)
	}
	if len(l.chains) != len(l.model.chains) {
		l.Errorf("there are %d chains, want %v", len(l.chains), l.model.chains)
	}
	l.model.learn(l.chains, l.waits)
	for _, c := range l.chains {
		l.compareChain(c)
	}
	l.compareLeaving()
	if s := l.status; len(s.GetProblems()) > 0 || int(s.GetPrograms()) != len(want) || int(s.GetChains()) != len(l.model.chains) {
		l.Errorf("status: %v", s)
	}
}

// compareChain compares one chain with the model, with its counters.
func (l *look) compareChain(c *xdpdv1.Chain) {
	l.Helper()
	want, known := l.model.chains[c.GetInterface()]
	if !known {
		l.Errorf("a chain that should not be: %v", c)
		return
	}
	t := l.model.tallies[c.GetInterface()]
	var g, w strings.Builder
	fmt.Fprintf(&g, "%s %d packets, %d at the end, %s", c.GetInterface(), c.GetPackets(), c.GetPacketsEnd(), membersOf(c))
	fmt.Fprintf(&w, "%s %d packets, %d at the end, %s", c.GetInterface(), t.packets, t.end, render(want))
	for _, m := range c.GetMembers() {
		n := m.GetCounters()
		fmt.Fprintf(&g, "\n  %s: %v", m.GetProgram(),
			[]uint64{n.GetSeen(), n.GetPassedOn(), n.GetEndedAborted(), n.GetEndedDrop(), n.GetEndedPass(), n.GetEndedTx(), n.GetEndedRedirect(), n.GetEndedOther()})
	}
	for _, m := range want.Members {
		n := t.members[m.Program]
		fmt.Fprintf(&w, "\n  %s: %v", m.Program, append([]uint64{n.Seen, n.PassedOn}, n.Ended[:6]...))
	}
	l.describeRest(c, &g, &w)
	if g.String() != w.String() {
		l.Errorf("the chain is not as it should be:\n got %s\nwant %s", &g, &w)
	}
}

// compareLeaving compares the interfaces that get a chain back unless a change is confirmed.
func (l *look) compareLeaving() {
	l.Helper()
	var got, want []string
	for _, c := range l.leaving {
		got = append(got, fmt.Sprintf("%s: %d %s", c.GetInterface(), c.GetPending().GetId(), describePending(c.GetPending())))
		if c.GetRevision() != 0 || c.GetKernelId() != 0 || c.GetLinkId() != 0 {
			l.Errorf("a chain without members: %v", c)
		}
	}
	for _, p := range l.model.pendings {
		for _, iface := range p.ifaces() {
			if _, known := l.model.chains[iface]; !known {
				want = append(want, fmt.Sprintf("%s: %d %s", iface, p.id, p))
			}
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		l.Errorf("interfaces without a chain: %v, want %v", got, want)
	}
}

// describeRest adds the change that waits to be confirmed, and the revision.
func (l *look) describeRest(c *xdpdv1.Chain, got, want *strings.Builder) {
	if p := c.GetPending(); p != nil {
		fmt.Fprintf(got, "\n  pending %d %s", p.GetId(), describePending(p))
	}
	for _, p := range l.model.pendings {
		if slices.Contains(p.ifaces(), c.GetInterface()) {
			fmt.Fprintf(want, "\n  pending %d %s", p.id, p)
		}
	}
	fmt.Fprintf(got, "\n  revision %d", c.GetRevision())
	fmt.Fprintf(want, "\n  revision %d", l.model.revisions[c.GetInterface()].live)
}

// takeImprint is the imprint of a new look.
func (h *host) takeImprint() string {
	h.Helper()
	return h.look().imprint()
}
