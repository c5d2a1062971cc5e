// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"os"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/store"
)

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
		KernelId: 11, LinkId: 12, Packets: 100, PacketsEnd: 40, Pending: waitingMessage(),
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
	message, set := settings()
	r := start(t, &fake{programs: []control.Program{{
		ID: 3, Name: "fw", Function: "f\xff", SHA256: "ab", Size: 9, Lifetime: control.Daemon, Interfaces: []string{"eth0"},
		Maps: []control.Map{{
			Map:        dispatcher.Map{Name: "m\xff", Pin: "/p", Type: "Hash", KernelID: 1, KeySize: 2, ValueSize: 3, MaxEntries: 4, Flags: 6, GID: 7},
			SharedWith: []string{"other"},
		}},
		KernelID: 5, Added: someTime, OwnerUID: 1000, Settings: set,
	}}})
	resp, err := r.api.ListPrograms(t.Context(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, resp.GetPrograms()[0], &xdpdv1.Program{
		Name: "fw", Id: 3, Function: "f\uFFFD", ObjectSha256: "ab", ObjectSize: 9, Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON,
		Interfaces: []string{"eth0"}, KernelId: 5, Added: timestamppb.New(someTime), OwnerUid: 1000, Settings: message,
		Maps: []*xdpdv1.Map{{
			Name: "m\uFFFD", Pin: "/p", Type: "Hash", KernelId: 1, KeySize: 2, ValueSize: 3, MaxEntries: 4,
			Flags: 6, Gid: 7, SharedWith: []string{"other"},
		}},
	})
}

func TestHistoryIsToldInFull(t *testing.T) {
	message, set := settings()
	f := &fake{history: []control.History{
		{Current: true, Entry: store.Entry{
			Interface: "eth0", Revision: 4, Time: someTime, Caller: store.Caller{UID: 1, PID: 2}, What: "add fw", Comment: "why", Diff: []string{"+ fw"},
			Chain: chain.Chain{Mode: chain.Native, Final: chain.Drop, Members: []chain.Member{
				{Program: "fw", Priority: 0, ProceedOn: chain.Of(chain.Pass)},
				{Program: "log", Priority: 7, Disabled: true},
			}},
			Programs: []store.Program{
				{ID: 1, Name: "fw", Function: "f", Object: "ab", Size: 9, Lifetime: "persistent", Settings: set},
				{ID: 2, Name: "log", Function: "g", Object: "cd", Lifetime: "daemon"},
			},
		}},
		{Entry: store.Entry{Interface: "eth0", Revision: 2, Time: someTime}},
	}}
	r := start(t, f)
	got, err := r.api.ListHistory(t.Context(), &xdpdv1.ListHistoryRequest{Interface: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	asked(t, f, "eth0")
	same(t, got, &xdpdv1.ListHistoryResponse{Entries: []*xdpdv1.HistoryEntry{
		{
			Revision: 4, Time: timestamppb.New(someTime), Caller: &xdpdv1.Caller{Uid: 1, Pid: 2}, What: "add fw", Comment: "why", Diff: []string{"+ fw"},
			Chain: &xdpdv1.ChainSpec{
				Interface: "eth0", Mode: xdpdv1.Mode_MODE_NATIVE, FinalVerdict: xdpdv1.Verdict_VERDICT_DROP,
				Members: []*xdpdv1.MemberSpec{
					{
						Program: "fw", Priority: ptr(int32(0)), Enabled: ptr(true),
						ProceedOn: &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_PASS}},
					},
					{Program: "log", Priority: ptr(int32(7)), Enabled: ptr(false), ProceedOn: &xdpdv1.ProceedOn{}},
				},
			},
			Programs: []*xdpdv1.ProgramSpec{
				{Name: "fw", ObjectSha256: "ab", Function: "f", Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT, Settings: message},
				{Name: "log", ObjectSha256: "cd", Function: "g", Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON, Settings: &xdpdv1.ProgramSettings{}},
			},
			Current: true,
		},
		{Revision: 2, Time: timestamppb.New(someTime), Caller: &xdpdv1.Caller{}, Chain: &xdpdv1.ChainSpec{Interface: "eth0"}},
	}})
	if _, err := r.api.ListHistory(t.Context(), &xdpdv1.ListHistoryRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without an interface: %v", err)
	}
}

// TestHistoryCanBeSet checks that what the history tells is a request that SetChains takes, and means the same.
func TestHistoryCanBeSet(t *testing.T) {
	_, set := settings()
	members := []chain.Member{{Program: "fw", Priority: -4, ProceedOn: chain.Of(chain.Tx)}, {Program: "log", Priority: 7, Disabled: true}}
	entry := encodeHistory(control.History{Entry: store.Entry{
		Interface: "eth0", Chain: chain.Chain{Mode: chain.Generic, Final: chain.Aborted, Members: members},
		Programs: []store.Program{{Name: "fw", Function: "f", Object: sum("x"), Lifetime: "daemon", Settings: set}},
	}})
	got, err := decodeSet(&xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{entry.GetChain()}, Programs: entry.GetPrograms()}, self())
	if err != nil {
		t.Fatal(err)
	}
	wantPrograms := []control.ProgramSpec{{Name: "fw", SHA256: sum("x"), Function: "f", Lifetime: control.Daemon, Settings: &set}}
	if !reflect.DeepEqual(got.Programs, wantPrograms) {
		t.Errorf("programs %+v, want %+v", got.Programs, wantPrograms)
	}
	c := got.Chains[0]
	if c.Interface != "eth0" || c.Mode != chain.Generic || *c.Final != chain.Aborted || len(c.Members) != len(members) {
		t.Errorf("chain %+v", c)
	}
	for i, m := range c.Members {
		if back := (chain.Member{Program: m.Program, Priority: *m.Priority, ProceedOn: *m.ProceedOn, Disabled: m.Disabled}); back != members[i] {
			t.Errorf("member %+v, want %+v", back, members[i])
		}
	}
}

func TestTestRun(t *testing.T) {
	f := &fake{test: control.TestResult{
		Revision: 9, LiveMaps: []string{"fw/m"}, Notes: []string{"n"},
		Packets: []dispatcher.Trace{
			{Return: 2, PassedAll: true, Packet: []byte{1}, Steps: []dispatcher.Step{{Name: "fw", Return: 31, Proceeded: true}, {Name: "log", Return: 2, Proceeded: true}}},
			{Return: 77, Packet: []byte{2}, Steps: []dispatcher.Step{{Name: "fw", Return: 77}}},
		},
	}}
	r := start(t, f)
	packets := [][]byte{make([]byte, minPacket), bytes.Repeat([]byte{7}, 60)}
	got, err := r.api.TestRun(t.Context(), &xdpdv1.TestRunRequest{Interface: "eth0", Packets: packets, CopyMaps: true})
	if err != nil {
		t.Fatal(err)
	}
	asked(t, f, control.TestRequest{Interface: "eth0", Packets: packets, CopyMaps: true})
	same(t, got, &xdpdv1.TestRunResponse{
		Revision: 9, LiveMaps: []string{"fw/m"}, Notes: []string{"n"},
		Packets: []*xdpdv1.PacketTrace{
			{
				Verdict: xdpdv1.Verdict_VERDICT_PASS, ReturnCode: 2, PassedAll: true, Packet: []byte{1},
				Steps: []*xdpdv1.TraceStep{
					{Program: "fw", ReturnCode: 31, Proceeded: true},
					{Program: "log", Verdict: xdpdv1.Verdict_VERDICT_PASS, ReturnCode: 2, Proceeded: true},
				},
			},
			{
				Verdict: xdpdv1.Verdict_VERDICT_ABORTED, ReturnCode: 77, Packet: []byte{2},
				Steps: []*xdpdv1.TraceStep{{Program: "fw", ReturnCode: 77}},
			},
		},
	})
}

func TestOneProgramOneChain(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	p, err := r.api.GetProgram(t.Context(), &xdpdv1.GetProgramRequest{Name: "fw"})
	if err != nil || p.GetProgram().GetName() != "fw" {
		t.Errorf("GetProgram: %v, %v", p, err)
	}
	c, err := r.api.GetChain(t.Context(), &xdpdv1.GetChainRequest{Interface: "eth0"})
	if err != nil || c.GetChain().GetInterface() != "eth0" {
		t.Errorf("GetChain: %v, %v", c, err)
	}
	if got := f.requests(); !reflect.DeepEqual(got, []any{"fw", "eth0"}) {
		t.Errorf("the controller got %v", got)
	}
}

func TestGetStatus(t *testing.T) {
	before := time.Now()
	view, message := lease()
	r := start(t, &fake{status: control.Status{
		Kernel: "6.12", Linker: "freplace", LinkerReason: "it works", BPFFS: "/b", Programs: 2, Chains: 3,
		Problems: []string{"one"}, Probes: []dispatcher.Probe{{Name: "freplace", Works: true, Reason: "r"}},
		Leases: []control.LeaseView{view},
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
		Leases: []*xdpdv1.Lease{message},
	})
}

func same(t *testing.T, got, want proto.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}
