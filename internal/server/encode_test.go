// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/store"
)

func TestStates(t *testing.T) {
	for state, want := range map[control.State]xdpdv1.Chain_State{
		control.Unknown: xdpdv1.Chain_STATE_UNSPECIFIED, control.Running: xdpdv1.Chain_STATE_RUNNING, control.Waiting: xdpdv1.Chain_STATE_WAITING,
		control.Displaced: xdpdv1.Chain_STATE_FOREIGN, control.Broken: xdpdv1.Chain_STATE_DEGRADED,
	} {
		got := encodeChain(control.Chain{Interface: "blue\xff:eth0", State: state, Problem: "bad\xff", Former: "eth\xff"})
		same(t, got, &xdpdv1.Chain{Interface: "blue\uFFFD:eth0", State: want, Problem: "bad\uFFFD", RenamedFrom: "eth\uFFFD"})
	}
}

func TestPatternsAreToldInFull(t *testing.T) {
	got := encodeProgram(control.Program{Lifetime: control.Leased, Lease: 3, Patterns: []store.Pattern{
		{Glob: "eth*"},
		{
			Glob: "blue\xff:*", Priority: ptr(int32(-1)), Position: chain.Position{Before: "fw"}, ProceedOn: ptr(chain.ProceedOn(0)),
			Mode: chain.Native, Except: []string{"eth0\xff", "eth1"},
		},
		{Glob: "a*", Position: chain.Position{First: true}, ProceedOn: ptr(chain.Of(chain.Tx, chain.Pass))},
		{Glob: "b*", Position: chain.Position{Last: true}},
		{Glob: "c*", Position: chain.Position{After: "fw"}},
	}})
	if got.GetLifetime() != xdpdv1.Lifetime_LIFETIME_LEASE || got.GetLease() != 3 {
		t.Errorf("lifetime %s, lease %d", got.GetLifetime(), got.GetLease())
	}
	pass := &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_PASS}}
	want := []*xdpdv1.Pattern{
		{Pattern: "eth*", ProceedOn: pass},
		{
			Pattern: "blue\uFFFD:*", Priority: ptr(int32(-1)), Position: &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: "fw"}},
			ProceedOn: &xdpdv1.ProceedOn{}, Mode: xdpdv1.Mode_MODE_NATIVE, Except: []string{"eth0\uFFFD", "eth1"},
		},
		{
			Pattern: "a*", Position: &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}},
			ProceedOn: &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_PASS, xdpdv1.Verdict_VERDICT_TX}},
		},
		{Pattern: "b*", Position: &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}, ProceedOn: pass},
		{Pattern: "c*", Position: &xdpdv1.Position{Place: &xdpdv1.Position_After{After: "fw"}}, ProceedOn: pass},
	}
	if len(got.GetPatterns()) != len(want) {
		t.Fatalf("%d patterns", len(got.GetPatterns()))
	}
	for i, p := range got.GetPatterns() {
		same(t, p, want[i])
		if back, err := decodePosition("position", p.GetPosition()); err != nil || encodePosition(back) == nil != (p.GetPosition() == nil) {
			t.Errorf("the position of %s comes back as %+v, %v", p.GetPattern(), back, err)
		}
	}
}

// lease is one with a value in each field, and the message that tells it.
func lease() (control.LeaseView, *xdpdv1.Lease) {
	view := control.LeaseView{
		ID: 3, Holder: control.Caller{UID: 1000, PID: 42}, Grace: time.Minute, Left: 7 * time.Second, Programs: []string{"a", "b"},
	}
	return view, &xdpdv1.Lease{
		Id: 3, Holder: &xdpdv1.Caller{Uid: 1000, Pid: 42}, Grace: durationpb.New(time.Minute), Left: durationpb.New(7 * time.Second),
		Programs: []string{"a", "b"},
	}
}

func TestLeaseIsToldInFull(t *testing.T) {
	view, want := lease()
	same(t, encodeLease(view), want)
	view.Left, want.Left = -time.Second, durationpb.New(0)
	same(t, encodeLease(view), want)
	view.Held, want.Held, want.Left = true, true, nil
	same(t, encodeLease(view), want)
}
