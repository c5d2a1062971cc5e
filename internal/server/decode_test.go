// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
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

// bad is a change that makes a good request one that is refused for that field.
type bad[Req any] struct {
	field  string
	change func(Req)
}

// refuses checks that a decoder takes the request that fresh makes, and refuses it with each of the changes.
func refuses[Req proto.Message, Out any](t *testing.T, fresh func() Req, decode func(Req, control.Caller) (Out, error), cases []bad[Req]) {
	t.Helper()
	if _, err := decode(fresh(), self()); err != nil {
		t.Fatalf("%v: %v", fresh(), err)
	}
	for _, tc := range cases {
		req := fresh()
		tc.change(req)
		if _, err := decode(req, self()); err == nil {
			t.Errorf("%s is taken", tc.field)
		} else if got := field(t, err); got != tc.field {
			t.Errorf("the refusal names %s, want %s: %v", got, tc.field, err)
		}
	}
}

// takes checks that a decoder takes the request that fresh makes with each of the changes.
func takes[Req proto.Message, Out any](t *testing.T, fresh func() Req, decode func(Req, control.Caller) (Out, error), changes map[string]func(Req)) {
	t.Helper()
	for name, change := range changes {
		req := fresh()
		change(req)
		if _, err := decode(req, self()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func long(n int) string { return strings.Repeat("x", n) }

func TestAddProgramIsValidated(t *testing.T) {
	fresh := func() *xdpdv1.AddProgramRequest { return add("eth0") }
	type request = *xdpdv1.AddProgramRequest
	refuses(t, fresh, decodeAdd, []bad[request]{
		{"object", func(r request) { r.Object = nil }},
		{"object_sha256", func(r request) { r.ObjectSha256 = sum("x") }},
		{"object_sha256", func(r request) { r.Object, r.ObjectSha256 = nil, sum("x")[1:] }},
		{"object_sha256", func(r request) { r.Object, r.ObjectSha256 = nil, strings.ToUpper(sum("x")) }},
		{"object_sha256", func(r request) { r.Object, r.ObjectSha256 = nil, "g"+sum("x")[1:] }},
		{"name", func(r request) { r.Name = long(maxString + 1) }},
		{"function", func(r request) { r.Function = long(maxString + 1) }},
		{"interfaces", func(r request) { r.Interfaces = nil }},
		{"interfaces", func(r request) { r.Interfaces = names(maxInterfaces + 1) }},
		{"interfaces[1]", func(r request) { r.Interfaces = []string{"a", ""} }},
		{"interfaces[2]", func(r request) { r.Interfaces = []string{"a", "b", "a"} }},
		{"interfaces[0]", func(r request) { r.Interfaces = []string{long(16)} }},
		{"mode", func(r request) { r.Mode = 99 }},
		{"lifetime", func(r request) { r.Lifetime = -1 }},
		{"proceed_on.verdicts[1]", func(r request) { r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{3, 6}} }},
		{"proceed_on.verdicts[0]", func(r request) { r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{0}} }},
		{"proceed_on.verdicts", func(r request) {
			r.ProceedOn = &xdpdv1.ProceedOn{Verdicts: make([]xdpdv1.Verdict, maxVerdicts+1)}
		}},
		{"position", func(r request) { r.Position = &xdpdv1.Position{} }},
		{"position.first", func(r request) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_First{}} }},
		{"position.last", func(r request) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_Last{}} }},
		{"position.before", func(r request) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_Before{}} }},
		{"position.after", func(r request) { r.Position = &xdpdv1.Position{Place: &xdpdv1.Position_After{}} }},
	})
	takes(t, fresh, decodeAdd, map[string]func(request){
		"as many interfaces as allowed": func(r request) { r.Interfaces = names(maxInterfaces) },
		"a sha256":                      func(r request) { r.Object, r.ObjectSha256 = nil, sum("x") },
		"the longest names":             func(r request) { r.Name, r.Function = long(maxString), long(maxString) },
	})
}

// TestSettingsAreValidated does it in AddProgram; the others use the same decoder.
func TestSettingsAreValidated(t *testing.T) {
	type settings = *xdpdv1.ProgramSettings
	many := func(n int) (globals map[string]string, entries map[string]uint32) {
		globals, entries = map[string]string{}, map[string]uint32{}
		for i := range n {
			globals[fmt.Sprint(i)], entries[fmt.Sprint(i)] = "1", 1
		}
		return globals, entries
	}
	fresh := func() settings { return &xdpdv1.ProgramSettings{} }
	decode := func(s settings, by control.Caller) (control.AddRequest, error) {
		req := add("eth0")
		req.Settings = s
		return decodeAdd(req, by)
	}
	refuses(t, fresh, decode, []bad[settings]{
		{"settings.globals", func(s settings) { s.Globals, _ = many(maxSettings + 1) }},
		{`settings.globals[""]`, func(s settings) { s.Globals = map[string]string{"": "1", "a": "1"} }},
		{`settings.globals["` + long(maxString) + `"]`, func(s settings) { s.Globals = map[string]string{long(maxString + 1): "1"} }},
		{`settings.globals["b\x01"]`, func(s settings) { s.Globals = map[string]string{"a": "", "b\x01": long(maxGlobal + 1)} }},
		{"settings.globals", func(s settings) {
			s.Globals = map[string]string{"b": "1"}
			for i := range maxGlobals / maxGlobal {
				s.Globals[fmt.Sprint(i)] = long(maxGlobal)
			}
		}},
		{"settings.max_entries", func(s settings) { _, s.MaxEntries = many(maxSettings + 1) }},
		{`settings.max_entries[""]`, func(s settings) { s.MaxEntries = map[string]uint32{"": 1} }},
		{`settings.max_entries["m"]`, func(s settings) { s.MaxEntries = map[string]uint32{"m": 0, "l": 1} }},
		{"settings.share_maps_from", func(s settings) { s.ShareMapsFrom = long(maxString + 1) }},
		{"settings.map_group", func(s settings) { s.MapGroup = long(maxString + 1) }},
	})
	takes(t, fresh, decode, map[string]func(settings){
		"as many as allowed": func(s settings) { s.Globals, s.MaxEntries = many(maxSettings) },
		"the longest": func(s settings) {
			s.Globals = map[string]string{long(maxString): long(maxGlobal)}
			s.ShareMapsFrom, s.MapGroup = long(maxString), long(maxString)
		},
	})
}

// TestOptionsAreValidated does it in AddProgram; TestOptionsOfAll shows that the others use the same decoder.
func TestOptionsAreValidated(t *testing.T) {
	type options = *xdpdv1.ChangeOptions
	fresh := func() options { return &xdpdv1.ChangeOptions{} }
	decode := func(o options, by control.Caller) (control.AddRequest, error) {
		req := add("eth0")
		req.Options = o
		return decodeAdd(req, by)
	}
	expected := func(names ...string) map[string]uint64 {
		m := map[string]uint64{}
		for _, name := range names {
			m[name] = 0
		}
		return m
	}
	within := func(d time.Duration) func(options) { return func(o options) { o.ConfirmWithin = durationpb.New(d) } }
	refuses(t, fresh, decode, []bad[options]{
		{"options.expected_revisions", func(o options) { o.ExpectedRevisions = expected(names(maxInterfaces + 1)...) }},
		{`options.expected_revisions[""]`, func(o options) { o.ExpectedRevisions = expected("eth0", "") }},
		{`options.expected_revisions["` + long(16) + `"]`, func(o options) { o.ExpectedRevisions = expected("eth0", long(16)) }},
		{"options.confirm_within", within(0)},
		{"options.confirm_within", within(-time.Minute)},
		{"options.confirm_within", within(time.Second - 1)},
		{"options.confirm_within", within(24*time.Hour + 1)},
		{"options.confirm_within", func(o options) { o.ConfirmWithin = &durationpb.Duration{Seconds: 60, Nanos: -1} }},
		{"options.confirm_within", func(o options) { o.ConfirmWithin = &durationpb.Duration{Seconds: math.MaxInt64} }},
		{"options.confirm_within", func(o options) { o.ConfirmWithin, o.DryRun = durationpb.New(time.Minute), true }},
		{"options.comment", func(o options) { o.Comment = long(maxString + 1) }},
		{"options.comment", func(o options) { o.Comment = "a\xff" }},
		{"options.comment", func(o options) { o.Comment = "two\nlines" }},
		{"options.comment", func(o options) { o.Comment = "a\u009bb" }},
	})
	takes(t, fresh, decode, map[string]func(options){
		"as many revisions as allowed": func(o options) { o.ExpectedRevisions = expected(names(maxInterfaces)...) },
		"the shortest time":            within(time.Second),
		"the longest time":             within(24 * time.Hour),
		"a dry run":                    func(o options) { o.DryRun = true },
		"the longest comment":          func(o options) { o.Comment = strings.Repeat("ä", maxString/2) },
	})
}

func TestOptionsOfAll(t *testing.T) {
	options := &xdpdv1.ChangeOptions{Comment: "\x00"}
	for name, decode := range map[string]func() error{
		"replace": func() error {
			_, err := decodeReplace(&xdpdv1.ReplaceProgramRequest{Name: "p", Options: options}, self())
			return err
		},
		"remove": func() error {
			_, err := decodeRemove(&xdpdv1.RemoveProgramRequest{Name: "p", Options: options}, self())
			return err
		},
		"update": func() error {
			_, err := decodeUpdates(&xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "p"}}, Options: options}, self())
			return err
		},
		"set": func() error {
			_, err := decodeSet(&xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{{Interface: "a"}}, Options: options}, self())
			return err
		},
		"rollback": func() error {
			_, err := decodeRollback(&xdpdv1.RollbackRequest{Interface: "a", Options: options}, self())
			return err
		},
	} {
		if got := field(t, decode()); got != "options.comment" {
			t.Errorf("%s: the refusal names %s", name, got)
		}
	}
}

func TestReplaceIsValidated(t *testing.T) {
	fresh := func() *xdpdv1.ReplaceProgramRequest { return &xdpdv1.ReplaceProgramRequest{Name: "p"} }
	type request = *xdpdv1.ReplaceProgramRequest
	refuses(t, fresh, decodeReplace, []bad[request]{
		{"name", func(r request) { r.Name = "" }},
		{"object_sha256", func(r request) { r.Object, r.ObjectSha256 = []byte{1}, sum("x") }},
		{"object_sha256", func(r request) { r.ObjectSha256 = "abc" }},
		{"function", func(r request) { r.Function = long(maxString + 1) }},
		{"settings.map_group", func(r request) { r.Settings = &xdpdv1.ProgramSettings{MapGroup: long(maxString + 1)} }},
	})
	takes(t, fresh, decodeReplace, map[string]func(request){
		"an object": func(r request) { r.Object = []byte{1} },
		"a sha256":  func(r request) { r.ObjectSha256 = sum("x") },
	})
	large := fresh()
	large.Object = make([]byte, maxObject+1)
	if _, err := decodeReplace(large, self()); !errors.Is(err, &chain.Error{Reason: chain.ObjectTooLarge}) {
		t.Errorf("an object that is too large: %v", err)
	}
}

func TestRemoveIsValidated(t *testing.T) {
	fresh := func() *xdpdv1.RemoveProgramRequest { return &xdpdv1.RemoveProgramRequest{Name: "p"} }
	type request = *xdpdv1.RemoveProgramRequest
	refuses(t, fresh, decodeRemove, []bad[request]{
		{"name", func(r request) { r.Name = "" }},
		{"interfaces[0]", func(r request) { r.Interfaces = []string{""} }},
	})
}

func TestRollbackIsValidated(t *testing.T) {
	fresh := func() *xdpdv1.RollbackRequest { return &xdpdv1.RollbackRequest{Interface: "eth0"} }
	type request = *xdpdv1.RollbackRequest
	refuses(t, fresh, decodeRollback, []bad[request]{
		{"interface", func(r request) { r.Interface = "" }},
		{"interface", func(r request) { r.Interface = long(16) }},
	})
}

func TestUpdatesAreValidated(t *testing.T) {
	updates := func(n int) []*xdpdv1.MemberUpdate {
		many := make([]*xdpdv1.MemberUpdate, n)
		for i := range many {
			many[i] = &xdpdv1.MemberUpdate{Program: "p"}
		}
		return many
	}
	fresh := func() *xdpdv1.UpdateMembersRequest { return &xdpdv1.UpdateMembersRequest{Updates: updates(2)} }
	type request = *xdpdv1.UpdateMembersRequest
	refuses(t, fresh, decodeUpdates, []bad[request]{
		{"updates", func(r request) { r.Updates = nil }},
		{"updates", func(r request) { r.Updates = updates(maxUpdates + 1) }},
		{"updates[1].program", func(r request) { r.Updates[1].Program = "" }},
		{"updates[0].interface", func(r request) { r.Updates[0].Interface = long(16) }},
		{"updates[0].position", func(r request) { r.Updates[0].Position = &xdpdv1.Position{} }},
		{"updates[0].proceed_on.verdicts[0]", func(r request) {
			r.Updates[0].ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{-1}}
		}},
	})
	takes(t, fresh, decodeUpdates, map[string]func(request){
		"as many as allowed": func(r request) { r.Updates = updates(maxUpdates) },
	})
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
	settings := add("eth0")
	settings.Settings = &xdpdv1.ProgramSettings{Globals: map[string]string{"a": "1"}, MaxEntries: map[string]uint32{"m": 1}}
	if err := known(settings.ProtoReflect(), ""); err != nil {
		t.Errorf("maps: %v", err)
	}
	settings.Settings.ProtoReflect().SetUnknown(unknown)
	if err := known(settings.ProtoReflect(), ""); err == nil || field(t, err) != "settings" {
		t.Errorf("beside maps: %v", err)
	}
	f := &fake{}
	r := start(t, f)
	if _, err := r.api.AddProgram(t.Context(), top); status.Code(err) != codes.InvalidArgument || len(f.requests()) != 0 {
		t.Errorf("over the wire: %v, the controller got %v", err, f.requests())
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
		{maxMessage - 100, codes.InvalidArgument, "OBJECT_TOO_LARGE"}, // the rest of the request is less than that
		{maxMessage, codes.InvalidArgument, "OBJECT_TOO_LARGE"},       // it is refused before it is read
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
	if len(f.requests()) != 1 {
		t.Errorf("the controller got %d requests, want 1", len(f.requests()))
	}
}
