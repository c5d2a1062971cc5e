// SPDX-License-Identifier: Apache-2.0

package server

import (
	"os"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
)

func TestAddProgram(t *testing.T) {
	f := &fake{chains: []control.Chain{everything()}}
	r := start(t, f)
	resp, err := r.api.AddProgram(t.Context(), &xdpdv1.AddProgramRequest{
		Name: "fw", Object: []byte{1, 2}, Function: "main", Interfaces: []string{"eth0", "eth1"}, Priority: ptr(int32(0)),
		Position:  &xdpdv1.Position{Place: &xdpdv1.Position_After{After: "x"}},
		ProceedOn: &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_REDIRECT, xdpdv1.Verdict_VERDICT_ABORTED}},
		Mode:      xdpdv1.Mode_MODE_GENERIC, Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := control.AddRequest{
		Name: "fw", Object: []byte{1, 2}, Function: "main", Interfaces: []string{"eth0", "eth1"}, Priority: ptr(int32(0)),
		Position: chain.Position{After: "x"}, ProceedOn: ptr(chain.Of(chain.Aborted, chain.Redirect)),
		Mode: chain.Generic, Lifetime: control.Persistent, OwnerUID: uint32(os.Getuid()),
	}
	if !reflect.DeepEqual(f.added, []control.AddRequest{want}) {
		t.Errorf("the controller got %+v, want %+v", f.added, want)
	}
	if resp.GetProgram().GetName() != "fw" || len(resp.GetChains()) != 1 {
		t.Errorf("answer: %v", resp)
	}
}

func TestAddProgramLeavesOutWhatIsNotGiven(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	if _, err := r.api.AddProgram(t.Context(), &xdpdv1.AddProgramRequest{Object: []byte{1}, Interfaces: []string{"eth0"}}); err != nil {
		t.Fatal(err)
	}
	want := control.AddRequest{Object: []byte{1}, Interfaces: []string{"eth0"}, OwnerUID: uint32(os.Getuid())}
	if !reflect.DeepEqual(f.added[0], want) {
		t.Errorf("the controller got %+v, want %+v", f.added[0], want)
	}
}

func TestEmptyProceedOnIsGiven(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	req := add("eth0")
	req.ProceedOn = &xdpdv1.ProceedOn{}
	if _, err := r.api.AddProgram(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := f.added[0].ProceedOn; got == nil || *got != 0 {
		t.Errorf("the controller got %v, want the empty set", got)
	}
}

func TestRemoveProgram(t *testing.T) {
	f := &fake{chains: []control.Chain{{Interface: "eth0"}}}
	r := start(t, f)
	resp, err := r.api.RemoveProgram(t.Context(), &xdpdv1.RemoveProgramRequest{Name: "fw", Interfaces: []string{"eth0"}})
	if err != nil || !resp.GetUnloaded() || resp.GetChains()[0].GetInterface() != "eth0" {
		t.Errorf("answer: %v, %v", resp, err)
	}
	if !reflect.DeepEqual(f.removed, []string{"fw"}) || !reflect.DeepEqual(f.from, []string{"eth0"}) {
		t.Errorf("the controller got %v from %v", f.removed, f.from)
	}
}

func TestUpdateMembers(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	_, err := r.api.UpdateMembers(t.Context(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{
		{Program: "a", Interface: "eth0", Position: &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}},
		{Program: "b", Priority: ptr(int32(-1)), Enabled: ptr(false), ProceedOn: &xdpdv1.ProceedOn{}},
		{Program: "c", Position: &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}},
		{Program: "d", Position: &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: "a"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []control.Update{
		{Program: "a", Interface: "eth0", Position: chain.Position{First: true}},
		{Program: "b", Priority: ptr(int32(-1)), Enabled: ptr(false), ProceedOn: ptr(chain.ProceedOn(0))},
		{Program: "c", Position: chain.Position{Last: true}},
		{Program: "d", Position: chain.Position{Before: "a"}},
	}
	if !reflect.DeepEqual(f.updates, want) {
		t.Errorf("the controller got %+v, want %+v", f.updates, want)
	}
}

func TestChainIsToldInFull(t *testing.T) {
	r := start(t, &fake{chains: []control.Chain{everything()}})
	resp, err := r.api.ListChains(t.Context(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	v := func(v ...xdpdv1.Verdict) []xdpdv1.Verdict { return v }
	want := &xdpdv1.Chain{
		Interface: "eth0", Ifindex: 7, Revision: 9, Mode: xdpdv1.Mode_MODE_AUTO, ActualMode: xdpdv1.Mode_MODE_GENERIC,
		ModeReason: "no driver", FinalVerdict: xdpdv1.Verdict_VERDICT_PASS, Linker: xdpdv1.Linker_LINKER_INLINE,
		KernelId: 11, LinkId: 12, Packets: 100, PacketsEnd: 40,
		Members: []*xdpdv1.Member{
			{
				Program: "a", Priority: -3, ProceedOn: v(xdpdv1.Verdict_VERDICT_PASS, xdpdv1.Verdict_VERDICT_TX), Enabled: true, Slot: ptr(uint32(0)),
				Counters: &xdpdv1.MemberCounters{
					Seen: 100, PassedOn: 79, EndedAborted: 1, EndedDrop: 2, EndedPass: 3, EndedTx: 4, EndedRedirect: 5, EndedOther: 6,
				},
			},
			{Program: "b", Priority: 50, Counters: &xdpdv1.MemberCounters{}},
		},
	}
	same(t, resp.GetChains()[0], want)
}

func TestProgramIsToldInFull(t *testing.T) {
	added := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	r := start(t, &fake{programs: []control.Program{{
		ID: 3, Name: "fw", Function: "f", SHA256: "ab", Size: 9, Lifetime: control.Daemon, Interfaces: []string{"eth0"},
		Maps: []dispatcher.Map{{Name: "m", Pin: "/p", Type: "Hash", KernelID: 1, KeySize: 2, ValueSize: 3, MaxEntries: 4}}, KernelID: 5,
		Added: added, OwnerUID: 1000,
	}}})
	resp, err := r.api.ListPrograms(t.Context(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, resp.GetPrograms()[0], &xdpdv1.Program{
		Name: "fw", Id: 3, Function: "f", ObjectSha256: "ab", ObjectSize: 9, Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON,
		Interfaces: []string{"eth0"}, KernelId: 5, Added: timestamppb.New(added), OwnerUid: 1000,
		Maps: []*xdpdv1.Map{{Name: "m", Pin: "/p", Type: "Hash", KernelId: 1, KeySize: 2, ValueSize: 3, MaxEntries: 4}},
	})
}

func TestOneProgramOneChain(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	p, err := r.api.GetProgram(t.Context(), &xdpdv1.GetProgramRequest{Name: "fw"})
	if err != nil || p.GetProgram().GetName() != "fw" || f.asked != "fw" {
		t.Errorf("GetProgram: %v, %v", p, err)
	}
	c, err := r.api.GetChain(t.Context(), &xdpdv1.GetChainRequest{Interface: "eth0"})
	if err != nil || c.GetChain().GetInterface() != "eth0" || f.asked != "eth0" {
		t.Errorf("GetChain: %v, %v", c, err)
	}
}

func TestGetStatus(t *testing.T) {
	before := time.Now()
	r := start(t, &fake{status: control.Status{
		Kernel: "6.12", Linker: "freplace", LinkerReason: "it works", BPFFS: "/b", Programs: 2, Chains: 3,
		Problems: []string{"one"}, Probes: []dispatcher.Probe{{Name: "freplace", Works: true, Reason: "r"}},
	}})
	got, err := r.api.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if at := got.GetStarted().AsTime(); at.Before(before) || at.After(time.Now()) {
		t.Errorf("started %v, want a time after %v", at, before)
	}
	got.Started = nil
	same(t, got, &xdpdv1.GetStatusResponse{
		Version: "1.2.3", StateDir: "/state", Pid: int32(os.Getpid()), Kernel: "6.12", Linker: xdpdv1.Linker_LINKER_FREPLACE, LinkerReason: "it works",
		Probes: []*xdpdv1.Probe{{Name: "freplace", Works: true, Reason: "r"}}, Bpffs: "/b", Programs: 2, Chains: 3, Problems: []string{"one"},
	})
}

func same(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}
