// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

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
		d := newDraw(seed, i, nettest.Dev, second)
		wg.Go(func() {
			c, err := client.Dial(h.socket)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			one := &host{TB: brief{t, ctx}, client: c}
			for range 4 {
				r := d.change(nil)
				if o, ok := r.(interface{ GetOptions() *xdpdv1.ChangeOptions }); ok {
					o.GetOptions().ConfirmWithin = nil
				}
				_, err := one.ask(r)
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
	m.blind = true
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, p := range programs.GetPrograms() {
		adopted := program{
			object: p.GetObjectSha256(), function: p.GetFunction(), persistent: p.GetLifetime() == xdpdv1.Lifetime_LIFETIME_PERSISTENT,
			settings: settingsOf(p.GetSettings()),
		}
		adopted.runs = m.newRuns(adopted)
		m.programs[p.GetName()] = adopted
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
