// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

// sum is the sha256 of an object, as the API writes it.
func sum(object string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(object))) }

func set() *xdpdv1.SetChainsRequest {
	return &xdpdv1.SetChainsRequest{
		Objects:  [][]byte{[]byte("one"), []byte("two")},
		Programs: []*xdpdv1.ProgramSpec{{Name: "a", ObjectSha256: sum("one")}, {Name: "b", ObjectSha256: sum("two")}, {Name: "c"}},
		Chains: []*xdpdv1.ChainSpec{
			{Interface: "eth0", Members: []*xdpdv1.MemberSpec{{Program: "a"}, {Program: "b"}, {Program: "z"}}},
			{Interface: "eth1"},
		},
	}
}

func TestSetChainsIsValidated(t *testing.T) {
	type request = *xdpdv1.SetChainsRequest
	members := func(n int) []*xdpdv1.MemberSpec {
		many := make([]*xdpdv1.MemberSpec, n)
		for i := range many {
			many[i] = &xdpdv1.MemberSpec{Program: fmt.Sprintf("p%d", i)}
		}
		return many
	}
	chains := func(n int) []*xdpdv1.ChainSpec {
		many := make([]*xdpdv1.ChainSpec, n)
		for i := range many {
			many[i] = &xdpdv1.ChainSpec{Interface: fmt.Sprintf("if%d", i)}
		}
		return many
	}
	programs := func(n int) []*xdpdv1.ProgramSpec {
		many := make([]*xdpdv1.ProgramSpec, n)
		for i := range many {
			many[i] = &xdpdv1.ProgramSpec{Name: fmt.Sprintf("p%d", i)}
		}
		return many
	}
	refuses(t, set, decodeSet, []bad[request]{
		{"objects", func(r request) { r.Objects = slices.Repeat(r.Objects[:1], maxObjects+1) }},
		{"objects[1]", func(r request) { r.Objects[1] = nil }},
		{"objects[2]", func(r request) { r.Objects = append(r.Objects, []byte("three")) }},
		{"programs", func(r request) { r.Programs = programs(maxPrograms + 1) }},
		{"programs[1].name", func(r request) { r.Programs[1].Name = "" }},
		{"programs[2].name", func(r request) { r.Programs[2].Name = "a" }},
		{"programs[0].object_sha256", func(r request) { r.Programs[0].ObjectSha256 = "0" }},
		{"programs[0].object_sha256", func(r request) { r.Programs[0].ObjectSha256 = strings.ToUpper(sum("one")) }},
		{"programs[0].function", func(r request) { r.Programs[0].Function = long(maxString + 1) }},
		{"programs[0].lifetime", func(r request) { r.Programs[0].Lifetime = 9 }},
		{`programs[0].settings.max_entries["m"]`, func(r request) {
			r.Programs[0].Settings = &xdpdv1.ProgramSettings{MaxEntries: map[string]uint32{"m": 0}}
		}},
		{"chains", func(r request) { r.Chains = nil }},
		{"chains", func(r request) { r.Chains = chains(maxInterfaces + 1) }},
		{"chains[1].interface", func(r request) { r.Chains[1].Interface = "" }},
		{"chains[1].interface", func(r request) { r.Chains[1].Interface = "eth0" }},
		{"chains[0].mode", func(r request) { r.Chains[0].Mode = -1 }},
		{"chains[0].final_verdict", func(r request) { r.Chains[0].FinalVerdict = 6 }},
		{"chains[0].final_verdict", func(r request) { r.Chains[0].FinalVerdict = -1 }},
		{"chains[0].members", func(r request) { r.Chains[0].Members = members(maxUpdates + 1) }},
		{"chains[0].members[1].program", func(r request) { r.Chains[0].Members[1].Program = "" }},
		{"chains[0].members[2].program", func(r request) { r.Chains[0].Members[2].Program = "a" }},
		{"chains[0].members[2].proceed_on.verdicts[0]", func(r request) {
			r.Chains[0].Members[2].ProceedOn = &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{7}}
		}},
	})
	takes(t, set, decodeSet, map[string]func(request){
		"objects more than once":             func(r request) { r.Objects = slices.Repeat(r.Objects[:1], maxObjects) },
		"no objects and programs":            func(r request) { r.Objects, r.Programs = nil, nil },
		"more members than a chain can have": func(r request) { r.Chains[0].Members = members(maxUpdates) },
		"as many chains as allowed":          func(r request) { r.Chains = chains(maxInterfaces) },
		"as many programs as allowed":        func(r request) { r.Objects, r.Programs = nil, programs(maxPrograms) },
	})
}

func TestObjectsOfSetChainsAreBounded(t *testing.T) {
	large := make([]byte, maxObject+1)
	req := set()
	req.Objects[1] = large
	var refusal *chain.Error
	if _, err := decodeSet(req, self()); !errors.As(err, &refusal) || refusal.Reason != chain.ObjectTooLarge || !strings.HasPrefix(err.Error(), "objects[1]: ") {
		t.Errorf("an object that is too large: %v", err)
	}
	largest := large[:maxObject]
	req.Programs[1].ObjectSha256 = sum(string(largest))
	req.Objects = [][]byte{largest, largest, largest}
	got, err := decodeSet(req, self())
	if err != nil || len(got.Objects) != 1 || !bytes.Equal(got.Objects[sum(string(largest))], largest) {
		t.Errorf("the largest objects: %d, %v", len(got.Objects), err)
	}
	req.Objects = append(req.Objects, []byte("one"))
	if _, err := decodeSet(req, self()); err == nil || field(t, err) != "objects[3]" {
		t.Errorf("one object too many: %v", err)
	}
}

func TestObjectsAreKnownBySHA256(t *testing.T) {
	got, err := decodeSet(set(), control.Caller{})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]byte{sum("one"): []byte("one"), sum("two"): []byte("two")}
	if !maps.EqualFunc(got.Objects, want, bytes.Equal) {
		t.Errorf("objects %q, want %q", got.Objects, want)
	}
}

func TestTestRunIsValidated(t *testing.T) {
	type request = *xdpdv1.TestRunRequest
	packets := func(n, size int) [][]byte { return slices.Repeat([][]byte{make([]byte, size)}, n) }
	fresh := func() request { return &xdpdv1.TestRunRequest{Interface: "eth0", Packets: packets(3, 60)} }
	decode := func(r request, _ control.Caller) (control.TestRequest, error) { return decodeTest(r) }
	refuses(t, fresh, decode, []bad[request]{
		{"interface", func(r request) { r.Interface = "" }},
		{"packets", func(r request) { r.Packets = nil }},
		{"packets", func(r request) { r.Packets = packets(maxPackets+1, 60) }},
		{"packets[1]", func(r request) { r.Packets[1] = make([]byte, minPacket-1) }},
		{"packets[2]", func(r request) { r.Packets[2] = make([]byte, maxPacket+1) }},
		{"packets[256]", func(r request) { r.Packets = append(packets(256, maxPacket), make([]byte, 300)) }},
	})
	takes(t, fresh, decode, map[string]func(request){
		"the smallest packet":        func(r request) { r.Packets = packets(1, minPacket) },
		"as many packets as allowed": func(r request) { r.Packets = packets(maxPackets, 4096) },
		"as many bytes as allowed":   func(r request) { r.Packets = append(packets(256, maxPacket), make([]byte, 256)) },
	})
}

// Whoever wrote them, the same values of globals are the same text; what is no JSON is for the object to refuse.
func TestGlobalsHaveOneSpelling(t *testing.T) {
	given := map[string]string{"a": " 2\n", "b": `[1, "\u003c"]`, "c": "two words"}
	want := map[string]string{"a": "2", "b": `[1,"<"]`, "c": "two words"}
	settings := func() *xdpdv1.ProgramSettings { return &xdpdv1.ProgramSettings{Globals: maps.Clone(given)} }
	for name, decode := range map[string]func() (*chain.Settings, error){
		"AddProgram": func() (*chain.Settings, error) {
			r := add("eth0")
			r.Settings = settings()
			got, err := decodeAdd(r, self())
			return &got.Settings, err
		},
		"ReplaceProgram": func() (*chain.Settings, error) {
			got, err := decodeReplace(&xdpdv1.ReplaceProgramRequest{Name: "a", Settings: settings()}, self())
			return got.Settings, err
		},
		"SetChains": func() (*chain.Settings, error) {
			r := set()
			r.Programs[0].Settings = settings()
			got, err := decodeSet(r, self())
			if err != nil {
				return nil, err
			}
			return got.Programs[0].Settings, nil
		},
	} {
		if got, err := decode(); err != nil || !maps.Equal(got.Globals, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	if _, err := decodeGlobals("settings.globals", map[string]string{"a": `"` + strings.Repeat("\u2028", maxGlobal/3-1) + `"`}); err == nil || field(t, err) != `settings.globals["a"]` {
		t.Errorf("a value that is too long in that spelling: %v", err)
	}
}
