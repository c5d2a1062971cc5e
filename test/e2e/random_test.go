// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// draw makes requests at random, most of which can be granted.
type draw struct {
	*rand.Rand
	interfaces []string
	names      []string
}

func (d draw) pick(from []string) string { return from[d.IntN(len(from))] }

func (d draw) some(from []string) []string {
	picked := slices.Clone(from)
	d.Shuffle(len(picked), func(i, j int) { picked[i], picked[j] = picked[j], picked[i] })
	return picked[:1+d.IntN(len(picked))]
}

func (d draw) position() *xdpdv1.Position {
	switch d.IntN(6) {
	case 0:
		return first
	case 1:
		return last
	case 2:
		return before(d.pick(d.names))
	case 3:
		return &xdpdv1.Position{Place: &xdpdv1.Position_After{After: d.pick(d.names)}}
	}
	return nil
}

func (d draw) priority() *int32 {
	if d.IntN(3) > 0 {
		return nil
	}
	return ptr(int32(48 + d.IntN(5)))
}

func (d draw) proceedOn() *xdpdv1.ProceedOn {
	if d.IntN(2) == 0 {
		return nil
	}
	set := &xdpdv1.ProceedOn{}
	for v := xdpdv1.Verdict_VERDICT_ABORTED; v <= xdpdv1.Verdict_VERDICT_REDIRECT; v++ {
		if d.IntN(2) == 0 {
			set.Verdicts = append(set.Verdicts, v)
		}
	}
	return set
}

func (d draw) change() change {
	switch d.IntN(5) {
	case 0, 1:
		name := d.pick(d.names)
		// A name always has the same function, so that it can be placed on further interfaces.
		function := []string{"pass", "drop", "tx", "aborted", "goon", "goon", "pass"}[slices.Index(d.names, name)%7]
		return adding(&xdpdv1.AddProgramRequest{
			Name: name, Object: verdicts, Function: function, Interfaces: d.some(d.interfaces),
			Priority: d.priority(), Position: d.position(), ProceedOn: d.proceedOn(),
		})
	case 2:
		if d.IntN(2) == 0 {
			return removing(d.pick(d.names))
		}
		return removing(d.pick(d.names), d.some(d.interfaces)...)
	}
	var updates []*xdpdv1.MemberUpdate
	for range 1 + d.IntN(3) {
		u := &xdpdv1.MemberUpdate{Program: d.pick(d.names), Priority: d.priority(), Position: d.position(), ProceedOn: d.proceedOn()}
		if d.IntN(2) == 0 {
			u.Interface = d.pick(d.interfaces)
		}
		if d.IntN(3) == 0 {
			u.Enabled = ptr(d.IntN(2) == 0)
		}
		updates = append(updates, u)
	}
	return updating(updates...)
}

// Bounds of TestRandomOperations.
const (
	minOperations  = 60
	maxOperations  = 300
	operationsTime = 15 * time.Second
)

// TestRandomOperations makes changes at random, with packets, kills and stops between them, and compares the
// daemon with the model after each.
func TestRandomOperations(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h := newHost(t, second)
	d := draw{rand.New(rand.NewPCG(seed, 0)), []string{nettest.Dev, second}, []string{"a", "b", "c", "d", "e", "f", "g"}}
	h.start()
	made, refused := 0, 0
	for started := time.Now(); made < minOperations || made < maxOperations && time.Since(started) < operationsTime; {
		c := d.change()
		next, want := c.model(h.model)
		err := c.send(h)
		if (err == nil) != (want == nil) {
			t.Fatalf("operation %d: answer %v, the model says %v", made+refused, err, want)
		}
		if err != nil {
			if client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
				t.Fatalf("operation %d: refused without a reason: %v", made+refused, err)
			}
			refused++
			continue
		}
		h.model = next
		made++
		h.send(d.pick(d.interfaces), uint64(d.IntN(4)))
		h.checkAPI()
		switch d.IntN(30) {
		case 0:
			h.Check()
			h.d.kill()
			h.start()
		case 1:
			h.Check()
			h.stop(unix.SIGTERM)
			h.start()
		}
		if t.Failed() {
			t.Fatalf("after operation %d", made+refused)
		}
	}
	t.Logf("%d operations made, %d refused", made, refused)
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestManyClients has 50 clients make changes at random at the same time, and looks that all fits together then.
func TestManyClients(t *testing.T) {
	h := newHost(t, second)
	h.start()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	var wg sync.WaitGroup
	for i := range uint64(50) {
		d := draw{rand.New(rand.NewPCG(seed, i)), []string{nettest.Dev, second}, []string{"a", "b", "c", "d", "e", "f", "g"}}
		wg.Go(func() {
			c, err := client.Dial(h.socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			one := &host{TB: brief{t, ctx}, client: c}
			for range 4 {
				err := d.change().send(one)
				if err != nil && client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
					t.Errorf("client %d: %v", i, err)
				}
			}
		})
	}
	wg.Wait()
	h.adopt()
	h.Check()
	h.d.kill()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// brief is a test whose clean-up is done by its context.
type brief struct {
	testing.TB
	ctx context.Context
}

func (b brief) Cleanup(f func()) { context.AfterFunc(b.ctx, f) }

// adopt makes the model what the daemon says, where the test cannot know.
func (h *host) adopt() {
	h.Helper()
	m := newModel()
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, p := range programs.GetPrograms() {
		m.programs[p.GetName()] = program{p.GetFunction(), p.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT}
		m.functions[p.GetName()] = p.GetFunction()
	}
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, c := range chains.GetChains() {
		ch := chain.New()
		for _, member := range c.GetMembers() {
			ch.Members = append(ch.Members, chain.Member{
				Program: member.GetProgram(), Priority: member.GetPriority(), Disabled: !member.GetEnabled(),
				ProceedOn: setOf(&xdpdv1.ProceedOn{Verdicts: member.GetProceedOn()}),
			})
		}
		if err := ch.Validate(); err != nil {
			h.Errorf("chain of %s: %v", c.GetInterface(), err)
		}
		m.chains[c.GetInterface()] = ch
		m.tallies[c.GetInterface()] = &tally{members: map[string]chain.Counts{}}
	}
	for name := range maps.Keys(m.programs) {
		if len(m.places(name)) == 0 {
			h.Errorf("program %s has no place", name)
		}
	}
	h.model = m
	if h.counted(nettest.Dev)+h.counted(second) > 0 {
		h.Fatal("packets were counted that no test sent")
	}
}
