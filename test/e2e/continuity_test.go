// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// trails is the object whose programs leave a trail in packets, and check it.
//
//go:embed testdata/trail.bpf.o
var trails []byte

func init() {
	verdictOf["mark"], verdictOf["check"] = chain.Continue, chain.Pass // for the model
}

// fourth is one more interface.
const fourth = "xdev3"

// parade is what a host with programs of the trails object has on each of its interfaces: marks in some order, and
// at the end the one that checks.
type parade struct {
	*host
	interfaces []string
	order      []int // the ids of the marks, as they run
	version    int   // of all programs
	build      int
	strict     bool // the last program knows the order, else only who must have been there
}

// spec is the request for a parade, with an object or without.
func (p *parade) spec(o *xdpdv1.ChangeOptions) *xdpdv1.SetChainsRequest {
	object := sumOf(trails)
	r := &xdpdv1.SetChainsRequest{Options: o}
	order, ids := 0, 0
	for _, id := range p.order {
		order, ids = order<<4|id, ids|1<<id
		r.Programs = append(r.Programs, &xdpdv1.ProgramSpec{
			Name: mark(id), ObjectSha256: object, Function: "mark", Settings: p.settings(id),
		})
	}
	if !p.strict {
		order = 0
	}
	r.Programs = append(r.Programs, &xdpdv1.ProgramSpec{Name: "end", ObjectSha256: object, Function: "check", Settings: &xdpdv1.ProgramSettings{
		Globals: map[string]string{"version": strconv.Itoa(p.version), "want_order": strconv.Itoa(order), "want_ids": strconv.Itoa(ids)},
	}})
	for _, iface := range p.interfaces {
		c := chainOf(iface)
		for _, id := range p.order {
			c.Members = append(c.Members, &xdpdv1.MemberSpec{Program: mark(id)})
		}
		c.Members = append(c.Members, &xdpdv1.MemberSpec{Program: "end"})
		r.Chains = append(r.Chains, c)
	}
	return r
}

func mark(id int) string { return fmt.Sprint("mark", id) }

func (p *parade) settings(id int) *xdpdv1.ProgramSettings {
	return &xdpdv1.ProgramSettings{Globals: map[string]string{
		"id": strconv.Itoa(id), "version": strconv.Itoa(p.version), "build": strconv.Itoa(p.build),
	}}
}

// apply makes the parade what it says.
func (p *parade) apply(o *xdpdv1.ChangeOptions) (pending uint64) {
	p.Helper()
	a, err := p.client.SetChains(p.ctx(), p.spec(o))
	if err != nil {
		p.Fatalf("%v %v\n%s", err, client.Facts(err), client.VerifierLog(err))
	}
	p.carried(a.GetChange())
	return a.GetChange().GetPending().GetId()
}

// carried fails the test if a change made maps anew that have contents.
func (p *parade) carried(c *xdpdv1.Change) {
	p.Helper()
	for _, m := range c.GetMaps() {
		constants := m.GetMap() == ".rodata"
		if carried := m.GetOrigin() == xdpdv1.MapOrigin_ORIGIN_CARRIED; carried == constants {
			p.Errorf("map %s of %s is %v: %s", m.GetMap(), m.GetProgram(), m.GetOrigin(), m.GetReason())
		}
	}
}

// turn moves the first mark behind the others.
func (p *parade) turn() { p.order = append(slices.Clone(p.order[1:]), p.order[0]) }

// round makes each kind of change once.
func (p *parade) round() {
	p.Helper()
	ok := func(err error) {
		p.Helper()
		if err != nil {
			p.Fatalf("%v %v", err, client.Facts(err))
		}
	}
	// Any order, in one swap for each interface.
	p.turn()
	p.turn()
	reorder := &xdpdv1.UpdateMembersRequest{}
	for _, id := range slices.Backward(p.order) {
		reorder.Updates = append(reorder.Updates, &xdpdv1.MemberUpdate{Program: mark(id), Position: first})
	}
	_, err := p.client.UpdateMembers(p.ctx(), reorder)
	ok(err)
	// One program on all interfaces.
	p.build++
	replaced, err := p.client.ReplaceProgram(p.ctx(), &xdpdv1.ReplaceProgramRequest{Name: mark(2), Settings: p.settings(2)})
	ok(err)
	p.carried(replaced.GetChange())
	// All programs, and another order, which only the last one knows that comes with it.
	p.turn()
	p.strict = true
	p.version++
	p.apply(nil)
	// The same, and back.
	back := *p
	p.turn()
	p.version++
	_, err = p.client.Cancel(p.ctx(), &xdpdv1.CancelRequest{Id: p.apply(within(time.Hour))})
	ok(err)
	*p = back
	// Other versions, and back on all interfaces.
	p.version++
	p.apply(nil)
	rolled, err := p.client.Rollback(p.ctx(), &xdpdv1.RollbackRequest{Interface: second, Everywhere: true})
	ok(err)
	p.carried(rolled.GetChange())
	*p = back
	// And so that it can begin anew.
	p.strict = false
	p.version += 2
	_, err = p.client.Confirm(p.ctx(), &xdpdv1.ConfirmRequest{Id: p.apply(within(time.Hour))})
	ok(err)
}

// TestContinuity makes changes of every kind on four interfaces while packets come in on each: every one arrives,
// none sees a mixture of two chains or of two versions of programs, and nothing is counted twice or not at all:
// by the members' counters, and by the programs' own maps, which go from version to version.
func TestContinuity(t *testing.T) {
	swaps := 2000
	if testing.Short() {
		swaps = 64
	}
	h := newHost(t, second, third, fourth)
	h.start()
	p := &parade{host: h, interfaces: []string{nettest.Dev, second, third, fourth}, order: []int{1, 2, 3}, version: 1}
	first := p.spec(nil)
	first.Objects = [][]byte{trails}
	if _, err := h.client.SetChains(h.ctx(), first); err != nil {
		t.Fatalf("%v %v\n%s", err, client.Facts(err), client.VerifierLog(err))
	}
	stop := h.flows(p.interfaces)
	made := 0
	for before := p.revisions(); made < swaps && !t.Failed(); made = p.revisions() - before {
		p.round()
	}
	sent := stop()
	t.Logf("%d swaps under %v packets", made, sent)
	var all uint64
	for iface, n := range sent {
		all += n
		c := h.chain(iface)
		if c.GetPackets() != n || c.GetPacketsEnd() != n {
			t.Errorf("%s counted %d and %d packets at the end, want %d", iface, c.GetPackets(), c.GetPacketsEnd(), n)
		}
		for _, m := range c.GetMembers() {
			if got := m.GetCounters(); got.GetSeen() != n || got.GetPassedOn() != n {
				t.Errorf("%s on %s counted %v, want %d", m.GetProgram(), iface, got, n)
			}
		}
	}
	for _, id := range p.order {
		if n := h.runs(mark(id)); n != all {
			t.Errorf("%s counted %d packets itself, want %d", mark(id), n, all)
		}
	}
	if got := h.tally("end"); got.Seen != all || got.Wrong != 0 {
		t.Errorf("of %d packets %d were seen and %d had a wrong trail: %+v", all, got.Seen, got.Wrong, got)
	}
	h.learn()
	h.checkAPI()
	h.checkStore()
	h.checkKernel()
	h.checkDescriptors()
	h.stop(unix.SIGTERM)
}

// revisions is the sum of the revisions of all interfaces, which each swap makes higher by one.
func (p *parade) revisions() (n int) {
	p.Helper()
	for _, c := range p.chains() {
		n += int(c.GetRevision())
	}
	return n
}

// flows sends packets to each interface, at least one, until the function that it returns is called, which returns how
// many were sent. That some were lost fails the test.
func (h *host) flows(interfaces []string) (stop func() map[string]uint64) {
	type flow struct {
		iface string
		sent  uint64
		err   error
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.Cleanup(cancel)
	done := make(chan flow, len(interfaces))
	for _, iface := range interfaces {
		w := h.wires[iface]
		go func() {
			f := flow{iface: iface}
			for f.err == nil && (ctx.Err() == nil || f.sent == 0) {
				burst, end := context.WithTimeout(context.Background(), time.Millisecond)
				var n uint64
				n, f.err = w.sender.Flow(burst, nettest.Frame(64), w.receiver)
				end()
				f.sent += n
				time.Sleep(3 * time.Millisecond) // the daemon has to get at the processors too
			}
			done <- f
		}()
	}
	return func() map[string]uint64 {
		cancel()
		sent := map[string]uint64{}
		for range interfaces {
			f := <-done
			if sent[f.iface] = f.sent; f.err != nil {
				h.Errorf("%s: %v", f.iface, f.err)
			}
		}
		return sent
	}
}

// trailTally is what the program that checks trails counted.
type trailTally struct {
	Seen, Wrong                 uint64
	Order, Version, Mixed, Want uint32
}

func (h *host) tally(program string) (n trailTally) {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(h.mapOf(program, "tally").GetPin(), nil)
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	if err := m.Lookup(uint32(0), &n); err != nil {
		h.Fatal(err)
	}
	return n
}
