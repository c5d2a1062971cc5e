// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

const (
	pass = xdpdv1.Verdict_VERDICT_PASS
	tx   = xdpdv1.Verdict_VERDICT_TX
)

func ptr[T any](v T) *T { return &v }

// eth0 is a chain with all that a member can look like.
func eth0() *xdpdv1.Chain {
	return &xdpdv1.Chain{
		Interface: "eth0", Ifindex: 3, Revision: 4, State: xdpdv1.Chain_STATE_RUNNING,
		Mode: xdpdv1.Mode_MODE_AUTO, ActualMode: xdpdv1.Mode_MODE_NATIVE, FinalVerdict: pass,
		Linker: xdpdv1.Linker_LINKER_FREPLACE, KernelId: 71, LinkId: 12, Packets: 1204518, PacketsEnd: 1187160,
		Members: []*xdpdv1.Member{
			{
				Program: "blocklist", Priority: 10, ProceedOn: []xdpdv1.Verdict{pass}, Enabled: true, Slot: ptr[uint32](0),
				Counters: &xdpdv1.MemberCounters{Seen: 1204518, PassedOn: 1203281, EndedDrop: 1237},
			},
			{
				Program: "ratelimit", Priority: 50, ProceedOn: []xdpdv1.Verdict{pass, tx}, Enabled: true, Slot: ptr[uint32](1),
				Counters: &xdpdv1.MemberCounters{Seen: 1203281, PassedOn: 1187160, EndedDrop: 16102, EndedAborted: 19},
			},
			{Program: "dns-cache", Priority: 50, ProceedOn: []xdpdv1.Verdict{pass}, Counters: &xdpdv1.MemberCounters{}},
			{
				Program: "sample", Priority: 90, Enabled: true, Slot: ptr[uint32](2), ProceedOn: []xdpdv1.Verdict{pass},
				Counters: &xdpdv1.MemberCounters{Seen: 1187160, PassedOn: 1187160},
			},
		},
	}
}

// wlan0 runs in another mode than the one asked for.
func wlan0() *xdpdv1.Chain {
	return &xdpdv1.Chain{
		Interface: "wlan0", Ifindex: 5, Revision: 1, State: xdpdv1.Chain_STATE_RUNNING,
		Mode: xdpdv1.Mode_MODE_AUTO, ActualMode: xdpdv1.Mode_MODE_GENERIC,
		ModeReason: "the driver iwlwifi has no native XDP (operation not supported)", FinalVerdict: pass,
		Linker: xdpdv1.Linker_LINKER_FREPLACE, KernelId: 80, LinkId: 13, Packets: 96, PacketsEnd: 0,
		Members: []*xdpdv1.Member{
			{Program: "blocklist", Priority: 50, Enabled: true, Slot: ptr[uint32](0), Counters: &xdpdv1.MemberCounters{
				Seen: 96, EndedDrop: 12, EndedPass: 70, EndedTx: 3, EndedRedirect: 8, EndedAborted: 2, EndedOther: 1,
			}},
		},
	}
}

// usb0 is unplugged.
func usb0() *xdpdv1.Chain {
	return &xdpdv1.Chain{
		Interface: "usb0", Mode: xdpdv1.Mode_MODE_NATIVE, FinalVerdict: pass, State: xdpdv1.Chain_STATE_WAITING,
		Members: []*xdpdv1.Member{{Program: "sample", Priority: 50, Enabled: true, ProceedOn: []xdpdv1.Verdict{pass}}},
	}
}

func blocklist() *xdpdv1.Program {
	return &xdpdv1.Program{
		Name: "blocklist", Id: 1, Function: "block_sources",
		ObjectSha256: "5f0c1d7e9aa2" + strings.Repeat("b3", 26), ObjectSize: 9128,
		Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT, Interfaces: []string{"eth0", "wlan0"},
		Maps: []*xdpdv1.Map{{
			Name: "blocked", Pin: "/sys/fs/bpf/xdpd/programs/1/maps/blocked", KernelId: 31,
			Type: "LPMTrie", KeySize: 8, ValueSize: 8, MaxEntries: 65536,
		}},
		KernelId: 66, Added: started(),
	}
}

func programs() *xdpdv1.ListProgramsResponse {
	program := func(id uint64, name, function, sum string, interfaces ...string) *xdpdv1.Program {
		return &xdpdv1.Program{
			Name: name, Id: id, Function: function, ObjectSha256: sum + strings.Repeat("00", 26),
			Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON, Interfaces: interfaces, Added: started(),
		}
	}
	return &xdpdv1.ListProgramsResponse{Programs: []*xdpdv1.Program{
		blocklist(),
		program(12, "dns-cache", "answer_from_cache", "0e12a1b90c4d", "eth0"),
		program(4, "ratelimit", "ratelimit", "ab90d1ff0e22", "eth0"),
		program(5, "sample", "sample", "7711c0ffee00", "eth0", "usb0"),
	}}
}

// withSettings is all programs, one of them with settings.
func withSettings() *xdpdv1.ListProgramsResponse {
	all := programs()
	all.Programs[2].Settings = &xdpdv1.ProgramSettings{
		Globals:    map[string]string{"limit": "1000", "name": `"on"`, "ports": "[80,443]"},
		MaxEntries: map[string]uint32{"buckets": 4096}, ShareMapsFrom: "blocklist", MapGroup: "monitor",
	}
	return all
}

func started() *timestamppb.Timestamp {
	return timestamppb.New(time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC))
}

func statusAnswer() *xdpdv1.GetStatusResponse {
	return &xdpdv1.GetStatusResponse{
		Version: "v0.1.0", Pid: 812, Started: started(), Kernel: "6.12.48",
		Linker: xdpdv1.Linker_LINKER_INLINE, LinkerReason: "auto; freplace does not work on this kernel",
		Probes: []*xdpdv1.Probe{
			{Name: "freplace", Reason: "load the EXT program: operation not permitted"},
			{Name: "inline", Works: true},
		},
		Bpffs: "/sys/fs/bpf/xdpd", StateDir: "/var/lib/xdpd", Programs: 4, Chains: 3,
	}
}

// refusal is an error as the daemon raises it.
func refusal(t *testing.T, code codes.Code, reason, log, message string, facts map[string]string) error {
	t.Helper()
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: reason, Domain: "xdpd", Metadata: facts}}
	if log != "" {
		details = append(details, &errdetails.DebugInfo{Detail: log})
	}
	s, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}
