// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// entry7 is what change7 left in the history of an interface: a chain of that revision with a member.
func entry7(revision uint64) *xdpdv1.HistoryEntry {
	return &xdpdv1.HistoryEntry{
		Revision: revision, Caller: change7().GetCaller(), What: change7().GetWhat(),
		Chain: &xdpdv1.ChainSpec{Members: []*xdpdv1.MemberSpec{{Program: "blocklist"}}},
	}
}

// entryOf is an entry that something else left.
func entryOf(what string, revision uint64) *xdpdv1.HistoryEntry {
	e := entry7(revision)
	e.What = what
	return e
}

func current(e *xdpdv1.HistoryEntry) *xdpdv1.HistoryEntry {
	e.Current = true
	return e
}

func empty(e *xdpdv1.HistoryEntry) *xdpdv1.HistoryEntry {
	e.Chain.Members = nil
	return e
}

// What became of a change whose end was missed is read from the history of the interfaces that it changed. Only what
// proves that it was not undone counts as a confirmation.
func TestSettled(t *testing.T) {
	type entries = []*xdpdv1.HistoryEntry
	undone := func(revision uint64) entries {
		return entries{current(entryOf("cancel of add blocklist", revision+1)), entry7(revision), entryOf("apply", revision-1)}
	}
	stays := func(revision uint64) entries {
		return entries{current(entry7(revision)), entryOf("apply", revision-1)}
	}
	for _, c := range []struct {
		name       string
		interfaces []string          // of the change
		revisions  map[string]uint64 // of the answer
		history    map[string]entries
		stays      bool
	}{
		{"confirmed", []string{"eth0", "eth1"}, map[string]uint64{"eth0": 4, "eth1": 7}, map[string]entries{"eth0": stays(4), "eth1": stays(7)}, true},
		{"undone", []string{"eth0", "eth1"}, map[string]uint64{"eth0": 4, "eth1": 7}, map[string]entries{"eth0": undone(4), "eth1": undone(7)}, false},
		{
			"an interface of the answer that is not of the change",
			[]string{"eth1"},
			map[string]uint64{"eth0": 4, "eth1": 7},
			map[string]entries{"eth0": stays(4), "eth1": undone(7)},
			false,
		},
		{
			"one interface was changed again",
			[]string{"eth0", "eth1"},
			map[string]uint64{"eth0": 4, "eth1": 7},
			map[string]entries{"eth0": stays(4), "eth1": {current(entryOf("rm", 8)), entry7(7)}},
			false,
		},
		{"only claimed", []string{"eth0"}, map[string]uint64{"eth0": 4}, map[string]entries{"eth0": {current(entryOf("apply", 4))}}, false},
		{
			"claimed and changed",
			[]string{"eth0", "eth1"},
			map[string]uint64{"eth0": 4, "eth1": 7},
			map[string]entries{"eth0": {current(entryOf("apply", 4))}, "eth1": stays(7)},
			true,
		},
		{"of no interface", nil, map[string]uint64{"eth0": 4}, map[string]entries{"eth0": stays(4)}, false},
		{"no history", []string{"eth0"}, map[string]uint64{"eth0": 4}, nil, false},
		{"removal confirmed", []string{"eth0"}, map[string]uint64{"eth0": 0}, map[string]entries{"eth0": {current(empty(entry7(5))), entryOf("apply", 4)}}, true},
		{"removal undone", []string{"eth0"}, map[string]uint64{"eth0": 0}, map[string]entries{"eth0": {current(entryOf("cancel", 6)), empty(entry7(5))}}, false},
		{
			"removal undone, and made by another",
			[]string{"eth0"},
			map[string]uint64{"eth0": 0},
			map[string]entries{"eth0": {current(empty(entryOf("rm", 7))), entryOf("cancel", 6), empty(entry7(5))}},
			false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startFake(t, map[string]any{"ListChains": &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{eth0()}}})
			f.answers["ListHistory"] = answer(func(r proto.Message) (proto.Message, error) {
				if h := c.history[r.(*xdpdv1.ListHistoryRequest).GetInterface()]; h != nil {
					return &xdpdv1.ListHistoryResponse{Entries: h}, nil
				}
				return nil, refusal(t, codes.NotFound, "CHAIN_NOT_FOUND", "", "no history", nil)
			})
			dialled, err := client.Dial(f.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer dialled.Close()
			var out strings.Builder
			w := &waiter{app: &app{stdio: stdio{out: &out}}, client: dialled, change: change7(), revisions: c.revisions}
			w.output.value = "table"
			w.change.Interfaces = c.interfaces
			done, err := w.settled(t.Context())
			if !done || (err == nil) != c.stays {
				t.Errorf("done is %v, the error %v, want that it stays: %v", done, err, c.stays)
			}
			if err != nil && !strings.Contains(err.Error(), "whether it stays is not known") {
				t.Errorf("the error is %v", err)
			}
			if said := out.String() == "change 7 is confirmed and stays\n"; said != c.stays {
				t.Errorf("it says %q", out.String())
			}
		})
	}
}

// Ctrl-C is not lost while xdpctl asks what became of the change.
func TestInterruptWhileAsking(t *testing.T) {
	objects(t)
	for _, asks := range []string{"ListChains", "ListHistory"} {
		ctx, cancel := context.WithCancel(t.Context())
		f := startFake(t, map[string]any{
			"ListChains": &xdpdv1.ListChainsResponse{}, "Cancel": &xdpdv1.CancelResponse{Change: &xdpdv1.Change{Changed: true}},
		})
		f.answers["AddProgram"] = f.thenTell(addedPending(), missed())
		f.answers[asks] = answer(func(proto.Message) (proto.Message, error) {
			cancel()
			return nil, status.Error(codes.Canceled, "as it is called on both sides")
		})
		r := xdpctlUntil(ctx, f.socket, addWithin, strings.NewReader(""))
		if n := f.times(&xdpdv1.CancelRequest{}); r.status != exitRefused || n != 1 || !strings.Contains(r.err, "change 7 was cancelled") {
			t.Errorf("%s: exit status %d, %d cancels, %q", asks, r.status, n, r.err)
		}
	}
}

// Ctrl-C while the change is being made undoes it when it is made.
func TestInterruptBeforeTheAnswer(t *testing.T) {
	objects(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answering := make(chan struct{})
	f := startFake(t, map[string]any{"Cancel": &xdpdv1.CancelResponse{Change: &xdpdv1.Change{Changed: true}}})
	f.answers["AddProgram"] = answer(func(proto.Message) (proto.Message, error) {
		cancel()
		<-answering
		return addedPending(), nil
	})
	interrupted := interruptAt{text: "interrupted: the change is undone as soon as the daemon has answered", then: func() { close(answering) }}
	r := xdpctlAt(ctx, f.socket, addWithin, &interrupted)
	if n := f.times(&xdpdv1.CancelRequest{}); r.status != exitRefused || n != 1 || !strings.Contains(r.err, "change 7 was cancelled") {
		t.Errorf("exit status %d, %d cancels, %q", r.status, n, r.err)
	}
	if strings.Contains(r.err, "waiting for") || strings.Contains(r.err, "not known") {
		t.Errorf("it says %q", r.err)
	}
	// Before it is asked for, it is not made at all.
	if r := xdpctlUntil(ctx, f.socket, addWithin, strings.NewReader("")); r.status != exitRefused || !strings.Contains(r.err, "nothing was done") {
		t.Errorf("interrupted before: exit status %d, %q", r.status, r.err)
	}
	if asked := f.asked(); len(asked) != 0 {
		t.Errorf("interrupted before: it asked %v", asked)
	}
}

// Somebody else confirms or cancels a change, or its time is up, at the moment in which it is confirmed on the terminal.
func TestConfirmedByTwo(t *testing.T) {
	objects(t)
	for _, c := range []struct {
		told   *xdpdv1.WatchResponse
		status int
		says   string
	}{
		{confirmed7(), 0, "change 7 is confirmed and stays"},
		{reverted(7, false), exitRefused, "change 7 was cancelled"},
		{reverted(7, true), exitRefused, "change 7 was not confirmed in time"},
	} {
		f := startFake(t, map[string]any{"AddProgram": addedPending()})
		f.answers["Confirm"] = answer(func(proto.Message) (proto.Message, error) {
			f.events <- c.told
			return nil, refusal(t, codes.NotFound, "CHANGE_NOT_FOUND", "", "no change 7 waits", nil)
		})
		status, shown := onTerminal(t, t.Context(), f, func(keyboard *os.File) { fmt.Fprintln(keyboard, "y") })
		if n := f.times(&xdpdv1.ConfirmRequest{}); status != c.status || n != 1 || !strings.Contains(shown, c.says) {
			t.Errorf("want %q: exit status %d, %d confirms, %q", c.says, status, n, shown)
		}
	}
}
