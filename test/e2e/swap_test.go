// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// Bounds of TestChangesUnderTraffic: a slow machine gets by with fewer changes.
const (
	minChanges  = 60
	maxChanges  = 200
	changesTime = 10 * time.Second
)

// TestChangesUnderTraffic changes a chain over and over while packets come in: every one arrives, and the counts
// of members are exact over all revisions and a restart of a killed daemon.
func TestChangesUnderTraffic(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev)), adding(add("d", "pass", nettest.Dev)))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type flow struct {
		sent uint64
		err  error
	}
	done := make(chan flow, 1)
	go func() {
		w := h.wires[nettest.Dev]
		sent, err := w.sender.Flow(ctx, nettest.Frame(64), w.receiver)
		done <- flow{sent, err}
	}()
	round := []change{
		updating(&xdpdv1.MemberUpdate{Program: "a", Position: last}),
		adding(&xdpdv1.AddProgramRequest{Name: "c", Object: verdicts, Function: "pass", Interfaces: []string{nettest.Dev}, Position: first}),
		updating(&xdpdv1.MemberUpdate{Program: "d", Enabled: ptr(false)}),
		updating(&xdpdv1.MemberUpdate{Program: "b", Position: last}),
		removing("c"),
		updating(&xdpdv1.MemberUpdate{Program: "d", Enabled: ptr(true), Position: first}),
	}
	changes, least := 0, minChanges
	if testing.Short() {
		least = minChanges / 3
	}
	arrived := h.wires[nettest.Dev].receiver.Count
	for started := time.Now(); changes < least || changes < maxChanges && time.Since(started) < changesTime; changes++ {
		h.do(round[changes%len(round)])
		now := arrived()
		h.eventually("packets go through the chain", func() bool { return arrived() > now })
		if changes == least/2 {
			h.d.kill()
			h.start()
		}
	}
	cancel()
	flowed := <-done
	if flowed.err != nil {
		t.Fatal(flowed.err)
	}
	t.Logf("%d changes under %d packets", changes, flowed.sent)
	for changes%len(round) != 0 { // to where all members are as at the start
		h.do(round[changes%len(round)])
		changes++
	}
	d := h.runs("d")
	if d == 0 || d >= flowed.sent {
		t.Errorf("d, which was disabled at times, ran for %d of %d packets", d, flowed.sent)
	}
	all := chain.Counts{Seen: flowed.sent, PassedOn: flowed.sent}
	*h.model.tallies[nettest.Dev] = tally{packets: flowed.sent, end: flowed.sent, members: map[string]chain.Counts{
		"a": all, "b": all, "d": {Seen: d, PassedOn: d},
	}}
	h.checkAPI()
	for _, name := range []string{"a", "b"} {
		if got := h.runs(name); got != flowed.sent {
			t.Errorf("%s counted %d packets itself, want %d", name, got, flowed.sent)
		}
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// runs is how often a program of the verdicts object ran, by its own count.
func (h *host) runs(program string) (n uint64) {
	h.Helper()
	p, err := h.client.GetProgram(h.ctx(), &xdpdv1.GetProgramRequest{Name: program})
	if err != nil {
		h.Fatal(err)
	}
	for _, m := range p.GetProgram().GetMaps() {
		if m.GetName() != "runs" {
			continue
		}
		pinned, err := ebpf.LoadPinnedMap(m.GetPin(), nil)
		if err != nil {
			h.Fatal(err)
		}
		defer pinned.Close()
		if err := pinned.Lookup(uint32(0), &n); err != nil {
			h.Fatal(err)
		}
		return n
	}
	h.Fatalf("program %s has no map runs: %v", program, p)
	return 0
}
