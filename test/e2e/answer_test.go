// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// compareAnswer compares the answer to a request that was granted with what the model says came of it.
func (h *host) compareAnswer(request proto.Message, got answer, want *made) {
	h.Helper()
	if _, confirmed := request.(*xdpdv1.ConfirmRequest); confirmed {
		return // it answers with the change that it found
	}
	var problems []string
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	c := got.GetChange()
	if c.GetChanged() != want.changed || c.GetDryRun() != want.dry || (len(c.GetDiff()) > 0) != want.changed {
		wrong("changed %t, dry run %t, diff %q, want %t and %t", c.GetChanged(), c.GetDryRun(), c.GetDiff(), want.changed, want.dry)
	}
	var named []string
	for _, ch := range got.GetChains() {
		named = append(named, ch.GetInterface())
		if problem := h.compareMembers(ch, want); problem != "" {
			wrong("%s", problem)
		}
	}
	if !slices.Equal(named, want.named) {
		wrong("chains of %v, want %v", named, want.named)
	}
	origins := map[string]string{}
	for _, o := range c.GetMaps() {
		if o.GetMap() == "runs" {
			origins[o.GetProgram()] = strings.ToLower(strings.TrimPrefix(o.GetOrigin().String(), "ORIGIN_"))
		}
	}
	told := maps.Clone(want.origins)
	maps.DeleteFunc(told, func(name, origin string) bool {
		_, existed := h.model.programs[name]
		return origin == "" || origin == "new" && !existed
	})
	if !maps.Equal(origins, told) {
		wrong("maps %v, want %v", origins, told)
	}
	h.comparePending(c.GetPending(), want, wrong)
	h.compareSpecial(got, want, wrong)
	if len(problems) > 0 {
		h.Errorf("the answer to %T is not as it should be: %s\nrequest: %s\nanswer: %v", request, strings.Join(problems, "; "), brieflyOf(request), got)
	}
}

// compareSpecial compares what only some answers have.
func (h *host) compareSpecial(got answer, want *made, wrong func(string, ...any)) {
	h.Helper()
	var p *xdpdv1.Program
	switch a := got.(type) {
	case *xdpdv1.RemoveProgramResponse:
		if a.GetUnloaded() != (len(want.unloaded) > 0) {
			wrong("unloaded %t, want %v", a.GetUnloaded(), want.unloaded)
		}
	case *xdpdv1.RollbackResponse:
		if want.back != 0 && a.GetRevision() != want.back {
			wrong("back to revision %d, want %d", a.GetRevision(), want.back)
		}
	case *xdpdv1.AddProgramResponse:
		p = a.GetProgram()
	case *xdpdv1.ReplaceProgramResponse:
		p = a.GetProgram()
	}
	if p == nil {
		return
	}
	if got, wanted := describe(p), want.next.describe(p.GetName()); got != wanted {
		wrong("program %s, want %s", got, wanted)
	}
}

// comparePending compares the change that waits to be confirmed, and learns its number.
func (h *host) comparePending(got *xdpdv1.PendingChange, want *made, wrong func(string, ...any)) {
	h.Helper()
	n := len(want.next.pendings)
	if waits := n > len(h.model.pendings); waits != (got != nil) {
		wrong("pending %v, want %t", got, waits)
	}
	if got == nil || n == 0 {
		return
	}
	h.waits = got.GetId()
	p := want.next.pendings[n-1]
	if g, w := describePending(got), p.String(); g != w || got.GetId() == 0 {
		wrong("pending %s, want %s", g, w)
	}
}

// compareMembers compares a chain of an answer with the model, without counters.
func (h *host) compareMembers(got *xdpdv1.Chain, want *made) string {
	iface := got.GetInterface()
	ch, known := want.next.chains[iface]
	if g, w := membersOf(got), render(ch); g != w {
		return fmt.Sprintf("chain of %s: %s, want %s", iface, g, w)
	}
	was, now := h.model.revisions[iface], want.next.revisions[iface]
	_, wired := h.wires[iface]
	switch {
	case !wired: // the interface is gone, and runs nothing
	case !known && got.GetRevision() != 0:
		return fmt.Sprintf("%s has revision %d and no members", iface, got.GetRevision())
	case !known:
	case slices.Contains(want.swapped, iface) && (now.exact && got.GetRevision() != now.live || got.GetRevision() <= was.last),
		!slices.Contains(want.swapped, iface) && (was.exact && got.GetRevision() != was.live || got.GetRevision() < was.live):
		return fmt.Sprintf("%s has revision %d after %+v, swapped: %v", iface, got.GetRevision(), was, want.swapped)
	}
	return ""
}

// render is a chain as text to compare.
func render(ch chain.Chain) string {
	if len(ch.Members) == 0 {
		return "none"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, final %s:", ch.Mode, ch.Final)
	slot := 0
	for _, m := range ch.Members {
		at := "disabled"
		if !m.Disabled {
			at = fmt.Sprint("slot ", slot)
			slot++
		}
		fmt.Fprintf(&b, " [%s %d on %s, %s]", m.Program, m.Priority, m.ProceedOn, at)
	}
	return b.String()
}

// membersOf is the same for a chain of the API.
func membersOf(c *xdpdv1.Chain) string {
	if len(c.GetMembers()) == 0 {
		return "none"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s, final %s:", modeOf(c.GetMode()), chain.Verdict(c.GetFinalVerdict()-1))
	for _, m := range c.GetMembers() {
		at := "disabled"
		if m.Slot != nil {
			at = fmt.Sprint("slot ", m.GetSlot())
		}
		if m.GetEnabled() != (m.Slot != nil) {
			at = fmt.Sprintf("enabled %t and slot %v", m.GetEnabled(), m.Slot)
		}
		fmt.Fprintf(&b, " [%s %d on %s, %s]", m.GetProgram(), m.GetPriority(), setOf(&xdpdv1.ProceedOn{Verdicts: m.GetProceedOn()}), at)
	}
	return b.String()
}

// describe is a program of the API as text to compare.
func describe(p *xdpdv1.Program) string {
	return fmt.Sprintf("%s %.8s %s persistent %t on %v, %s", p.GetName(), p.GetObjectSha256(), p.GetFunction(),
		p.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT, p.GetInterfaces(), renderSettings(settingsOf(p.GetSettings())))
}

// describe is the same for a program of the model.
func (m *model) describe(name string) string {
	p := m.programs[name]
	return fmt.Sprintf("%s %.8s %s persistent %t on %v, %s", name, p.object, p.function, p.persistent, m.places(name), renderSettings(p.settings))
}

func renderSettings(s chain.Settings) string {
	if s.Equal(chain.Settings{}) {
		return "no settings"
	}
	return fmt.Sprintf("globals %v, max_entries %v, shares from %q, group %q", s.Globals, s.MaxEntries, s.ShareMapsFrom, s.MapGroup)
}

func describePending(p *xdpdv1.PendingChange) string {
	return fmt.Sprintf("%q of %v and %v", p.GetWhat(), p.GetInterfaces(), p.GetPrograms())
}

func (p pending) String() string {
	interfaces, programs := p.claims()
	return fmt.Sprintf("%q of %v and %v", p.what, interfaces, programs)
}

// brieflyOf is a request as text, without the bytes of objects.
func brieflyOf(request proto.Message) string {
	r := proto.Clone(request)
	switch r := r.(type) {
	case *xdpdv1.AddProgramRequest:
		r.Object = nil
	case *xdpdv1.ReplaceProgramRequest:
		r.Object = nil
	case *xdpdv1.SetChainsRequest:
		r.Objects = nil
	}
	return fmt.Sprint(r)
}

// catchUp takes from the daemon what the model cannot know: numbers.
func (h *host) catchUp() {
	h.Helper()
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	h.model.learn(chains.GetChains(), h.waits)
}

// learn takes the numbers of revisions and of changes that wait to be confirmed from chains, or that of such a change
// from the latest answer.
func (m *model) learn(chains []*xdpdv1.Chain, waits uint64) {
	for i, p := range m.pendings {
		if p.id == 0 && waits != 0 {
			m.pendings[i].id = waits
		}
	}
	for _, c := range chains {
		iface := c.GetInterface()
		rev := m.revisions[iface]
		if !rev.exact && c.GetRevision() >= rev.live && len(c.GetMembers()) > 0 {
			m.revisions[iface] = revision{c.GetRevision(), max(c.GetRevision(), rev.last), true, rev.skips}
		}
		for i, p := range m.pendings {
			if p.id == 0 && slices.Contains(p.ifaces(), iface) {
				m.pendings[i].id = c.GetPending().GetId()
			}
		}
	}
}
