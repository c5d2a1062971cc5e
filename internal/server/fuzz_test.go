// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

// FuzzDecode reads bytes as a request of each kind: what is taken keeps all promises that the controller relies on.
func FuzzDecode(f *testing.F) {
	options := &xdpdv1.ChangeOptions{ExpectedRevisions: map[string]uint64{"eth0": 3}, ConfirmWithin: durationpb.New(time.Minute), Comment: "why"}
	settings := &xdpdv1.ProgramSettings{Globals: map[string]string{"g": "1"}, MaxEntries: map[string]uint32{"m": 1}, ShareMapsFrom: "q", MapGroup: "adm"}
	full := add("eth0")
	full.Options, full.Settings, full.Takeover = options, settings, true
	leased := add("veth[0-9]*", "/run/netns/blue:eth0")
	leased.Lifetime, leased.Lease = xdpdv1.Lifetime_LIFETIME_LEASE, "t"
	chains := set()
	chains.Options, chains.Programs[0].Settings = options, settings
	for _, seed := range []proto.Message{
		full, leased, chains,
		&xdpdv1.ReplaceProgramRequest{Name: "p", ObjectSha256: sum("x"), Settings: settings, Options: options},
		&xdpdv1.RemoveProgramRequest{Name: "p", Interfaces: []string{"eth0"}, Options: options},
		&xdpdv1.UpdateMembersRequest{Options: options, Updates: []*xdpdv1.MemberUpdate{{
			Program: "p", Priority: ptr(int32(1)), ProceedOn: &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{1}},
			Position: &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}},
		}}},
		&xdpdv1.RollbackRequest{Interface: "eth0", Revision: 3, Options: options},
		&xdpdv1.HoldRequest{Token: "t", Grace: durationpb.New(time.Minute), Release: true},
		&xdpdv1.TestRunRequest{Interface: "eth0", Packets: [][]byte{make([]byte, minPacket)}},
	} {
		data, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		try(t, data, &xdpdv1.AddProgramRequest{}, decodeAdd, func(r control.AddRequest) bool {
			return (len(r.Object.Data) > 0) != (r.Object.SHA256 != "") && len(r.Interfaces) > 0 && goodPlaces(r.Interfaces) &&
				(r.Lease != "") == (r.Lifetime == control.Leased) && r.Position.Validate() == nil && goodSet(r.ProceedOn) && goodSettings(&r.Settings) && goodOptions(r.Options)
		})
		try(t, data, &xdpdv1.ReplaceProgramRequest{}, decodeReplace, func(r control.ReplaceRequest) bool {
			return r.Name != "" && (len(r.Object.Data) == 0 || r.Object.SHA256 == "") && goodSettings(r.Settings) && goodOptions(r.Options)
		})
		try(t, data, &xdpdv1.RemoveProgramRequest{}, decodeRemove, func(r control.RemoveRequest) bool {
			return r.Name != "" && goodPlaces(r.Interfaces) && goodOptions(r.Options)
		})
		try(t, data, &xdpdv1.UpdateMembersRequest{}, decodeUpdates, func(r control.UpdateRequest) bool {
			return len(r.Updates) > 0 && goodOptions(r.Options) && !slices.ContainsFunc(r.Updates, func(u control.Update) bool {
				return u.Program == "" || u.Interface != "" && !goodInterface(u.Interface) || u.Position.Validate() != nil || !goodSet(u.ProceedOn)
			})
		})
		try(t, data, &xdpdv1.SetChainsRequest{}, decodeSet, goodChains)
		try(t, data, &xdpdv1.RollbackRequest{}, decodeRollback, func(r control.RollbackRequest) bool {
			return goodInterface(r.Interface) && goodOptions(r.Options)
		})
		try(t, data, &xdpdv1.HoldRequest{}, decodeHold, func(r control.HoldRequest) bool {
			return r.Grace >= 0 && r.Grace <= maxGrace && len(r.Token) <= maxString && r.Caller == self()
		})
		test := func(r *xdpdv1.TestRunRequest, _ control.Caller) (control.TestRequest, error) { return decodeTest(r) }
		try(t, data, &xdpdv1.TestRunRequest{}, test, func(r control.TestRequest) bool {
			return goodInterface(r.Interface) && len(r.Packets) > 0 && !slices.ContainsFunc(r.Packets, func(p []byte) bool { return len(p) < minPacket })
		})
	})
}

func try[Req proto.Message, Out any](t *testing.T, data []byte, req Req, decode func(Req, control.Caller) (Out, error), valid func(Out) bool) {
	t.Helper()
	if proto.Unmarshal(data, req) != nil {
		return
	}
	got, err := decode(req, self())
	if err == nil && !valid(got) {
		t.Errorf("taken: %+v", got)
	}
	if err != nil && toStatus(err).Code().String() != "InvalidArgument" {
		t.Errorf("refused with %v", err)
	}
}

func goodChains(r control.SetRequest) bool {
	var programs, interfaces, sums []string
	for _, p := range r.Programs {
		programs, sums = append(programs, p.Name), append(sums, p.SHA256)
		if p.Name == "" || !goodSettings(p.Settings) {
			return false
		}
	}
	for name, object := range r.Objects {
		if name != sum(string(object)) || !slices.Contains(sums, name) {
			return false
		}
	}
	for _, c := range r.Chains {
		interfaces = append(interfaces, c.Interface)
		var members []string
		for _, m := range c.Members {
			members = append(members, m.Program)
			if m.Program == "" || !goodSet(m.ProceedOn) {
				return false
			}
		}
		if !goodInterface(c.Interface) || c.Final != nil && *c.Final > chain.Redirect || !distinct(members) {
			return false
		}
	}
	return len(interfaces) > 0 && distinct(interfaces) && distinct(programs) && goodOptions(r.Options)
}

func distinct(names []string) bool {
	sorted := slices.Sorted(slices.Values(names))
	return len(slices.Compact(sorted)) == len(names)
}

// goodPlaces tells whether each is an interface or a pattern in its one spelling, and none is there twice.
func goodPlaces(refs []string) bool {
	return distinct(refs) && !slices.ContainsFunc(refs, func(ref string) bool {
		_, _, err := chain.ParseInterface(ref)
		return err != nil || chain.CanonicalInterface(ref) != ref
	})
}

func goodInterface(ref string) bool { return goodPlaces([]string{ref}) && !chain.IsPattern(ref) }

func goodSet(p *chain.ProceedOn) bool { return p == nil || p.Valid() }

func goodSettings(s *chain.Settings) bool {
	if s == nil {
		return true
	}
	for _, n := range s.MaxEntries {
		if n == 0 {
			return false
		}
	}
	_, unnamed := s.Globals[""]
	return !unnamed
}

func goodOptions(o control.Options) bool {
	for iface := range o.Expected {
		if !goodInterface(iface) {
			return false
		}
	}
	confirm := o.ConfirmWithin == 0 || !o.DryRun && o.ConfirmWithin >= minConfirm && o.ConfirmWithin <= maxConfirm
	return confirm && len(o.Comment) <= maxString && utf8.ValidString(o.Comment) && o.Caller == self()
}
