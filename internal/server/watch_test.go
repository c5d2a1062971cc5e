// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/feed"
)

type watch = grpc.ServerStreamingClient[xdpdv1.WatchResponse]

func startWatch(t *testing.T, r *rig, token string) (watch, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	w, err := r.api.Watch(ctx, &xdpdv1.WatchRequest{ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return w, cancel
}

func receive(t *testing.T, w watch) *xdpdv1.WatchResponse {
	t.Helper()
	resp, err := w.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// started reads the first response, and returns the token that it has.
func started(t *testing.T, w watch) string {
	t.Helper()
	resp := receive(t, w)
	if resp.GetStarted() == nil || resp.GetResumeToken() == "" || time.Since(resp.GetTime().AsTime()) > time.Minute {
		t.Fatalf("the first response is %v", resp)
	}
	return resp.GetResumeToken()
}

// ended reads all that there is, and returns the error that the watch ends with.
func ended(w watch) error {
	for {
		if _, err := w.Recv(); err != nil {
			return err
		}
	}
}

func swapped(revision uint64) control.Event {
	return control.Event{Kind: control.ChainSwapped, Interface: "eth0", Revision: revision}
}

func TestWatchTellsEachKind(t *testing.T) {
	f := &fake{events: feed.New[control.Event](100)}
	r := start(t, f)
	w, _ := startWatch(t, r, "")
	tokens := map[string]bool{started(t, w): true}
	member := control.Member{
		Member: chain.Member{Program: "fw", Priority: 3, ProceedOn: chain.Of(chain.Pass)}, Slot: 1, Counts: chain.Counts{Seen: 5},
	}
	message := &xdpdv1.Member{Program: "fw", Priority: 3, ProceedOn: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_PASS}, Enabled: true, Slot: ptr(uint32(1))}
	problem := &xdpdv1.WatchResponse_Problem{Subject: "program fw", Text: "bad\uFFFD"}
	view, ended := lease()
	for kind, tc := range map[control.EventKind]struct {
		event control.Event
		want  *xdpdv1.WatchResponse
	}{
		control.MemberAdded:   {control.Event{Member: member}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_MemberAdded{MemberAdded: message}}},
		control.MemberRemoved: {control.Event{Member: member}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_MemberRemoved{MemberRemoved: message}}},
		control.MemberChanged: {control.Event{Member: member}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_MemberChanged{MemberChanged: message}}},
		control.ProgramReplaced: {
			control.Event{SHA256: "ab", PreviousSHA256: "cd"},
			&xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ProgramReplaced_{
				ProgramReplaced: &xdpdv1.WatchResponse_ProgramReplaced{ObjectSha256: "ab", PreviousSha256: "cd"},
			}},
		},
		control.ChainSwapped: {
			control.Event{Revision: 9, Previous: 8},
			&xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ChainSwapped_{ChainSwapped: &xdpdv1.WatchResponse_ChainSwapped{Revision: 9, Previous: 8}}},
		},
		control.ConfirmPending: {
			control.Event{Pending: waiting()}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ConfirmPending{ConfirmPending: waitingMessage()}},
		},
		control.Confirmed: {
			control.Event{Pending: waiting()}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Confirmed{Confirmed: waitingMessage()}},
		},
		control.Reverted: {
			control.Event{Pending: waiting(), Expired: true},
			&xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Reverted_{Reverted: &xdpdv1.WatchResponse_Reverted{Change: waitingMessage(), Expired: true}}},
		},
		control.Degraded: {
			control.Event{Subject: "program fw", Text: "bad\xff"}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Degraded{Degraded: problem}},
		},
		control.Recovered: {
			control.Event{Subject: "program fw", Text: "bad\xff"}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Recovered{Recovered: problem}},
		},
		control.InterfaceUp: {
			control.Event{Ifindex: 7}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_InterfaceUp{InterfaceUp: &xdpdv1.WatchResponse_Interface{Ifindex: 7}}},
		},
		control.InterfaceGone: {
			control.Event{Ifindex: 7}, &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_InterfaceGone{InterfaceGone: &xdpdv1.WatchResponse_Interface{Ifindex: 7}}},
		},
		control.InterfaceRenamed: {
			control.Event{Former: "usb0\xff"},
			&xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_InterfaceRenamed{InterfaceRenamed: &xdpdv1.WatchResponse_Renamed{From: "usb0\uFFFD"}}},
		},
		control.ForeignSeen: {
			control.Event{Foreign: control.Foreign{ID: 44, Name: "other\xff", Mode: chain.Generic}},
			&xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ForeignSeen{
				ForeignSeen: &xdpdv1.WatchResponse_ForeignProgram{ProgramId: 44, Name: "other\uFFFD", Mode: xdpdv1.Mode_MODE_GENERIC},
			}},
		},
		control.LeaseEnded: {
			control.Event{Lease: view, Text: "it was released\xff"},
			&xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_LeaseEnded_{
				LeaseEnded: &xdpdv1.WatchResponse_LeaseEnded{Lease: ended, Reason: "it was released\uFFFD"},
			}},
		},
	} {
		event, want := tc.event, tc.want
		event.Kind, event.Time, event.Interface, event.Program = kind, someTime, "eth0", "fw"
		want.Time, want.Interface, want.Program = timestamppb.New(someTime), "eth0", "fw"
		if kind%2 == 0 { // some have a caller, others do not
			event.Caller, want.Caller = &control.Caller{UID: 1, PID: 2}, &xdpdv1.Caller{Uid: 1, Pid: 2}
		}
		f.events.Publish(event)
		got := receive(t, w)
		tokens[got.GetResumeToken()] = true
		got.ResumeToken = ""
		same(t, got, want)
	}
	kinds := (&xdpdv1.WatchResponse{}).ProtoReflect().Descriptor().Oneofs().ByName("event").Fields().Len()
	if told := len(tokens) - 1; told != kinds-2 { // Started and Missed are told by the server itself
		t.Errorf("%d kinds of events with tokens of their own, the API has %d", told, kinds-2)
	}
}

func TestWatchGoesOn(t *testing.T) {
	f := &fake{events: feed.New[control.Event](4)}
	r := start(t, f)
	w, cancel := startWatch(t, r, "")
	begin := started(t, w)
	f.events.Publish(swapped(1))
	f.events.Publish(swapped(2))
	first := receive(t, w)
	cancel()
	if err := ended(w); status.Code(err) != codes.Canceled {
		t.Errorf("a cancelled watch ends with %v", err)
	}

	w, _ = startWatch(t, r, first.GetResumeToken())
	if token := started(t, w); token != first.GetResumeToken() {
		t.Errorf("it begins with the token %q, want %q", token, first.GetResumeToken())
	}
	if got := receive(t, w); got.GetChainSwapped().GetRevision() != 2 {
		t.Errorf("after the first event came %v", got)
	}

	for revision := uint64(3); revision <= 6; revision++ { // the feed forgets the first two
		f.events.Publish(swapped(revision))
	}
	w, _ = startWatch(t, r, begin)
	started(t, w)
	gap := receive(t, w)
	if gap.GetMissed().GetEvents() != 2 || gap.GetResumeToken() == "" || gap.GetTime().GetSeconds() == 0 {
		t.Errorf("for a token that is too old came %v, want two events missed", gap)
	}
	if got := receive(t, w); got.GetChainSwapped().GetRevision() != 3 {
		t.Errorf("after the gap came %v", got)
	}

	w, _ = startWatch(t, r, "of-another-run")
	started(t, w)
	if gap := receive(t, w); gap.GetMissed() == nil || gap.GetMissed().GetEvents() != 0 {
		t.Errorf("for a strange token came %v, want a gap of unknown size", gap)
	}
	w, _ = startWatch(t, r, long(maxString+1))
	if err := ended(w); status.Code(err) != codes.InvalidArgument {
		t.Errorf("for an endless token came %v", err)
	}
}

// flood publishes more than the buffers between the server and a client that does not read can hold. Each event
// takes about 64 KiB, which is what gRPC lets a server send ahead.
func flood(f *fake, n int) {
	for range n {
		f.events.Publish(control.Event{Kind: control.Degraded, Text: long(64 << 10)})
	}
}

func TestWatchOfASlowReader(t *testing.T) {
	const size, published = 4, 200
	f := &fake{events: feed.New[control.Event](size)}
	r := start(t, f)
	slow, _ := startWatch(t, r, "")
	started(t, slow)
	quick, _ := startWatch(t, r, "")
	started(t, quick)
	for range published { // one by one, so that the quick one misses none
		flood(f, 1)
		if got := receive(t, quick); got.GetDegraded() == nil {
			t.Fatalf("the quick reader got %v", got)
		}
	}
	if _, err := r.api.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); err != nil {
		t.Errorf("another request beside the slow reader: %v", err)
	}
	var told, missed uint64
	for told+missed < published {
		resp := receive(t, slow)
		missed += resp.GetMissed().GetEvents()
		if resp.GetDegraded() != nil {
			told++
		}
	}
	if missed == 0 || told < size || told+missed != published {
		t.Errorf("the slow reader got %d events and missed %d of %d", told, missed, published)
	}
}

func TestWatchEndsWhenTheServerStops(t *testing.T) {
	f := &fake{events: feed.New[control.Event](4)}
	r := start(t, f)
	w, _ := startWatch(t, r, "")
	started(t, w)
	stopped := make(chan error, 1)
	go func() { stopped <- r.server.GracefulStop(t.Context()) }()
	if err := ended(w); status.Code(err) != codes.Unavailable || outcome(status.Convert(err)) != "STOPPING" {
		t.Errorf("the watch ends with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	line := ""
	for l := range strings.Lines(r.log.String()) {
		if strings.Contains(l, "method=Watch") {
			line += l
		}
	}
	if strings.Count(line, "\n") != 1 || !strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "outcome=STOPPING") {
		t.Errorf("the log says of the watch: %q", line)
	}
}

func TestWatchEndsWithTheFeed(t *testing.T) {
	f := &fake{events: feed.New[control.Event](4)}
	r := start(t, f)
	w, _ := startWatch(t, r, "")
	started(t, w)
	f.events.Publish(swapped(1))
	f.events.Close()
	if got := receive(t, w); got.GetChainSwapped() == nil {
		t.Errorf("before the end came %v", got)
	}
	if err := ended(w); status.Code(err) != codes.Unavailable || outcome(status.Convert(err)) != "STOPPING" {
		t.Errorf("the watch ends with %v", err)
	}
}

// TestStopDoesNotWaitForAReader has a client that never reads when the server stops.
func TestStopDoesNotWaitForAReader(t *testing.T) {
	f := &fake{events: feed.New[control.Event](100)}
	r := start(t, f)
	w, _ := startWatch(t, r, "")
	started(t, w)
	quick, _ := startWatch(t, r, "")
	started(t, quick)
	flood(f, 100)
	for range 100 { // the other one has had its time to fill what is between it and the server
		receive(t, quick)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.server.GracefulStop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := ended(w); status.Code(err) != codes.Unavailable {
		t.Errorf("the watch that did not read ends with %v", err)
	}
}
