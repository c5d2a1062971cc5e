// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// allEvents is one event of each kind, the last one of which is the interface up.
func allEvents() []*xdpdv1.WatchResponse {
	var all []*xdpdv1.WatchResponse
	tell := func(iface, program string, r *xdpdv1.WatchResponse) {
		r.Interface, r.Program = iface, program
		r.Time = timestamppb.New(started().AsTime().Add(time.Duration(len(all)) * 250 * time.Millisecond))
		r.ResumeToken = strings.Repeat("i", len(all)+1)
		all = append(all, r)
	}
	member := eth0().Members[1]
	member.Counters = nil
	problem := &xdpdv1.WatchResponse_Problem{Subject: "eth7", Text: "the foreign program 44 (other)\nholds the interface"}
	tell("eth0", "ratelimit", &xdpdv1.WatchResponse{
		Caller: &xdpdv1.Caller{Uid: 1000, Pid: 77}, Event: &xdpdv1.WatchResponse_MemberAdded{MemberAdded: member},
	})
	tell("eth0", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ChainSwapped_{
		ChainSwapped: &xdpdv1.WatchResponse_ChainSwapped{Revision: 5, Previous: 4},
	}})
	tell("", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ConfirmPending{ConfirmPending: change7()}})
	tell("", "", confirmed7())
	tell("", "", reverted(8, true))
	tell("", "", reverted(9, false))
	tell("eth0", "dns-cache", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_MemberChanged{MemberChanged: eth0().Members[2]}})
	tell("eth0", "blocklist", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_MemberRemoved{MemberRemoved: eth0().Members[0]}})
	tell("", "blocklist", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ProgramReplaced_{
		ProgramReplaced: &xdpdv1.WatchResponse_ProgramReplaced{ObjectSha256: "9944aa01cc3d00", PreviousSha256: "5f0c1d7e9aa200"},
	}})
	tell("", "blocklist", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ProgramReplaced_{
		ProgramReplaced: &xdpdv1.WatchResponse_ProgramReplaced{ObjectSha256: "9944aa01cc3d00", PreviousSha256: "9944aa01cc3d00"},
	}})
	tell("wlan0", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ChainSwapped_{
		ChainSwapped: &xdpdv1.WatchResponse_ChainSwapped{Previous: 2},
	}})
	tell("eth7", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Degraded{Degraded: problem}})
	tell("eth7", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Recovered{Recovered: problem}})
	tell("", "", missed())
	tell("", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Missed_{Missed: &xdpdv1.WatchResponse_Missed{Events: 12}}})
	tell("", "", &xdpdv1.WatchResponse{})
	tell("blue:eth0", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_InterfaceRenamed{
		InterfaceRenamed: &xdpdv1.WatchResponse_Renamed{From: "veth7"},
	}})
	tell("eth1", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_ForeignSeen{
		ForeignSeen: &xdpdv1.WatchResponse_ForeignProgram{ProgramId: 44, Name: "firewall", Mode: xdpdv1.Mode_MODE_NATIVE},
	}})
	tell("", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_LeaseEnded_{
		LeaseEnded: &xdpdv1.WatchResponse_LeaseEnded{Lease: leases()[0], Reason: "its stream ended"},
	}})
	tell("usb0", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_InterfaceGone{InterfaceGone: &xdpdv1.WatchResponse_Interface{Ifindex: 9}}})
	tell("usb0", "", &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_InterfaceUp{InterfaceUp: &xdpdv1.WatchResponse_Interface{Ifindex: 11}}})
	return all
}

// watchUntil runs a watch until Ctrl-C, which comes when it has printed text.
func watchUntil(t *testing.T, f *fake, line, text string) result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &interruptAt{text: text, then: cancel}
	var errs strings.Builder
	code := run(ctx, strings.Fields(line), func(string) string { return f.socket }, stdio{strings.NewReader(""), out, &errs})
	return result{status: code, out: out.String(), err: errs.String()}
}

func TestWatch(t *testing.T) {
	for _, c := range []struct{ name, line, last string }{
		{"watch", "watch", "interface has come"},
		{"watch-json", "watch -o json", "interface_up"},
	} {
		f := startFake(t, nil)
		events := allEvents()
		if c.name == "watch-json" {
			events = append(events[:2], events[len(events)-1])
		}
		go func() {
			for _, e := range events {
				f.events <- e
			}
		}()
		r := watchUntil(t, f, c.line, c.last)
		if r.status != 0 || r.err != "" {
			t.Errorf("exit status %d, %q", r.status, r.err)
		}
		golden(t, c.name, session(c.line, r))
	}
}

func TestWatchYAML(t *testing.T) {
	f := startFake(t, nil)
	f.events <- allEvents()[1]
	r := watchUntil(t, f, "watch -o yaml", "chain_swapped")
	if r.status != 0 || !strings.HasPrefix(r.out, "---\nstarted: {}\n---\nresume_token: ii\n") {
		t.Errorf("exit status %d, %q", r.status, r.out)
	}
}

// A watch goes on where it was after a restart of the daemon, and says that there was one.
func TestWatchRestart(t *testing.T) {
	f := startFake(t, nil)
	events := allEvents()
	f.events <- events[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &interruptAt{text: "ratelimit added", then: func() {
		f.stop()
		f.start(t)
		f.events <- events[len(events)-1]
	}}
	errs := &interruptAt{text: "is back", then: func() { out.text, out.then = "interface has come", cancel }}
	code := run(ctx, strings.Fields("watch --resume abc"), func(string) string { return f.socket }, stdio{strings.NewReader(""), out, errs})
	const says = "xdpctl: the daemon went away; waiting for it\nxdpctl: the daemon is back\n"
	if code != 0 || errs.String() != says || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("exit status %d, %q, %q", code, out, errs)
	}
	var tokens []string
	for _, r := range f.asked() {
		tokens = append(tokens, r.(*xdpdv1.WatchRequest).GetResumeToken())
	}
	if len(tokens) < 2 || tokens[0] != "abc" || tokens[len(tokens)-1] != "i" {
		t.Errorf("watched from %q", tokens)
	}
}

func TestWatchFailures(t *testing.T) {
	if r := xdpctl(t, "/nonexistent", "watch", ""); r.status != exitNoDaemon {
		t.Errorf("without a daemon: exit status %d", r.status)
	}
	f := startFake(t, map[string]any{"Watch": nil})
	f.events <- allEvents()[0]
	var errs strings.Builder
	code := run(t.Context(), []string{"watch"}, func(string) string { return f.socket }, stdio{strings.NewReader(""), full{}, &errs})
	if code != exitRefused || !strings.Contains(errs.String(), "no space left") {
		t.Errorf("a disk that is full: exit status %d, %q", code, &errs)
	}
}

// Names come out of objects that anyone may have made, and an event is one line.
func TestWatchControlCharacters(t *testing.T) {
	evil := allEvents()[0]
	evil.Program = "a\x1b[2J\nb"
	f := startFake(t, nil)
	f.events <- evil
	r := watchUntil(t, f, "watch", "added")
	if strings.ContainsAny(r.out, "\x1b\r") || strings.Count(r.out, "\n") != 1 {
		t.Errorf("printed %q", r.out)
	}
}
