// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

func sumOf(data string) string {
	sum := sha256.Sum256([]byte(data))
	return hex.EncodeToString(sum[:])
}

func expecting(revisions map[string]uint64) *xdpdv1.ChangeOptions {
	return &xdpdv1.ChangeOptions{ExpectedRevisions: revisions}
}

func TestChangeRequests(t *testing.T) {
	objects(t)
	object, eth := []byte("ELF of blocklist.o"), []string{"eth0"}
	sum := strings.Repeat("0aB9", 16)
	lower := strings.ToLower(sum)
	type (
		add      = xdpdv1.AddProgramRequest
		replace  = xdpdv1.ReplaceProgramRequest
		options  = xdpdv1.ChangeOptions
		settings = xdpdv1.ProgramSettings
		rollback = xdpdv1.RollbackRequest
		remove   = xdpdv1.RemoveProgramRequest
	)
	globals := func(pairs ...string) *settings {
		s := &settings{Globals: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			s.Globals[pairs[i]] = pairs[i+1]
		}
		return s
	}
	for _, c := range []struct {
		line string
		want proto.Message
	}{
		{"rm p --expect eth0=4", &remove{Name: "p", Options: expecting(map[string]uint64{"eth0": 4})}},
		{"rm p --expect eth0=4,a=b=0 --expect eth0=4", &remove{Name: "p", Options: expecting(map[string]uint64{"eth0": 4, "a=b": 0})}},
		{"rm p --dry-run --comment why", &remove{Name: "p", Options: &options{DryRun: true, Comment: "why"}}},
		{"rm p --confirm-within 90s --no-wait", &remove{Name: "p", Options: &options{ConfirmWithin: durationpb.New(90 * time.Second)}}},
		{"rm p --confirm-within 24h --dry-run", &remove{Name: "p", Options: &options{DryRun: true, ConfirmWithin: durationpb.New(24 * time.Hour)}}},
		{"set p --first --dry-run", &xdpdv1.UpdateMembersRequest{
			Updates: []*xdpdv1.MemberUpdate{{Program: "p", Position: first()}}, Options: &options{DryRun: true},
		}},
		{"add --object-sha256 " + sum + " --interface eth0 --dry-run", &add{ObjectSha256: lower, Interfaces: eth, Options: &options{DryRun: true}}},
		{"add --object-sha256 sha256:" + sum + " --interface eth0", &add{ObjectSha256: lower, Interfaces: eth}},
		{"add blocklist.o --interface eth0 --set a=1 --set b=x --set c=\"q\" --set d=[1,2] --set e=0x10 --set f= --set g=a=b", &add{
			Object: object, Interfaces: eth,
			Settings: globals("a", "1", "b", `"x"`, "c", `"q"`, "d", "[1,2]", "e", `"0x10"`, "f", `""`, "g", `"a=b"`),
		}},
		{"add blocklist.o --interface eth0 --set a=18446744073709551615 --set b=true --set c=<&> --set d=01", &add{
			Object: object, Interfaces: eth, Settings: globals("a", "18446744073709551615", "b", "true", "c", `"<&>"`, "d", `"01"`),
		}},
		{"add blocklist.o --interface eth0 --max-entries a=4096 --max-entries .rodata=0x10 --share-maps-from q --map-group monitor", &add{
			Object: object, Interfaces: eth, Settings: &settings{
				MaxEntries: map[string]uint32{"a": 4096, ".rodata": 16}, ShareMapsFrom: "q", MapGroup: "monitor",
			},
		}},
		{"replace p blocklist.o", &replace{Name: "p", Object: object}},
		{"replace p - --function f --fresh-maps", &replace{Name: "p", Object: []byte("from stdin"), Function: "f", FreshMaps: true}},
		{"replace p --object-sha256 " + lower, &replace{Name: "p", ObjectSha256: lower}},
		{"replace p --set a=1 --expect eth0=1", &replace{
			Name: "p", Settings: globals("a", "1"), Options: expecting(map[string]uint64{"eth0": 1}),
		}},
		{"replace p --fresh-maps", &replace{Name: "p", FreshMaps: true}},
		{"rollback eth0", &rollback{Interface: "eth0"}},
		{"rollback eth0 --to 3 --everywhere --dry-run", &rollback{Interface: "eth0", Revision: 3, Everywhere: true, Options: &options{DryRun: true}}},
		{"confirm 7", &xdpdv1.ConfirmRequest{Id: 7}},
		{"cancel 18446744073709551615", &xdpdv1.CancelRequest{Id: 1<<64 - 1}},
		{"history eth0", &xdpdv1.ListHistoryRequest{Interface: "eth0"}},
		{"maps p", &xdpdv1.GetProgramRequest{Name: "p"}},
	} {
		t.Run(c.line, func(t *testing.T) {
			f := startFake(t, map[string]any{
				"AddProgram": &xdpdv1.AddProgramResponse{}, "RemoveProgram": &xdpdv1.RemoveProgramResponse{},
				"UpdateMembers": &xdpdv1.UpdateMembersResponse{}, "ReplaceProgram": &xdpdv1.ReplaceProgramResponse{},
				"Rollback": &xdpdv1.RollbackResponse{}, "Confirm": &xdpdv1.ConfirmResponse{}, "Cancel": &xdpdv1.CancelResponse{},
				"ListHistory": &xdpdv1.ListHistoryResponse{}, "GetProgram": &xdpdv1.GetProgramResponse{},
			})
			r := xdpctl(t, f.socket, c.line, "from stdin")
			if r.status != exitDone || r.err != "" {
				t.Errorf("exit status %d: %s", r.status, r.err)
			}
			if got := f.asked(); len(got) != 1 || !proto.Equal(got[0], c.want) {
				t.Errorf("asked %v\nwant  %v", got, prototext.Format(c.want))
			}
		})
	}
}

// The only change that waits is the one that is meant.
func TestOnlyPending(t *testing.T) {
	chains := &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{pending(eth0(), 7), pending(wlan0(), 7), usb0()}}
	f := startFake(t, map[string]any{"ListChains": chains, "Cancel": &xdpdv1.CancelResponse{}, "Confirm": &xdpdv1.ConfirmResponse{}})
	for line, want := range map[string]proto.Message{"cancel": &xdpdv1.CancelRequest{Id: 7}, "confirm": &xdpdv1.ConfirmRequest{Id: 7}} {
		r := xdpctl(t, f.socket, line, "")
		if got := f.asked(); r.status != 0 || len(got) != 2 || !proto.Equal(got[1], want) {
			t.Errorf("%s: exit status %d %s, asked %v", line, r.status, r.err, got)
		}
	}
}

func TestApplyRequests(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{
		"a.o": "one", "b.o": "two", "dir/a.o": "three", "copy.o": "one",
		"dir/chains.yaml": `
programs:
  a: {object: a.o, globals: {x: 1}}
  b: {object: ../b.o}
  c: {object: ./../dir/a.o, function: f}
  d: {object: ABS/copy.o}
  e: {object: ../a.o}
  f: {object: sha256:` + strings.Repeat("0A", 32) + `}
  g: {lifetime: daemon}
chains: {eth0: {members: [a, b]}}`,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		here, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.ReplaceAll(text, "ABS", here)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	members := []*xdpdv1.ChainSpec{{Interface: "eth0", Members: []*xdpdv1.MemberSpec{{Program: "a"}, {Program: "b"}}}}
	want := &xdpdv1.SetChainsRequest{
		Objects: [][]byte{[]byte("three"), []byte("two"), []byte("one")},
		Programs: []*xdpdv1.ProgramSpec{
			{Name: "a", ObjectSha256: sumOf("three"), Settings: &xdpdv1.ProgramSettings{Globals: map[string]string{"x": "1"}}},
			{Name: "b", ObjectSha256: sumOf("two")},
			{Name: "c", ObjectSha256: sumOf("three"), Function: "f"},
			{Name: "d", ObjectSha256: sumOf("one")},
			{Name: "e", ObjectSha256: sumOf("one")},
			{Name: "f", ObjectSha256: strings.Repeat("0a", 32)},
			{Name: "g", Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON},
		},
		Chains: members, FreshMaps: true, Options: &xdpdv1.ChangeOptions{Comment: "c"},
	}
	f := startFake(t, map[string]any{"SetChains": &xdpdv1.SetChainsResponse{}})
	r := xdpctl(t, f.socket, "apply -f dir/chains.yaml --fresh-maps --comment c", "")
	if got := f.asked(); r.status != 0 || len(got) != 1 || !proto.Equal(got[0], want) {
		t.Errorf("exit status %d %s, asked %v", r.status, r.err, got)
	}
	// What comes from standard input has paths relative to the current folder.
	r = xdpctl(t, f.socket, "apply -f -", "programs: {a: {object: a.o}}\nchains: {eth0: {members: [a, b]}}")
	want = &xdpdv1.SetChainsRequest{
		Objects: [][]byte{[]byte("one")}, Programs: []*xdpdv1.ProgramSpec{{Name: "a", ObjectSha256: sumOf("one")}}, Chains: members,
	}
	if got := f.asked(); r.status != 0 || len(got) != 1 || !proto.Equal(got[0], want) {
		t.Errorf("exit status %d %s, asked %v", r.status, r.err, got)
	}
}

func TestApplyErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	const chains = "chains: {eth0: {members: [p]}}\nprograms:\n"
	large, whole := bytes.Repeat([]byte("x"), maxObject+1), bytes.Repeat([]byte("x"), maxObject)
	programs := chains
	for i := range 4 {
		whole[0] = byte(i)
		if err := os.WriteFile(fmt.Sprint(i), whole, 0o600); err != nil {
			t.Fatal(err)
		}
		programs += fmt.Sprintf("  p%d: {object: \"%d\"}\n", i, i)
	}
	for name, text := range map[string]string{
		"large": string(large), "a.yaml": chains + "  p: {object: large}", "b.yaml": chains + "  p:\n    object: absent.o",
		"c.yaml": programs, "d.yaml": chains + "  p: {object: -}", "long.yaml": strings.Repeat("#", maxChainFile+1), "e.yaml": "",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := startFake(t, map[string]any{"SetChains": &xdpdv1.SetChainsResponse{}})
	for file, says := range map[string]string{
		"absent.yaml": "read the chains: open absent.yaml: no such file",
		"a.yaml":      "a.yaml:3:15: read the object: large is larger than 16777216 bytes",
		"b.yaml":      "b.yaml:4:13: read the object: open absent.o: no such file",
		"c.yaml":      "c.yaml:6:16: with this object all of them are larger than 48 MiB",
		"d.yaml":      "d.yaml:3:15: read the object: open ./-: no such file",
		"e.yaml":      "e.yaml:1:1: there is nothing in it",
		"long.yaml":   "long.yaml is larger than 4194304 bytes",
		"-":           "standard input:1:1: there is nothing in it",
	} {
		r := xdpctl(t, f.socket, "apply -f "+file, "")
		if r.status != exitRefused || !strings.Contains(r.err, says) || len(f.asked()) != 0 {
			t.Errorf("%s: exit status %d, %q", file, r.status, r.err)
		}
	}
	if err := os.WriteFile("c.yaml", []byte(strings.Replace(programs, "  p3: {object: \"3\"}\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := xdpctl(t, f.socket, "apply -f c.yaml", ""); r.status != 0 {
		t.Errorf("48 MiB: exit status %d, %q", r.status, r.err)
	}
}

// Chains that change while they are read are read again.
func TestDumpWhileChanging(t *testing.T) {
	for _, c := range []struct {
		changes, status int
	}{{1, 0}, {3, 0}, {100, exitRefused}} {
		left := c.changes
		revision := uint64(4)
		f := startFake(t, map[string]any{"ListPrograms": programs()})
		f.answers["GetChain"] = answer(func(proto.Message) (proto.Message, error) {
			if left > 0 {
				left--
				revision++
			}
			ch := eth0()
			ch.Revision = revision
			return &xdpdv1.GetChainResponse{Chain: ch}, nil
		})
		r := xdpctl(t, f.socket, "chain eth0 -o yaml", "")
		if r.status != c.status || (r.out == "") != (c.status != 0) {
			t.Errorf("%d changes: exit status %d, %s%s", c.changes, r.status, r.out, r.err)
		}
	}
}
