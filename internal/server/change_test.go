// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
)

// asked fails unless the controller got exactly this request.
func asked(t *testing.T, f *fake, want any) {
	t.Helper()
	if got := f.requests(); !reflect.DeepEqual(got, []any{want}) {
		t.Errorf("the controller got\n%+v\nwant\n%+v", got, want)
	}
}

// options are all that a change can be asked for, but a dry run, which goes without confirm_within.
func options() (*xdpdv1.ChangeOptions, control.Options) {
	message := &xdpdv1.ChangeOptions{
		ExpectedRevisions: map[string]uint64{"eth0": 4, "eth1": 0}, ConfirmWithin: durationpb.New(90 * time.Second), Comment: "for a reason",
	}
	return message, control.Options{
		Expected: map[string]uint64{"eth0": 4, "eth1": 0}, ConfirmWithin: 90 * time.Second, Comment: "for a reason", Caller: self(),
	}
}

func settings() (*xdpdv1.ProgramSettings, chain.Settings) {
	message := &xdpdv1.ProgramSettings{
		Globals: map[string]string{"limit": "5"}, MaxEntries: map[string]uint32{"m": 9}, ShareMapsFrom: "other", MapGroup: "adm",
	}
	return message, chain.Settings{
		Globals: map[string]string{"limit": "5"}, MaxEntries: map[string]uint32{"m": 9}, ShareMapsFrom: "other", MapGroup: "adm",
	}
}

// fullOutcome is a change with a value in each field, and the message that tells it.
func fullOutcome() (control.Outcome, *xdpdv1.Change) {
	out := control.Outcome{
		Changed: true, DryRun: true, Diff: []string{"+ fw", "bad\xff"}, Pending: waiting(), Chains: []control.Chain{{Interface: "eth0"}},
		Maps: []control.MapOrigin{
			{Program: "fw", MapOrigin: dispatcher.MapOrigin{Map: "a", Origin: dispatcher.OriginNew, Reason: "key size"}},
			{Program: "fw", MapOrigin: dispatcher.MapOrigin{Map: "b", Origin: dispatcher.OriginCarried}},
			{Program: "fw", MapOrigin: dispatcher.MapOrigin{Map: "c", Origin: dispatcher.OriginShared}},
		},
		Took: []control.Takeover{
			{Interface: "eth0", Foreign: control.Foreign{ID: 44, Name: "other\xff", Mode: chain.Native}, Swapped: true},
			{Interface: "eth1", Foreign: control.Foreign{ID: 45}},
		},
	}
	return out, &xdpdv1.Change{
		Changed: true, DryRun: true, Diff: []string{"+ fw", "bad\uFFFD"}, Pending: waitingMessage(),
		Maps: []*xdpdv1.MapOrigin{
			{Program: "fw", Map: "a", Origin: xdpdv1.MapOrigin_ORIGIN_NEW, Reason: "key size"},
			{Program: "fw", Map: "b", Origin: xdpdv1.MapOrigin_ORIGIN_CARRIED},
			{Program: "fw", Map: "c", Origin: xdpdv1.MapOrigin_ORIGIN_SHARED},
		},
		Takeovers: []*xdpdv1.Takeover{
			{Interface: "eth0", ProgramId: 44, Name: "other\uFFFD", Mode: xdpdv1.Mode_MODE_NATIVE, Swapped: true},
			{Interface: "eth1", ProgramId: 45},
		},
	}
}

// answered checks what every change answers.
func answered(t *testing.T, err error, chains []*xdpdv1.Chain, change *xdpdv1.Change) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if len(chains) != 1 || chains[0].GetInterface() != "eth0" {
		t.Errorf("chains: %v", chains)
	}
	_, want := fullOutcome()
	same(t, change, want)
}

func TestAddProgram(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	o, wantOptions := options()
	s, wantSettings := settings()
	resp, err := r.api.AddProgram(t.Context(), &xdpdv1.AddProgramRequest{
		Name: "fw", Object: []byte{1, 2}, Function: "main", Interfaces: []string{"eth0", "eth1"}, Priority: ptr(int32(0)),
		Position:  &xdpdv1.Position{Place: &xdpdv1.Position_After{After: "x"}},
		ProceedOn: &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_REDIRECT, xdpdv1.Verdict_VERDICT_ABORTED}},
		Mode:      xdpdv1.Mode_MODE_GENERIC, Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT, Settings: s, Options: o,
	})
	answered(t, err, resp.GetChains(), resp.GetChange())
	if resp.GetProgram().GetName() != "fw" {
		t.Errorf("program: %v", resp.GetProgram())
	}
	asked(t, f, control.AddRequest{
		Name: "fw", Object: control.Object{Data: []byte{1, 2}}, Function: "main", Interfaces: []string{"eth0", "eth1"}, Priority: ptr(int32(0)),
		Position: chain.Position{After: "x"}, ProceedOn: ptr(chain.Of(chain.Aborted, chain.Redirect)),
		Mode: chain.Generic, Lifetime: control.Persistent, Settings: wantSettings, Options: wantOptions,
	})
}

func TestAddProgramLeavesOutWhatIsNotGiven(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	if _, err := r.api.AddProgram(t.Context(), &xdpdv1.AddProgramRequest{ObjectSha256: sum("x"), Interfaces: []string{"eth0"}}); err != nil {
		t.Fatal(err)
	}
	asked(t, f, control.AddRequest{
		Object: control.Object{SHA256: sum("x")}, Interfaces: []string{"eth0"}, Options: control.Options{Caller: self()},
	})
}

func TestEmptyProceedOnIsGiven(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	req := add("eth0")
	req.ProceedOn = &xdpdv1.ProceedOn{}
	if _, err := r.api.AddProgram(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got, ok := f.requests()[0].(control.AddRequest); !ok || got.ProceedOn == nil || *got.ProceedOn != 0 {
		t.Errorf("the controller got %v, want the empty set", got.ProceedOn)
	}
}

func TestReplaceProgram(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	o, wantOptions := options()
	s, wantSettings := settings()
	resp, err := r.api.ReplaceProgram(t.Context(), &xdpdv1.ReplaceProgramRequest{
		Name: "fw", ObjectSha256: sum("x"), Function: "f", Settings: s, FreshMaps: true, Options: o,
	})
	answered(t, err, resp.GetChains(), resp.GetChange())
	if resp.GetProgram().GetName() != "fw" {
		t.Errorf("program: %v", resp.GetProgram())
	}
	asked(t, f, control.ReplaceRequest{
		Name: "fw", Object: control.Object{SHA256: sum("x")}, Function: "f", Settings: &wantSettings, FreshMaps: true, Options: wantOptions,
	})
}

func TestReplaceProgramLeavesOutWhatIsNotGiven(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	if _, err := r.api.ReplaceProgram(t.Context(), &xdpdv1.ReplaceProgramRequest{Name: "fw"}); err != nil {
		t.Fatal(err)
	}
	asked(t, f, control.ReplaceRequest{Name: "fw", Options: control.Options{Caller: self()}})
}

func TestRemoveProgram(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	o, wantOptions := options()
	resp, err := r.api.RemoveProgram(t.Context(), &xdpdv1.RemoveProgramRequest{Name: "fw", Interfaces: []string{"eth0"}, Options: o})
	answered(t, err, resp.GetChains(), resp.GetChange())
	if !resp.GetUnloaded() {
		t.Error("the answer does not say that the program is gone")
	}
	asked(t, f, control.RemoveRequest{Name: "fw", Interfaces: []string{"eth0"}, Options: wantOptions})
}

func TestUpdateMembers(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	resp, err := r.api.UpdateMembers(t.Context(), &xdpdv1.UpdateMembersRequest{
		Updates: []*xdpdv1.MemberUpdate{
			{Program: "a", Interface: "eth0", Position: &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}},
			{Program: "b", Priority: ptr(int32(-1)), Enabled: ptr(false), ProceedOn: &xdpdv1.ProceedOn{}},
			{Program: "c", Position: &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}},
			{Program: "d", Position: &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: "a"}}},
		},
		Options: &xdpdv1.ChangeOptions{DryRun: true},
	})
	answered(t, err, resp.GetChains(), resp.GetChange())
	asked(t, f, control.UpdateRequest{
		Updates: []control.Update{
			{Program: "a", Interface: "eth0", Position: chain.Position{First: true}},
			{Program: "b", Priority: ptr(int32(-1)), Enabled: ptr(false), ProceedOn: ptr(chain.ProceedOn(0))},
			{Program: "c", Position: chain.Position{Last: true}},
			{Program: "d", Position: chain.Position{Before: "a"}},
		},
		Options: control.Options{DryRun: true, Caller: self()},
	})
}

func TestSetChains(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	o, wantOptions := options()
	s, wantSettings := settings()
	resp, err := r.api.SetChains(t.Context(), &xdpdv1.SetChainsRequest{
		Objects: [][]byte{[]byte("one"), []byte("one")},
		Programs: []*xdpdv1.ProgramSpec{
			{Name: "a", ObjectSha256: sum("one"), Function: "f", Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON, Settings: s},
			{Name: "b"},
		},
		Chains: []*xdpdv1.ChainSpec{
			{Interface: "eth0", Mode: xdpdv1.Mode_MODE_NATIVE, FinalVerdict: xdpdv1.Verdict_VERDICT_ABORTED, Members: []*xdpdv1.MemberSpec{
				{Program: "a", Priority: ptr(int32(0)), ProceedOn: &xdpdv1.ProceedOn{}, Enabled: ptr(false)},
				{Program: "b", Enabled: ptr(true)},
				{Program: "c"},
			}},
			{Interface: "eth1"},
		},
		FreshMaps: true, Options: o,
	})
	answered(t, err, resp.GetChains(), resp.GetChange())
	asked(t, f, control.SetRequest{
		Objects: map[string][]byte{sum("one"): []byte("one")},
		Programs: []control.ProgramSpec{
			{Name: "a", SHA256: sum("one"), Function: "f", Lifetime: control.Daemon, Settings: &wantSettings},
			{Name: "b"},
		},
		Chains: []control.ChainSpec{
			{Interface: "eth0", Mode: chain.Native, Final: ptr(chain.Aborted), Members: []control.MemberSpec{
				{Program: "a", Priority: ptr(int32(0)), ProceedOn: ptr(chain.ProceedOn(0)), Disabled: true},
				{Program: "b"},
				{Program: "c"},
			}},
			{Interface: "eth1", Members: []control.MemberSpec{}},
		},
		FreshMaps: true, Options: wantOptions,
	})
}

func TestRollback(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	o, wantOptions := options()
	resp, err := r.api.Rollback(t.Context(), &xdpdv1.RollbackRequest{Interface: "eth0", Revision: 3, Everywhere: true, Options: o})
	answered(t, err, resp.GetChains(), resp.GetChange())
	if resp.GetRevision() != 7 {
		t.Errorf("revision %d, want 7", resp.GetRevision())
	}
	asked(t, f, control.RollbackRequest{Interface: "eth0", Revision: 3, Everywhere: true, Options: wantOptions})
}

func TestConfirm(t *testing.T) {
	f := &fake{pending: *waiting()}
	r := start(t, f)
	resp, err := r.api.Confirm(t.Context(), &xdpdv1.ConfirmRequest{Id: 5})
	if err != nil {
		t.Fatal(err)
	}
	same(t, resp.GetChange(), waitingMessage())
	asked(t, f, decision{"confirm", 5, self()})
	if _, err := r.api.Confirm(t.Context(), &xdpdv1.ConfirmRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a number: %v", err)
	}
}

func TestCancel(t *testing.T) {
	f := &fake{}
	f.out, _ = fullOutcome()
	r := start(t, f)
	resp, err := r.api.Cancel(t.Context(), &xdpdv1.CancelRequest{Id: 5})
	answered(t, err, resp.GetChains(), resp.GetChange())
	asked(t, f, decision{"cancel", 5, self()})
	if _, err := r.api.Cancel(t.Context(), &xdpdv1.CancelRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a number: %v", err)
	}
}

// TestRefusalsArrive has the controller refuse all that it can be asked.
func TestRefusalsArrive(t *testing.T) {
	r := start(t, &fake{err: chain.Errorf(chain.RevisionMismatch, chain.Facts{"actual": "3"}, "it has revision 3")})
	for name, call := range map[string]func(context.Context) error{
		"AddProgram": func(ctx context.Context) error { _, err := r.api.AddProgram(ctx, add("eth0")); return err },
		"ReplaceProgram": func(ctx context.Context) error {
			_, err := r.api.ReplaceProgram(ctx, &xdpdv1.ReplaceProgramRequest{Name: "p"})
			return err
		},
		"RemoveProgram": func(ctx context.Context) error {
			_, err := r.api.RemoveProgram(ctx, &xdpdv1.RemoveProgramRequest{Name: "p"})
			return err
		},
		"UpdateMembers": func(ctx context.Context) error {
			_, err := r.api.UpdateMembers(ctx, &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "p"}}})
			return err
		},
		"SetChains": func(ctx context.Context) error { _, err := r.api.SetChains(ctx, set()); return err },
		"Rollback": func(ctx context.Context) error {
			_, err := r.api.Rollback(ctx, &xdpdv1.RollbackRequest{Interface: "a"})
			return err
		},
		"Confirm": func(ctx context.Context) error {
			_, err := r.api.Confirm(ctx, &xdpdv1.ConfirmRequest{Id: 1})
			return err
		},
		"Cancel": func(ctx context.Context) error { _, err := r.api.Cancel(ctx, &xdpdv1.CancelRequest{Id: 1}); return err },
		"ListHistory": func(ctx context.Context) error {
			_, err := r.api.ListHistory(ctx, &xdpdv1.ListHistoryRequest{Interface: "a"})
			return err
		},
		"TestRun": func(ctx context.Context) error {
			_, err := r.api.TestRun(ctx, &xdpdv1.TestRunRequest{Interface: "a", Packets: [][]byte{make([]byte, minPacket)}})
			return err
		},
	} {
		if st := status.Convert(call(t.Context())); st.Code() != codes.Aborted || outcome(st) != "REVISION_MISMATCH" {
			t.Errorf("%s: %v", name, st)
		}
	}
}
