// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// replaced is the answer to a replacement in which one map of each kind came about.
func replaced() *xdpdv1.ReplaceProgramResponse {
	return &xdpdv1.ReplaceProgramResponse{
		Program: blocklist(), Chains: []*xdpdv1.Chain{eth0(), wlan0()},
		Change: &xdpdv1.Change{
			Changed: true,
			Diff:    []string{"program blocklist: object 5f0c1d7e9aa2 -> 9944aa01cc3d"},
			Maps: []*xdpdv1.MapOrigin{
				{Program: "blocklist", Map: "blocked", Origin: xdpdv1.MapOrigin_ORIGIN_CARRIED},
				{Program: "blocklist", Map: "flows", Origin: xdpdv1.MapOrigin_ORIGIN_SHARED},
				{Program: "blocklist", Map: "totals", Origin: xdpdv1.MapOrigin_ORIGIN_NEW, Reason: "the value has 16 bytes, and had 8"},
			},
		},
	}
}

// applied is the answer to an apply that took wlan0's chain away.
func applied(dryRun bool) *xdpdv1.SetChainsResponse {
	return &xdpdv1.SetChainsResponse{
		Chains: []*xdpdv1.Chain{eth0(), {Interface: "wlan0", Ifindex: 5, Revision: 2}},
		Change: &xdpdv1.Change{
			Changed: true, DryRun: dryRun,
			Diff: []string{
				"eth0: + ratelimit, priority 50, proceed-on pass,tx", "eth0: dns-cache disabled",
				"wlan0: - blocklist", "program ratelimit: new, object ab90d1ff0e22",
			},
			Maps: []*xdpdv1.MapOrigin{{Program: "ratelimit", Map: "buckets", Origin: xdpdv1.MapOrigin_ORIGIN_NEW}},
		},
	}
}

func historyAnswer() *xdpdv1.ListHistoryResponse {
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(started().AsTime().Add(d)) }
	return &xdpdv1.ListHistoryResponse{Entries: []*xdpdv1.HistoryEntry{
		{
			Revision: 4, Time: at(2 * time.Hour), Caller: &xdpdv1.Caller{Uid: 1000, Pid: 5120}, What: "apply", Current: true,
			Comment: "rate limit, ticket 4711", Diff: []string{"+ ratelimit, priority 50", "dns-cache disabled", "sample: priority 50 -> 90"},
		},
		{Revision: 3, Time: at(time.Hour), What: "cancel add tracer", Diff: []string{"- tracer"}},
		{Revision: 2, Time: at(time.Minute), Caller: &xdpdv1.Caller{Pid: 901}, What: "add tracer", Comment: "just looking", Diff: []string{"+ tracer"}},
		{Revision: 1, Time: at(0), Caller: &xdpdv1.Caller{Pid: 900}, What: "add blocklist"},
	}}
}

// pending returns a chain that has change 7, or a second one.
func pending(c *xdpdv1.Chain, id uint64) *xdpdv1.Chain {
	c.Pending = change7()
	c.Pending.Id = id
	c.Pending.Interfaces = []string{c.GetInterface()}
	return c
}

func mapsAnswer() *xdpdv1.GetProgramResponse {
	p := blocklist()
	p.Maps = append(p.Maps, &xdpdv1.Map{
		Name: "totals", Pin: "/sys/fs/bpf/xdpd/programs/1/maps/totals", Type: "PerCPUArray", KeySize: 4, ValueSize: 16,
		MaxEntries: 8, Gid: 4242424, SharedWith: []string{"ratelimit", "sample"},
	})
	return &xdpdv1.GetProgramResponse{Program: p}
}

// changeCases are the golden cases of changes to chains and what belongs to them.
func changeCases(t *testing.T) []goldenCase {
	reordered := &xdpdv1.UpdateMembersResponse{Chains: []*xdpdv1.Chain{eth0()}, Change: &xdpdv1.Change{
		Changed: true, Diff: []string{"eth0: ratelimit before dns-cache"},
	}}
	unordered := eth0()
	unordered.Members[1], unordered.Members[2] = unordered.Members[2], unordered.Members[1]
	order := map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: unordered}, "UpdateMembers": reordered}
	none := &xdpdv1.SetChainsResponse{Chains: []*xdpdv1.Chain{eth0()}, Change: &xdpdv1.Change{DryRun: true}}
	back := &xdpdv1.RollbackResponse{Revision: 3, Chains: []*xdpdv1.Chain{eth0()}, Change: &xdpdv1.Change{
		Changed: true, Diff: []string{"eth0: - ratelimit", "eth0: dns-cache enabled"},
	}}
	undone := &xdpdv1.CancelResponse{Chains: []*xdpdv1.Chain{eth0()}, Change: &xdpdv1.Change{Changed: true, Diff: []string{"eth0: - tracer"}}}
	one := &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{pending(eth0(), 7), wlan0()}}
	two := &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{pending(eth0(), 7), pending(wlan0(), 9)}}
	mismatch := refusal(t, codes.Aborted, "REVISION_MISMATCH", "", "eth0 has revision 5, not 4",
		map[string]string{"interface": "eth0", "expected": "4", "actual": "5"})
	return []goldenCase{
		{"replace", "replace blocklist blocklist.o", map[string]any{"ReplaceProgram": replaced()}, 0},
		{"mismatch", "rm blocklist --expect eth0=4", map[string]any{"RemoveProgram": mismatch}, exitRefused},
		{"order", "order eth0 blocklist,ratelimit,dns-cache,sample", order, 0},
		{"apply", "apply -f chains.yaml", map[string]any{"SetChains": applied(false)}, 0},
		{"apply-dry-run", "apply -f chains.yaml --dry-run", map[string]any{"SetChains": applied(true)}, 0},
		{"apply-dry-run-none", "apply -f chains.yaml --dry-run", map[string]any{"SetChains": none}, 0},
		{"apply-error", "apply -f wrong.yaml", nil, exitRefused},
		{"history", "history eth0", map[string]any{"ListHistory": historyAnswer()}, 0},
		{"history-none", "history eth0", map[string]any{"ListHistory": &xdpdv1.ListHistoryResponse{}}, 0},
		{"rollback", "rollback eth0 --to 3", map[string]any{"Rollback": back}, 0},
		{"chain-pending", "chain eth0", map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: pending(eth0(), 7)}}, 0},
		{"confirm", "confirm", map[string]any{"ListChains": one, "Confirm": &xdpdv1.ConfirmResponse{Change: change7()}}, 0},
		{"confirm-several", "confirm", map[string]any{"ListChains": two}, exitRefused},
		{"confirm-none", "confirm", map[string]any{"ListChains": &xdpdv1.ListChainsResponse{}}, exitRefused},
		{"cancel", "cancel 7", map[string]any{"Cancel": undone}, 0},
		{"maps", "maps blocklist", map[string]any{"GetProgram": mapsAnswer()}, 0},
		{"maps-none", "maps sample", map[string]any{"GetProgram": &xdpdv1.GetProgramResponse{}}, 0},
		{"trace", "trace eth0 -r capture.pcap", map[string]any{"TestRun": traced()}, 0},
		{"trace-hex", "trace eth0 --packet " + hexPacket() + " --copy-maps -x", map[string]any{"TestRun": tracedOne()}, 0},
		{"help-replace", "replace --help", nil, 0},
		{"help-order", "order --help", nil, 0},
		{"help-apply", "apply --help", nil, 0},
		{"help-history", "history --help", nil, 0},
		{"help-rollback", "rollback --help", nil, 0},
		{"help-confirm", "confirm --help", nil, 0},
		{"help-cancel", "cancel --help", nil, 0},
		{"help-maps", "maps --help", nil, 0},
		{"help-watch", "watch --help", nil, 0},
		{"help-trace", "trace --help", nil, 0},
		{"help-changes", "help changes", nil, 0},
	}
}
