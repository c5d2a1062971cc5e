// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
	"github.com/xdpd/xdpd/store"
)

// Check compares everything that says what runs: the model, the API, the store, the pins, what the kernel says
// of links and programs, and what packets do. A stateful test ends in it.
func (h *host) Check() {
	h.Helper()
	for _, iface := range slices.Sorted(maps.Keys(h.wires)) {
		h.send(iface, 3)
	}
	h.checkAPI()
	h.checkStore()
	h.checkKernel()
	h.checkDescriptors()
}

// ctx ends after patience, and with the test.
func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	h.Cleanup(cancel)
	return ctx
}

// send sends k packets to an interface, sees to it that as many arrive as the model says, and returns when they
// are counted. No change may go on.
func (h *host) send(iface string, k uint64) {
	h.Helper()
	h.sendThrough(h.model.chains[iface], iface, k)
}

// sendThrough is send where another chain is live than the intended one. It does not need the daemon.
func (h *host) sendThrough(ch chain.Chain, iface string, k uint64) {
	h.Helper()
	w := h.wires[iface]
	arrived, counted := w.receiver.Count(), h.counted(iface)
	w.sender.Send(nettest.Frame(64), int(k))
	arrive := h.model.sendThrough(ch, iface, k)
	w.receiver.Wait(arrived + arrive)
	if len(ch.Members) == 0 {
		return
	}
	h.eventually(fmt.Sprintf("%s counts %d packets more", iface, k), func() bool { return h.counted(iface) == counted+k })
	if got := w.receiver.Count() - arrived; got != arrive {
		h.Errorf("%d of %d packets arrived behind %s, want %d", got, k, iface, arrive)
	}
}

// eventually waits for what nobody tells of: the counters in the kernel.
func (h *host) eventually(what string, is func() bool) {
	h.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("it never came to be that %s", what)
		}
	}
}

// counted reads from the pins how many packets all revisions of an interface counted.
func (h *host) counted(iface string) (sum uint64) {
	h.Helper()
	for _, path := range h.glob("chains/*-%d/rev-*/counters", h.ns.Index(h, iface)) {
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			h.Fatalf("open counters: %v", err)
		}
		for cpu := range m.MaxEntries() {
			var exits chain.Exits
			if err := m.Lookup(cpu, &exits); err != nil {
				h.Fatalf("read counters: %v", err)
			}
			sum += exits.Packets(chain.MaxMembers)
		}
		m.Close()
	}
	return sum
}

func (h *host) glob(format string, args ...any) []string {
	paths, err := filepath.Glob(filepath.Join(h.pins, fmt.Sprintf(format, args...)))
	if err != nil {
		h.Fatal(err)
	}
	return paths
}

// checkAPI compares what the daemon says with the model.
func (h *host) checkAPI() {
	h.Helper()
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range programs.GetPrograms() {
		got[p.GetName()] = fmt.Sprint(p.GetFunction(), p.GetInterfaces(), p.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT)
	}
	want := map[string]string{}
	for name, p := range h.model.programs {
		want[name] = fmt.Sprint(p.function, h.model.places(name), p.persistent)
	}
	if !maps.Equal(got, want) {
		h.Errorf("programs:\n got %v\nwant %v", got, want)
	}
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	if len(chains.GetChains()) != len(h.model.chains) {
		h.Errorf("there are %d chains, want %v", len(chains.GetChains()), h.model.chains)
	}
	for _, c := range chains.GetChains() {
		h.compareChain(c)
	}
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	if len(status.GetProblems()) > 0 || int(status.GetPrograms()) != len(want) || int(status.GetChains()) != len(h.model.chains) {
		h.Errorf("status: %v", status)
	}
}

// compareChain compares one chain with the model, with its counters.
func (h *host) compareChain(c *xdpdv1.Chain) {
	h.Helper()
	want, known := h.model.chains[c.GetInterface()]
	if !known {
		h.Errorf("a chain that should not be: %v", c)
		return
	}
	t := h.model.tallies[c.GetInterface()]
	var g, w strings.Builder
	fmt.Fprintf(&g, "%s %d packets, %d at the end, final %s", c.GetInterface(), c.GetPackets(), c.GetPacketsEnd(), chain.Verdict(c.GetFinalVerdict()-1))
	fmt.Fprintf(&w, "%s %d packets, %d at the end, final %s", c.GetInterface(), t.packets, t.end, want.Final)
	for _, m := range c.GetMembers() {
		slot := "no slot"
		if m.Slot != nil {
			slot = fmt.Sprint("slot ", m.GetSlot())
		}
		n := m.GetCounters()
		fmt.Fprintf(&g, "\n  %s %s priority %d on %s: %v", slot, m.GetProgram(), m.GetPriority(), setOf(&xdpdv1.ProceedOn{Verdicts: m.GetProceedOn()}),
			[]uint64{n.GetSeen(), n.GetPassedOn(), n.GetEndedAborted(), n.GetEndedDrop(), n.GetEndedPass(), n.GetEndedTx(), n.GetEndedRedirect(), n.GetEndedOther()})
	}
	next := 0
	for _, m := range want.Members {
		slot := "no slot"
		if !m.Disabled {
			slot = fmt.Sprint("slot ", next)
			next++
		}
		n := t.members[m.Program]
		fmt.Fprintf(&w, "\n  %s %s priority %d on %s: %v", slot, m.Program, m.Priority, m.ProceedOn, append([]uint64{n.Seen, n.PassedOn}, n.Ended[:6]...))
	}
	if g.String() != w.String() {
		h.Errorf("the chain is not as it should be:\n got %s\nwant %s", &g, &w)
	}
}

// checkStore compares a copy of the store's file with the API's answers, and the pins with it.
func (h *host) checkStore() {
	h.Helper()
	copied := filepath.Join(h.dir, "copy.db")
	data, err := os.ReadFile(filepath.Join(h.dir, "state", "xdpd.db"))
	if err == nil {
		err = os.WriteFile(copied, data, 0o600)
	}
	if err != nil {
		h.Fatal(err)
	}
	defer os.Remove(copied)
	st, err := store.Open(copied)
	if err != nil {
		h.Fatal(err)
	}
	defer st.Close()
	programs, err := st.Programs()
	if err != nil {
		h.Fatal(err)
	}
	chains, err := st.Chains()
	if err != nil {
		h.Fatal(err)
	}
	if len(programs) != len(h.model.programs) || len(chains) != len(h.model.chains) {
		h.Errorf("the store has programs %v and chains %v", programs, chains)
	}
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	h.checkPins(programs, chains, status.GetLinker() == xdpdv1.Linker_LINKER_FREPLACE)
}

// checkPins compares all of the daemon's folder with what the store asks for.
func (h *host) checkPins(programs []store.Program, chains []store.Chain, freplace bool) {
	h.Helper()
	want := []string{"chains", "programs"}
	for _, p := range programs {
		dir := fmt.Sprint("programs/", p.ID)
		want = append(want, dir, dir+"/maps")
		answer, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: p.Name})
		if err != nil {
			h.Fatal(err)
		}
		for _, m := range answer.GetProgram().GetMaps() {
			want = append(want, strings.TrimPrefix(m.GetPin(), h.pins+"/"))
		}
		if freplace {
			want = append(want, dir+"/prog")
		}
	}
	for _, c := range chains {
		if !c.Chain.Equal(h.model.chains[c.Interface]) {
			h.Errorf("the store has for %s: %v, want %v", c.Interface, c.Chain, h.model.chains[c.Interface])
		}
		if c.Ifindex != h.ns.Index(h, c.Interface) {
			h.Errorf("the store has ifindex %d for %s", c.Ifindex, c.Interface)
		}
		found := h.glob("chains/*-%d", c.Ifindex)
		if len(found) != 1 {
			h.Fatalf("folders of %s: %v", c.Interface, found)
		}
		dir := "chains/" + filepath.Base(found[0])
		want = append(want, dir, dir+"/link")
		for _, r := range c.Revisions {
			rev := fmt.Sprintf("%s/rev-%d", dir, r.Number)
			want = append(want, rev, rev+"/counters")
			if r.Number != c.Revision {
				continue
			}
			want = append(want, rev+"/dispatcher")
			for slot := range c.Chain.Enabled() {
				if freplace {
					want = append(want, fmt.Sprintf("%s/slot-%02d", rev, slot))
				}
			}
		}
	}
	got := h.pinned()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		h.Errorf("pins:\n got %v\nwant %v", got, want)
	}
}

// pinned is all of the daemon's folder, sorted.
func (h *host) pinned() (all []string) {
	err := filepath.WalkDir(h.pins, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != h.pins {
			all = append(all, strings.TrimPrefix(path, h.pins+"/"))
		}
		return err
	})
	if err != nil {
		h.Fatalf("list pins: %v", err)
	}
	slices.Sort(all)
	return all
}
