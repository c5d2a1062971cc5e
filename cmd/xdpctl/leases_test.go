// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// blueEth0 is in another network namespace, and was renamed.
func blueEth0() *xdpdv1.Chain {
	c := wlan0()
	c.Interface, c.Ifindex, c.ModeReason, c.ActualMode, c.RenamedFrom = "blue:eth0", 2, "", xdpdv1.Mode_MODE_NATIVE, "blue:veth7"
	return c
}

// displaced has a foreign program in its place.
func displaced() *xdpdv1.Chain {
	c := usb0()
	c.Interface, c.Ifindex, c.State = "eth1", 4, xdpdv1.Chain_STATE_FOREIGN
	c.Problem = "eth1 runs the XDP program 44 (firewall) in native mode, which xdpd did not put there"
	return c
}

// degraded runs, and lost its pins.
func degraded() *xdpdv1.Chain {
	c := wlan0()
	c.Interface, c.Ifindex, c.State, c.ModeReason = "eth2", 6, xdpdv1.Chain_STATE_DEGRADED, ""
	c.Problem = "the pins of its link are gone; tried to repair it 3 times, the next time is in 8s"
	return c
}

// capture is a program of a lease that goes onto interfaces by itself.
func capture() *xdpdv1.Program {
	p := programs().GetPrograms()[3]
	p.Name, p.Id, p.Interfaces, p.Added = "capture", 8, []string{"eth0", "eth1"}, started()
	p.ObjectSize, p.Lifetime, p.Lease = 2048, xdpdv1.Lifetime_LIFETIME_LEASE, 3
	p.Patterns = []*xdpdv1.Pattern{
		{Pattern: "eth*", Priority: ptr[int32](5), ProceedOn: set(pass, tx), Mode: xdpdv1.Mode_MODE_NATIVE, Except: []string{"eth7", "eth9"}},
		{Pattern: "blue:veth?", Position: before("blocklist"), ProceedOn: set()},
	}
	p.Settings = &xdpdv1.ProgramSettings{
		Globals: map[string]string{"rate": "100", "name": `"on"`}, MaxEntries: map[string]uint32{"ring": 4096}, ShareMapsFrom: "sample", MapGroup: "monitor",
	}
	p.Maps = []*xdpdv1.Map{{Name: "ring"}, {Name: "totals"}}
	return p
}

// leases are one that a client holds, and one whose client went.
func leases() []*xdpdv1.Lease {
	return []*xdpdv1.Lease{
		{Id: 3, Held: true, Holder: &xdpdv1.Caller{Uid: 1000, Pid: 4711}, Grace: durationpb.New(10 * time.Second), Programs: []string{"capture", "sample"}},
		{Id: 4, Holder: &xdpdv1.Caller{Pid: 77}, Grace: durationpb.New(0), Left: durationpb.New(25500 * time.Millisecond)},
	}
}

// taken is a change that took two interfaces from foreign programs.
func taken(dryRun bool) *xdpdv1.Change {
	return &xdpdv1.Change{
		Changed: true, DryRun: dryRun, Diff: []string{"eth0: + blocklist"},
		Takeovers: []*xdpdv1.Takeover{
			{Interface: "eth0", ProgramId: 123, Name: "xdp_foo", Mode: xdpdv1.Mode_MODE_NATIVE, Swapped: true},
			{Interface: "wlan0", ProgramId: 124, Mode: xdpdv1.Mode_MODE_GENERIC},
		},
	}
}

// survivalCases are the golden cases of leases, patterns, takeovers and interfaces that come and go.
func survivalCases(t *testing.T) []goldenCase {
	waits := usb0()
	waits.Problem = "there is no interface usb0"
	states := &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{blueEth0(), displaced(), degraded(), waits}}
	everywhere := &xdpdv1.AddProgramResponse{Program: capture(), Chains: []*xdpdv1.Chain{leasedChain()}, Change: &xdpdv1.Change{Changed: true}}
	took := &xdpdv1.AddProgramResponse{Program: blocklist(), Chains: []*xdpdv1.Chain{eth0(), wlan0()}, Change: taken(false)}
	would := &xdpdv1.AddProgramResponse{Program: blocklist(), Chains: []*xdpdv1.Chain{wlan0()}, Change: taken(true)}
	removed := &xdpdv1.RemoveProgramResponse{Chains: []*xdpdv1.Chain{eth0(), {Interface: "eth1"}}}
	all := programs()
	all.Programs = append(all.Programs, capture())
	held := statusAnswer()
	held.Leases = leases()
	held.Problems = []string{"eth1: " + displaced().GetProblem(), "usb0: there is no interface usb0"}
	dump := map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: leasedChain()}, "ListPrograms": all}
	lost := refusal(t, codes.NotFound, "LEASE_NOT_FOUND", "", "no lease has that token: it has ended, or there was none", nil)
	return []goldenCase{
		{"chain-states", "chain", map[string]any{"ListChains": states}, 0},
		{"chain-lease-yaml", "chain blue:eth0 -o yaml", dump, 0},
		{"ls-program", "ls capture", map[string]any{"GetProgram": &xdpdv1.GetProgramResponse{Program: capture()}}, 0},
		{"ls-program-plain", "ls blocklist", map[string]any{"GetProgram": &xdpdv1.GetProgramResponse{Program: blocklist()}}, 0},
		{"ls-lease", "ls", map[string]any{"ListPrograms": all}, 0},
		{"status-leases", "status", map[string]any{"GetStatus": held}, 0},
		{"add-pattern", "add sample.o --name capture -i 'eth*' -i 'blue:veth?' --lifetime lease --lease T", map[string]any{"AddProgram": everywhere}, 0},
		{"add-takeover", "add blocklist.o -i eth0,wlan0 --takeover", map[string]any{"AddProgram": took}, 0},
		{"add-takeover-dry-run", "add blocklist.o -i eth0,wlan0 --takeover --dry-run", map[string]any{"AddProgram": would}, 0},
		{"lease-not-found", "add sample.o -i eth0 --lifetime lease --lease T", map[string]any{"AddProgram": lost}, exitRefused},
		{"help-hold", "hold --help", nil, 0},
		{"rm-pattern", "rm tracer -i 'eth*'", map[string]any{"RemoveProgram": removed}, 0},
	}
}

// leasedChain is in another network namespace, and its member lives by a lease.
func leasedChain() *xdpdv1.Chain {
	c := blueEth0()
	c.Members[0].Program = "capture"
	return c
}

// What a change tells of an interface on which it does not run, or not well.
func TestWhereItDoesNotRun(t *testing.T) {
	objects(t)
	broken := degraded()
	broken.KernelId, broken.LinkId = 0, 0
	for says, c := range map[string]*xdpdv1.Chain{
		"usb0: sample waits (waits for the interface)\n":                                  usb0(),
		"eth1: sample waits (a foreign program has its place); " + displaced().Problem:    displaced(),
		"eth2: revision 1, sample is not a member (generic, freplace); the pins":          degraded(),
		"eth2: sample is not a member (degraded, does not run); the pins of its link are": broken,
	} {
		f := startFake(t, map[string]any{"UpdateMembers": &xdpdv1.UpdateMembersResponse{Chains: []*xdpdv1.Chain{c}}})
		if r := xdpctl(t, f.socket, "set sample --last", ""); r.status != exitDone || !strings.HasPrefix(r.out, says) {
			t.Errorf("exit status %d, %q, want %q", r.status, r.out, says)
		}
		f.answers["GetChain"] = &xdpdv1.GetChainResponse{Chain: broken}
		if r := xdpctl(t, f.socket, "chain eth2", ""); !strings.HasPrefix(r.out, "eth2: degraded, does not run, mode auto, final pass\n  degraded: the pins") {
			t.Errorf("chain prints %q", r.out)
		}
	}
}

// An older daemon does not tell the state.
func TestChainWithoutState(t *testing.T) {
	gone, runs := usb0(), eth0()
	gone.State, runs.State = 0, 0
	f := startFake(t, map[string]any{"ListChains": &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{runs, gone}}})
	r := xdpctl(t, f.socket, "chain", "")
	if !strings.HasPrefix(r.out, "eth0: ifindex 3, revision 4,") || !strings.Contains(r.out, "\nusb0: not on the interface now, mode native,") {
		t.Errorf("printed %q", r.out)
	}
}

// What chain -o yaml prints of leased programs in other namespaces, apply sends back as it was.
func TestLeasedChainsCanBeApplied(t *testing.T) {
	f := startFake(t, map[string]any{
		"GetChain": &xdpdv1.GetChainResponse{Chain: leasedChain()}, "ListPrograms": &xdpdv1.ListProgramsResponse{Programs: []*xdpdv1.Program{capture()}},
		"SetChains": &xdpdv1.SetChainsResponse{},
	})
	dumped := xdpctl(t, f.socket, "chain blue:eth0 -o yaml", "")
	f.asked()
	if r := xdpctl(t, f.socket, "apply -f -", dumped.out); r.status != exitDone {
		t.Fatalf("exit status %d, %q", r.status, r.err)
	}
	member := &xdpdv1.MemberSpec{Program: "capture", Priority: ptr[int32](50), ProceedOn: set(), Enabled: ptr(true)}
	want := &xdpdv1.SetChainsRequest{
		Programs: []*xdpdv1.ProgramSpec{{
			Name: "capture", ObjectSha256: capture().GetObjectSha256(), Function: "sample", Lifetime: xdpdv1.Lifetime_LIFETIME_LEASE,
			Settings: capture().GetSettings(),
		}},
		Chains: []*xdpdv1.ChainSpec{{
			Interface: "blue:eth0", Mode: xdpdv1.Mode_MODE_AUTO, FinalVerdict: pass, Members: []*xdpdv1.MemberSpec{member},
		}},
	}
	if got := f.asked(); len(got) != 1 || !proto.Equal(got[0], want) {
		t.Errorf("asked %v\nwant  %v", got, want)
	}
}

// The token comes from --lease, else from the environment, and only where the program is of a lease.
func TestLeaseTokens(t *testing.T) {
	objects(t)
	f := startFake(t, map[string]any{"AddProgram": &xdpdv1.AddProgramResponse{}})
	for _, c := range []struct{ line, env, token string }{
		{"--lifetime lease", "fromenv", "fromenv"},
		{"--lifetime lease --lease given", "fromenv", "given"},
		{"--lifetime lease --lease given", "", "given"},
		{"--lifetime daemon", "fromenv", ""},
		{"", "fromenv", ""},
	} {
		env := func(name string) string { return map[string]string{"XDPD_SOCKET": f.socket, "XDPD_LEASE": c.env}[name] }
		var out strings.Builder
		args := strings.Fields("add blocklist.o -i eth0 " + c.line)
		if code := run(t.Context(), args, env, stdio{strings.NewReader(""), &out, &out}); code != exitDone {
			t.Errorf("%q: exit status %d, %q", c.line, code, &out)
		}
		for _, r := range f.asked() {
			if got := r.(*xdpdv1.AddProgramRequest).GetLease(); got != c.token {
				t.Errorf("%q: the token %q, want %q", c.line, got, c.token)
			}
		}
	}
}
