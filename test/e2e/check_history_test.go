// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// checkHistory compares the history of interfaces with the model, and learns the revisions in it.
func (h *host) checkHistory(interfaces ...string) {
	h.Helper()
	if h.model.blind {
		return
	}
	for _, iface := range interfaces {
		got, err := h.client.ListHistory(h.ctx(), &xdpdv1.ListHistoryRequest{Interface: iface})
		if err != nil && client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHAIN_NOT_FOUND {
			h.Fatal(err)
		}
		want := h.model.history[iface]
		if len(got.GetEntries()) != len(want) {
			h.Errorf("the history of %s has %d entries, want %d: %v", iface, len(got.GetEntries()), len(want), got)
			continue
		}
		current := true
		for i, e := range got.GetEntries() {
			if i > 0 && e.GetRevision() >= got.GetEntries()[i-1].GetRevision() {
				h.Errorf("history of %s: revision %d is behind %d", iface, e.GetRevision(), got.GetEntries()[i-1].GetRevision())
			}
			if want[i].revision == 0 {
				want[i].revision = e.GetRevision()
				rev := h.model.revisions[iface]
				rev.last = max(rev.last, e.GetRevision())
				h.model.revisions[iface] = rev
			}
			now := current && h.model.isCurrent(iface, want[i])
			current = current && !now
			if g, w := describeEntry(e), want[i].describe(now); g != w {
				h.Errorf("entry %d in the history of %s:\n got %s\nwant %s", i, iface, g, w)
			}
		}
	}
}

func describeEntry(e *xdpdv1.HistoryEntry) string {
	c := &xdpdv1.Chain{Mode: e.GetChain().GetMode(), FinalVerdict: e.GetChain().GetFinalVerdict()}
	slot := uint32(0)
	for _, m := range e.GetChain().GetMembers() {
		member := &xdpdv1.Member{Program: m.GetProgram(), Priority: m.GetPriority(), ProceedOn: m.GetProceedOn().GetVerdicts(), Enabled: m.GetEnabled()}
		if m.GetEnabled() {
			member.Slot = ptr(slot)
			slot++
		}
		c.Members = append(c.Members, member)
	}
	var programs []string
	for _, p := range e.GetPrograms() {
		programs = append(programs, fmt.Sprintf("%s %.8s %s persistent %t, %s", p.GetName(), p.GetObjectSha256(), p.GetFunction(),
			p.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT, renderSettings(settingsOf(p.GetSettings()))))
	}
	slices.Sort(programs)
	diff := slices.DeleteFunc(slices.Clone(e.GetDiff()), func(line string) bool { return strings.HasPrefix(line, "* ") })
	return fmt.Sprintf("%d %q %q by uid %d: %s\n    %v\n    %q, current %t", e.GetRevision(), e.GetWhat(), e.GetComment(), e.GetCaller().GetUid(),
		membersOf(c), programs, diff, e.GetCurrent())
}

func (e entry) describe(current bool) string {
	var programs []string
	for _, name := range slices.Sorted(maps.Keys(e.programs)) {
		p := e.programs[name]
		programs = append(programs, fmt.Sprintf("%s %.8s %s persistent %t, %s", name, p.object, p.function, p.persistent, renderSettings(p.settings)))
	}
	diff := e.diff
	if e.silent {
		diff = nil
	}
	return fmt.Sprintf("%d %q %q by uid 0: %s\n    %v\n    %q, current %t", e.revision, e.what, e.comment, render(e.chain), programs, diff, current)
}

// compareRuns reads how often programs ran by their own count, which tells whether a version has the maps of the one
// before it.
func (l *look) compareRuns() {
	l.Helper()
	h := l.host
	if h.model.blind {
		return
	}
	for _, p := range l.programs {
		counts := false
		for _, m := range p.GetMaps() {
			if m.GetName() != "runs" || !h.model.programs[p.GetName()].counts() {
				continue
			}
			counts = true
			want := h.model.runs[h.model.programs[p.GetName()].runs]
			if got := h.read(m.GetPin()); got != want {
				h.Errorf("program %s has %d runs in a map of %d entries, want %d of %d", p.GetName(), got.n, got.entries, want.n, want.entries)
			}
		}
		if counts != h.model.programs[p.GetName()].counts() {
			h.Errorf("program %s has maps %v", p.GetName(), p.GetMaps())
		}
	}
}

// read reads a pinned map runs.
func (h *host) read(pin string) (c counter) {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &c.n); err != nil {
		h.Fatal(err)
	}
	c.entries = m.MaxEntries()
	return c
}
