// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// contest is a kind of change that two clients make at the same time: what the one and the other asks for.
// It returns the chains of the answer.
type contest struct {
	name string
	make func(ctx context.Context, c *client.Client, who int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error)
}

// contests are made one after the other. They leave what was there before the first, so that they can be repeated.
var contests = []contest{
	{"add", func(ctx context.Context, c *client.Client, who int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error) {
		r := add("x", []string{"pass", "goon"}[who], nettest.Dev)
		r.Options = o
		a, err := c.AddProgram(ctx, r)
		return a.GetChains(), err
	}},
	{"set", func(ctx context.Context, c *client.Client, who int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error) {
		u := &xdpdv1.MemberUpdate{Program: "x", Interface: nettest.Dev, Priority: ptr(int32(70 + who))}
		a, err := c.UpdateMembers(ctx, &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{u}, Options: o})
		return a.GetChains(), err
	}},
	{"apply", func(ctx context.Context, c *client.Client, who int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error) {
		names := [][]string{{"x", "base"}, {"base", "x"}}[who]
		spec := &xdpdv1.ChainSpec{Interface: nettest.Dev}
		for i, name := range names {
			spec.Members = append(spec.Members, &xdpdv1.MemberSpec{Program: name, Priority: ptr(int32(10*who + i))})
		}
		a, err := c.SetChains(ctx, &xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{spec}, Options: o})
		return a.GetChains(), err
	}},
	{"replace", func(ctx context.Context, c *client.Client, who int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error) {
		a, err := c.ReplaceProgram(ctx, &xdpdv1.ReplaceProgramRequest{Name: "x", Function: []string{"drop", "tx"}[who], Options: o})
		return a.GetChains(), err
	}},
	{"rm", func(ctx context.Context, c *client.Client, _ int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error) {
		a, err := c.RemoveProgram(ctx, &xdpdv1.RemoveProgramRequest{Name: "x", Options: o})
		return a.GetChains(), err
	}},
	{"add and rm of another", func(ctx context.Context, c *client.Client, who int, o *xdpdv1.ChangeOptions) ([]*xdpdv1.Chain, error) {
		r := add([]string{"y", "z"}[who], "plain", nettest.Dev)
		r.Options = o
		a, err := c.AddProgram(ctx, r)
		if err != nil {
			return nil, err
		}
		now := &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{nettest.Dev: a.GetChains()[0].GetRevision()}}
		_, err = c.RemoveProgram(ctx, &xdpdv1.RemoveProgramRequest{Name: r.GetName(), Options: now})
		return a.GetChains(), err
	}},
}

// TestRacingClients lets two clients, who both saw the same revision, make a change at the same time, over and
// over: exactly one of them makes it, and the other is told which revision there is instead.
func TestRacingClients(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("base", "pass", nettest.Dev)))
	rounds := 40 // of each contest
	if testing.Short() {
		rounds = 3
	}
	var clients [2]*client.Client
	for i := range clients {
		c, err := client.Dial(h.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients[i] = c
	}
	var won [2]int
	for range rounds {
		for _, c := range contests {
			won[h.compete(c, clients)]++
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("of %d contests the one won %d and the other %d", won[0]+won[1], won[0], won[1])
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// compete makes one contest and returns who won it.
func (h *host) compete(c contest, clients [2]*client.Client) (winner int) {
	h.Helper()
	before := h.chain(nettest.Dev).GetRevision()
	type outcome struct {
		who    int
		chains []*xdpdv1.Chain
		err    error
	}
	start, outcomes := make(chan struct{}), make(chan outcome, 2)
	ctx := h.ctx()
	for who, cl := range clients {
		go func() {
			<-start
			o := &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{nettest.Dev: before}}
			chains, err := c.make(ctx, cl, who, o)
			outcomes <- outcome{who, chains, err}
		}()
	}
	close(start)
	first, second := <-outcomes, <-outcomes
	if first.err != nil {
		first, second = second, first
	}
	if first.err != nil || len(first.chains) != 1 {
		h.Fatalf("%s: nobody won: %v; %v, %v", c.name, first.err, second.err, first.chains)
	}
	made := first.chains[0].GetRevision()
	if second.err == nil {
		h.Fatalf("%s: both won with revision %d: %v, %v", c.name, before, first.chains, second.chains)
	}
	facts := client.Facts(second.err)
	if status.Code(second.err) != codes.Aborted || client.Reason(second.err) != xdpdv1.ErrorReason_ERROR_REASON_REVISION_MISMATCH ||
		facts["interface"] != nettest.Dev || facts["expected"] != strconv.FormatUint(before, 10) {
		h.Errorf("%s: the loser is told: %v %v", c.name, second.err, facts)
	}
	// The winner of the last contest goes on: the loser may have come when it had.
	if actual, err := strconv.ParseUint(facts["actual"], 10, 64); err != nil || actual < made || actual > h.chain(nettest.Dev).GetRevision() ||
		actual != made && !strings.HasPrefix(c.name, "add and") {
		h.Errorf("%s: the loser is told of revision %s, and the winner made %d", c.name, facts["actual"], made)
	}
	if now := h.chain(nettest.Dev); !strings.HasPrefix(c.name, "add and") && fmt.Sprint(now.GetMembers()) != fmt.Sprint(first.chains[0].GetMembers()) {
		h.Errorf("%s: the winner was answered %v, and there is %v", c.name, first.chains[0], now)
	}
	return first.who
}

// chain is what the daemon says of an interface's chain.
func (h *host) chain(iface string) *xdpdv1.Chain {
	h.Helper()
	a, err := h.client.GetChain(h.ctx(), &xdpdv1.GetChainRequest{Interface: iface})
	if err != nil {
		h.Fatal(err)
	}
	return a.GetChain()
}

// TestExpectations asks for changes with revisions that are not what there is, on one of several interfaces, and
// with revisions of interfaces that the change does not touch.
func TestExpectations(t *testing.T) {
	h := newHost(t, second)
	h.start()
	expecting := func(r *xdpdv1.AddProgramRequest, revisions map[string]uint64) *xdpdv1.AddProgramRequest {
		r.Options = &xdpdv1.ChangeOptions{ExpectedRevisions: revisions}
		return r
	}
	h.do(adding(expecting(add("a", "pass", nettest.Dev), map[string]uint64{nettest.Dev: 0, second: 0})))
	mismatch := xdpdv1.ErrorReason_ERROR_REASON_REVISION_MISMATCH
	for _, c := range []struct {
		revisions               map[string]uint64
		iface, expected, actual string
	}{
		{map[string]uint64{nettest.Dev: 0}, nettest.Dev, "0", "1"},
		{map[string]uint64{nettest.Dev: 2}, nettest.Dev, "2", "1"},
		{map[string]uint64{nettest.Dev: 1, second: 1}, second, "1", "0"},
	} {
		err := h.refused(mismatch, adding(expecting(add("b", "pass", nettest.Dev, second), c.revisions)))
		if f := client.Facts(err); f["interface"] != c.iface || f["expected"] != c.expected || f["actual"] != c.actual {
			t.Errorf("with %v: %v", c.revisions, f)
		}
	}
	// It is the revision that counts, and not what would come of it: that is asked first, and told first.
	gone := &xdpdv1.RemoveProgramRequest{Name: "nobody", Options: &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{nettest.Dev: 9}}}
	if _, err := h.client.RemoveProgram(h.ctx(), gone); client.Reason(err) != mismatch {
		t.Errorf("removal of nobody: %v", err)
	}
	dry := expecting(add("b", "pass", nettest.Dev), map[string]uint64{nettest.Dev: 7})
	dry.Options.DryRun = true
	h.refused(mismatch, adding(dry))
	h.Check()
	h.do(adding(expecting(add("b", "pass", nettest.Dev, second), map[string]uint64{nettest.Dev: 1, second: 0})))
	h.Check()
	h.stop(unix.SIGTERM)
}
