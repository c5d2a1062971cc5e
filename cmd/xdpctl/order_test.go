// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/xdpd/xdpd/chain"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// letters is a chain with these programs and rising priorities.
func letters(names string) chain.Chain {
	c := chain.Chain{}
	for i, n := range names {
		c.Members = append(c.Members, chain.Member{Program: string(n), Priority: int32(i / 2 * 10), ProceedOn: chain.Of(chain.Pass)})
	}
	return c
}

func namesOf(c chain.Chain) string {
	s := ""
	for _, m := range c.Members {
		s += m.Program
	}
	return s
}

func split(s string) (names []string) {
	for _, n := range s {
		names = append(names, string(n))
	}
	return names
}

// ordered does to a chain what the daemon does with the updates.
func ordered(c chain.Chain, programs string) (chain.Chain, error) {
	var changes []chain.Change
	for _, u := range orderUpdates(split(namesOf(c)), split(programs)) {
		changes = append(changes, chain.Change{
			Program: u.GetProgram(), Position: chain.Position{First: u.GetPosition().GetFirst(), After: u.GetPosition().GetAfter()},
		})
	}
	return c.Update(changes)
}

func TestOrder(t *testing.T) {
	for _, c := range []struct{ now, programs, want string }{
		{"abcd", "abcd", "abcd"},
		{"abcd", "dcba", "dcba"},
		{"abcd", "bcda", "bcda"},
		{"abcd", "dabc", "dabc"},
		{"abcd", "b", "abcd"},
		{"abcd", "ca", "bcad"},
		{"abcd", "ad", "adbc"},
		{"abcd", "db", "acdb"},
		{"abcde", "cae", "bcaed"},
		{"a", "a", "a"},
	} {
		got, err := ordered(letters(c.now), c.programs)
		if err != nil || namesOf(got) != c.want {
			t.Errorf("%s in %s: %s, %v, want %s", c.programs, c.now, namesOf(got), err, c.want)
		}
	}
}

// For any chain and any programs of it the updates give the order, and leave everything else as it was.
func TestOrderAlways(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 20000 {
		all := "abcdefgh"[:1+rnd.IntN(8)]
		c := letters(all)
		picked := rnd.Perm(len(all))[:1+rnd.IntN(len(all))]
		programs := ""
		for _, i := range picked {
			programs += string(all[i])
		}
		got, err := ordered(c, programs)
		if err != nil {
			t.Fatalf("%s in %s: %v", programs, all, err)
		}
		// Those that are not named stay around the first that is.
		want := ""
		for _, n := range all {
			if string(n) == programs[:1] {
				want += programs
			} else if !slices.Contains(split(programs), string(n)) {
				want += string(n)
			}
		}
		if namesOf(got) != want {
			t.Fatalf("%s in %s: %s, want %s", programs, all, namesOf(got), want)
		}
		again, err := ordered(got, programs)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(got) {
			t.Fatalf("%s in %s, a second time: %v, %v", programs, namesOf(got), again, err)
		}
	}
}

// Members that are in their place already are not touched, and so keep their priorities.
func TestOrderKeepsPriorities(t *testing.T) {
	c := letters("abcdef")
	for _, programs := range []string{"abcdef", "bcd", "f"} {
		if got, err := ordered(c, programs); err != nil || fmt.Sprint(got) != fmt.Sprint(c) {
			t.Errorf("%s: %v, %v", programs, got, err)
		}
	}
}

func TestOrderRequest(t *testing.T) {
	moved := func(program, behind string) *xdpdv1.MemberUpdate {
		u := &xdpdv1.MemberUpdate{Program: program, Interface: "eth0"}
		if behind != "" {
			u.Position = after(behind)
		}
		return u
	}
	for _, c := range []struct {
		line     string
		updates  []*xdpdv1.MemberUpdate
		expected uint64
	}{
		{"order eth0 sample,ratelimit", []*xdpdv1.MemberUpdate{moved("ratelimit", "sample")}, 4},
		{"order eth0 sample", []*xdpdv1.MemberUpdate{moved("sample", "")}, 4},
		{"order eth0 sample,unknown --expect eth0=3", []*xdpdv1.MemberUpdate{moved("unknown", "sample")}, 3},
		{"order eth0 unknown,sample", []*xdpdv1.MemberUpdate{moved("sample", "unknown")}, 4},
		{"order eth0 sample,dns-cache,ratelimit,blocklist", []*xdpdv1.MemberUpdate{
			{Program: "sample", Interface: "eth0", Position: first()},
			moved("dns-cache", "sample"), moved("ratelimit", "dns-cache"), // and blocklist is behind it then
		}, 4},
	} {
		f := startFake(t, map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: eth0()}, "UpdateMembers": &xdpdv1.UpdateMembersResponse{}})
		r := xdpctl(t, f.socket, c.line, "")
		want := &xdpdv1.UpdateMembersRequest{
			Updates: c.updates, Options: &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{"eth0": c.expected}},
		}
		got := f.asked()
		if r.status != 0 || len(got) != 2 || !proto.Equal(got[1], want) {
			t.Errorf("%s: exit status %d %s, asked %v, want %v", c.line, r.status, r.err, got, want)
		}
	}
}
