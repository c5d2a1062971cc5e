// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("if%d", i)
	}
	return all
}

// field returns the field that a refusal names.
func field(t *testing.T, err error) string {
	t.Helper()
	var refusal *chain.Error
	if !errors.As(err, &refusal) || refusal.Reason != chain.InvalidArgument {
		t.Fatalf("%v, want %s", err, chain.InvalidArgument)
	}
	if f := refusal.Facts["field"]; !strings.HasPrefix(refusal.Error(), f+": ") {
		t.Errorf("the text %q does not begin with the field %s", refusal.Error(), f)
	}
	return refusal.Facts["field"]
}

func TestAddProgramIsValidated(t *testing.T) {
	for want, change := range map[string]func(*xdpdv1.AddProgramRequest){
		"object":                 func(r *xdpdv1.AddProgramRequest) { r.Object = nil },
		"name":                   func(r *xdpdv1.AddProgramRequest) { r.Name = strings.Repeat("x", maxString+1) },
		"function":               func(r *xdpdv1.AddProgramRequest) { r.Function = strings.Repeat("x", maxString+1) },
		"interfaces":             func(r *xdpdv1.AddProgramRequest) { r.Interfaces = nil },
		"interfaces[1]":          func(r *xdpdv1.AddProgramRequest) { r.Interfaces = []string{"a", ""} },
		"interfaces[2]":          func(r *xdpdv1.AddProgramRequest) { r.Interfaces = []string{"a", "b", "a"} },
		"interfaces[0]":          func(r *xdpdv1.AddProgramRequest) { r.Interfaces = []string{strings.Repeat("x", 16)} },
		"mode":                   func(r *xdpdv1.AddProgramRequest) { r.Mode = 99 },
		"lifetime":               func(r *xdpdv1.AddProgramRequest) { r.Lifetime = -1 },
		"proceed_on.verdicts[1]": func(r *xdpdv1.AddProgramRequest) { r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{3, 6}} },
		"proceed_on.verdicts[0]": func(r *xdpdv1.AddProgramRequest) { r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{0}} },
		"proceed_on.verdicts": func(r *xdpdv1.AddProgramRequest) {
			r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: make([]xdpdv1.Verdict, maxVerdicts+1)}
		},
		"position":        func(r *xdpdv1.AddProgramRequest) { r.Position = &xdpdv1.Position{} },
		"position.first":  func(r *xdpdv1.AddProgramRequest) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_First{}} },
		"position.last":   func(r *xdpdv1.AddProgramRequest) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_Last{}} },
		"position.before": func(r *xdpdv1.AddProgramRequest) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_Before{}} },
		"position.after":  func(r *xdpdv1.AddProgramRequest) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_After{}} },
	} {
		req := add("eth0")
		if _, err := decodeAdd(req, 0); err != nil {
			t.Fatal(err)
		}
		change(req)
		if _, err := decodeAdd(req, 0); err == nil {
			t.Errorf("%s is taken: %v", want, req)
		} else if got := field(t, err); got != want {
			t.Errorf("the refusal names %s, want %s: %v", got, want, err)
		}
	}
	if _, err := decodeAdd(add(names(maxInterfaces)...), 0); err != nil {
		t.Errorf("as many interfaces as allowed: %v", err)
	}
	if _, err := decodeAdd(add(names(maxInterfaces+1)...), 0); err == nil || field(t, err) != "interfaces" {
		t.Errorf("one interface too many: %v", err)
	}
}

func TestRemoveAndUpdateAreValidated(t *testing.T) {
	remove := func(r *xdpdv1.RemoveProgramRequest) error { _, _, err := decodeRemove(r); return err }
	update := func(u ...*xdpdv1.MemberUpdate) error {
		_, err := decodeUpdates(&xdpdv1.UpdateMembersRequest{Updates: u})
		return err
	}
	many := make([]*xdpdv1.MemberUpdate, maxUpdates)
	for i := range many {
		many[i] = &xdpdv1.MemberUpdate{Program: "p"}
	}
	if err := update(many...); err != nil {
		t.Errorf("as many updates as allowed: %v", err)
	}
	for _, tc := range []struct {
		want string
		err  error
	}{
		{"name", remove(&xdpdv1.RemoveProgramRequest{})},
		{"interfaces[0]", remove(&xdpdv1.RemoveProgramRequest{Name: "x", Interfaces: []string{""}})},
		{"updates", update()},
		{"updates", update(append(many, many[0])...)},
		{"updates[1].program", update(many[0], &xdpdv1.MemberUpdate{})},
		{"updates[0].interface", update(&xdpdv1.MemberUpdate{Program: "p", Interface: strings.Repeat("x", 16)})},
		{"updates[0].position", update(&xdpdv1.MemberUpdate{Program: "p", Position: &xdpdv1.Position{}})},
		{"updates[0].proceed_on.verdicts[0]", update(&xdpdv1.MemberUpdate{Program: "p", ProceedOn: &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{-1}}})},
	} {
		if got := field(t, tc.err); got != tc.want {
			t.Errorf("the refusal names %s, want %s: %v", got, tc.want, tc.err)
		}
	}
}

func TestNewerClientsAreNotMisunderstood(t *testing.T) {
	unknown := []byte{0xf8, 0x07, 0x01} // field 127 = 1
	top := add("eth0")
	top.ProtoReflect().SetUnknown(unknown)
	deep := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "a"}, {Program: "b", Position: &xdpdv1.Position{}}}}
	deep.Updates[1].Position.ProtoReflect().SetUnknown(unknown)
	if err := known(top.ProtoReflect(), ""); err == nil || field(t, err) != "request" {
		t.Errorf("at the top: %v", err)
	}
	if err := known(deep.ProtoReflect(), ""); err == nil || field(t, err) != "updates[1].position" {
		t.Errorf("below: %v", err)
	}
	f := &fake{}
	r := start(t, f)
	if _, err := r.api.AddProgram(t.Context(), top); status.Code(err) != codes.InvalidArgument || len(f.added) != 0 {
		t.Errorf("over the wire: %v, the controller got %v", err, f.added)
	}
}

func TestObjectTooLarge(t *testing.T) {
	f := &fake{}
	r := start(t, f)
	for _, tc := range []struct {
		size   int
		code   codes.Code
		reason string
	}{
		{maxObject, codes.OK, ""},
		{maxObject + 1, codes.InvalidArgument, "OBJECT_TOO_LARGE"},
		{maxMessage - 100, codes.InvalidArgument, "OBJECT_TOO_LARGE"},
		{maxMessage, codes.ResourceExhausted, ""}, // grpc's own
	} {
		req := add("eth0")
		req.Object = bytes.Repeat([]byte{1}, tc.size)
		_, err := r.api.AddProgram(t.Context(), req)
		st := status.Convert(err)
		var reason string
		for _, d := range st.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok {
				reason = info.GetReason()
			}
		}
		if st.Code() != tc.code || reason != tc.reason {
			t.Errorf("%d bytes: %s %q, want %s %q", tc.size, st.Code(), reason, tc.code, tc.reason)
		}
	}
	if len(f.added) != 1 {
		t.Errorf("the controller got %d requests, want 1", len(f.added))
	}
}

func FuzzDecode(f *testing.F) {
	seed, err := proto.Marshal(add("eth0"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var a xdpdv1.AddProgramRequest
		if proto.Unmarshal(data, &a) == nil {
			if got, err := decodeAdd(&a, 0); err == nil && (len(got.Interfaces) == 0 || got.Position.Validate() != nil || got.ProceedOn != nil && !got.ProceedOn.Valid()) {
				t.Errorf("taken: %+v", got)
			}
		}
		var u xdpdv1.UpdateMembersRequest
		if proto.Unmarshal(data, &u) == nil {
			if got, err := decodeUpdates(&u); err == nil && len(got) == 0 {
				t.Errorf("taken: %+v", got)
			}
		}
	})
}
