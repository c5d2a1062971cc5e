// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// change7 is a change that waits to be confirmed.
func change7() *xdpdv1.PendingChange {
	return &xdpdv1.PendingChange{
		Id: 7, Until: timestamppb.New(started().AsTime().Add(time.Minute)), Left: durationpb.New(time.Minute),
		Interfaces: []string{"eth0"}, Programs: []string{"blocklist"},
		Caller: &xdpdv1.Caller{Uid: 0, Pid: 4321}, What: "add blocklist",
	}
}

// addedPending is the answer to the change that makes it.
func addedPending() *xdpdv1.AddProgramResponse {
	return &xdpdv1.AddProgramResponse{
		Program: blocklist(), Chains: []*xdpdv1.Chain{eth0()},
		Change: &xdpdv1.Change{Changed: true, Pending: change7()},
	}
}

func confirmed7() *xdpdv1.WatchResponse {
	return &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Confirmed{Confirmed: change7()}}
}

func reverted(id uint64, expired bool) *xdpdv1.WatchResponse {
	c := change7()
	c.Id = id
	return &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Reverted_{
		Reverted: &xdpdv1.WatchResponse_Reverted{Change: c, Expired: expired},
	}}
}

func missed() *xdpdv1.WatchResponse {
	return &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Missed_{Missed: &xdpdv1.WatchResponse_Missed{}}}
}

const addWithin = "add blocklist.o --interface eth0 --confirm-within 60s"

// times returns how many requests of the type of m the fake got since the last time.
func (f *fake) times(m proto.Message) (n int) {
	for _, r := range f.asked() {
		if r.ProtoReflect().Descriptor() == m.ProtoReflect().Descriptor() {
			n++
		}
	}
	return n
}

// thenTell is an answer after which the watch tells events.
func (f *fake) thenTell(resp proto.Message, events ...*xdpdv1.WatchResponse) answer {
	return func(proto.Message) (proto.Message, error) {
		for _, e := range events {
			f.events <- e
		}
		return resp, nil
	}
}

func TestWaits(t *testing.T) {
	objects(t)
	other := reverted(8, true)
	otherMember := &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_MemberAdded{MemberAdded: &xdpdv1.Member{}}}
	for _, c := range []struct {
		name, line string
		events     []*xdpdv1.WatchResponse
		status     int
	}{
		{"wait-confirmed", addWithin, []*xdpdv1.WatchResponse{otherMember, other, confirmed7()}, 0},
		{"wait-expired", addWithin, []*xdpdv1.WatchResponse{reverted(7, true)}, exitRefused},
		{"wait-cancelled", addWithin, []*xdpdv1.WatchResponse{reverted(7, false)}, exitRefused},
		{"no-wait", addWithin + " --no-wait", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startFake(t, map[string]any{})
			f.answers["AddProgram"] = f.thenTell(addedPending(), c.events...)
			r := xdpctl(t, f.socket, c.line, "")
			if r.status != c.status {
				t.Errorf("exit status %d, want %d", r.status, c.status)
			}
			golden(t, c.name, session(c.line, r))
			watched := 1
			if len(c.events) == 0 {
				watched = 0
			}
			if n := f.times(&xdpdv1.WatchRequest{}); n != watched {
				t.Errorf("%d watches, want %d", n, watched)
			}
		})
	}
}

// Everything that is not the answer goes to standard error where the answer is for programs.
func TestWaitsJSON(t *testing.T) {
	objects(t)
	f := startFake(t, map[string]any{})
	f.answers["AddProgram"] = f.thenTell(addedPending(), confirmed7())
	r := xdpctl(t, f.socket, addWithin+" -o json", "")
	if r.status != 0 || !strings.HasPrefix(r.out, "{") || !strings.HasSuffix(r.out, "}\n") || strings.Contains(r.out, "confirmed and") {
		t.Errorf("exit status %d, printed %q", r.status, r.out)
	}
	if !strings.Contains(r.err, "waiting for xdpctl confirm 7") || !strings.Contains(r.err, "change 7 is confirmed and stays") {
		t.Errorf("says %q", r.err)
	}
}

// A change that made no difference has nothing to wait for.
func TestWaitsForNothing(t *testing.T) {
	objects(t)
	f := startFake(t, map[string]any{"AddProgram": &xdpdv1.AddProgramResponse{Change: &xdpdv1.Change{}}})
	r := xdpctl(t, f.socket, addWithin, "")
	if r.status != 0 || r.both != "nothing changed: it is so already\n" {
		t.Errorf("exit status %d, %q", r.status, r.both)
	}
}

// Without a watch the change is not made: what becomes of it could not be told.
func TestWaitsOnlyWatching(t *testing.T) {
	objects(t)
	f := startFake(t, map[string]any{"AddProgram": addedPending(), "Watch": status.Error(codes.ResourceExhausted, "too many")})
	r := xdpctl(t, f.socket, addWithin, "")
	if n := f.times(&xdpdv1.AddProgramRequest{}); r.status != exitRefused || !strings.Contains(r.err, "too many") || n != 0 {
		t.Errorf("exit status %d, %q, %d changes", r.status, r.err, n)
	}
	f.answers["Watch"] = nil
	f.answers["AddProgram"] = refusal(t, codes.FailedPrecondition, "CHANGE_PENDING", "", "change 3 waits", nil)
	if r := xdpctl(t, f.socket, addWithin, ""); r.status != exitRefused || !strings.Contains(r.err, "reason: CHANGE_PENDING") {
		t.Errorf("exit status %d, %q", r.status, r.err)
	}
}

func TestInterrupt(t *testing.T) {
	objects(t)
	cancelled := &xdpdv1.CancelResponse{Change: &xdpdv1.Change{Changed: true}}
	for name, answer := range map[string]any{
		"change 7 was cancelled: eth0 has its chain from before it again": cancelled,
		"change 7 was not cancelled; it is undone at 2026-03-14T09:27:53Z unless it is confirmed": refusal(t, codes.NotFound,
			"CHANGE_NOT_FOUND", "", "no change 7 waits", nil),
	} {
		ctx, cancel := context.WithCancel(t.Context())
		f := startFake(t, map[string]any{"Cancel": answer, "AddProgram": addedPending()})
		interrupted := interruptAt{text: "waiting", then: cancel}
		r := xdpctlAt(ctx, f.socket, addWithin, &interrupted)
		if r.status != exitRefused || !strings.Contains(r.err, name) {
			t.Errorf("exit status %d, %q", r.status, r.err)
		}
		if n := f.times(&xdpdv1.CancelRequest{}); n != 1 {
			t.Errorf("%d cancels", n)
		}
		cancel()
	}
}

// interruptAt is a standard error that calls then when it has printed text, each time.
type interruptAt struct {
	strings.Builder
	text string
	then func()
}

func (i *interruptAt) Write(b []byte) (int, error) {
	n, err := i.Builder.Write(b)
	if strings.Contains(string(b), i.text) {
		i.then()
	}
	return n, err
}

func xdpctlAt(ctx context.Context, socket, line string, errs *interruptAt) result {
	var out strings.Builder
	code := run(ctx, strings.Fields(line), func(string) string { return socket }, stdio{strings.NewReader(""), &out, errs})
	return result{status: code, out: out.String(), err: errs.String()}
}

// A daemon that goes away while a change waits is waited for, and asked what became of the change.
func TestWaitsThroughRestart(t *testing.T) {
	objects(t)
	waiting := eth0()
	waiting.Pending = change7()
	history := func(revision uint64) *xdpdv1.ListHistoryResponse {
		return &xdpdv1.ListHistoryResponse{Entries: []*xdpdv1.HistoryEntry{current(entry7(revision))}}
	}
	for _, c := range []struct {
		name   string
		chains []*xdpdv1.Chain
		then   []*xdpdv1.WatchResponse
		now    uint64 // revision
		status int
		says   string
	}{
		{"it waits still", []*xdpdv1.Chain{waiting}, []*xdpdv1.WatchResponse{missed(), confirmed7()}, 4, 0, "the daemon is back\n"},
		{"nothing is missing", nil, []*xdpdv1.WatchResponse{confirmed7()}, 4, 0, "the daemon is back\n"},
		{"it was confirmed", []*xdpdv1.Chain{eth0()}, []*xdpdv1.WatchResponse{missed()}, 4, 0, "the daemon is back\n"},
		{"it was undone", []*xdpdv1.Chain{eth0()}, []*xdpdv1.WatchResponse{missed()}, 5, exitRefused, "does not wait to be confirmed any more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := startFake(t, map[string]any{
				"AddProgram": addedPending(), "ListChains": &xdpdv1.ListChainsResponse{Chains: c.chains}, "ListHistory": history(c.now),
			})
			stopped := interruptAt{text: "waiting for", then: func() {
				f.stop()
				f.start(t)
				for _, e := range c.then {
					f.events <- e
				}
			}}
			r := xdpctlAt(t.Context(), f.socket, addWithin, &stopped)
			const away = "the daemon went away; it undoes change 7 at 2026-03-14T09:27:53Z unless xdpctl confirm 7 is in time\n"
			if r.status != c.status || !strings.Contains(r.err, away) || !strings.Contains(r.err, c.says) {
				t.Errorf("exit status %d, %q", r.status, r.err)
			}
		})
	}
}

func TestDaemonAwayAtDeadline(t *testing.T) {
	objects(t)
	resp := addedPending()
	resp.Change.Pending.Left = durationpb.New(300 * time.Millisecond)
	f := startFake(t, map[string]any{"AddProgram": resp})
	stopped := interruptAt{text: "waiting for", then: func() { f.stop() }}
	r := xdpctlAt(t.Context(), f.socket, addWithin, &stopped)
	if r.status != exitRefused || !strings.Contains(r.err, "no daemon answers, and change 7 was not confirmed") {
		t.Errorf("exit status %d, %q", r.status, r.err)
	}
}
