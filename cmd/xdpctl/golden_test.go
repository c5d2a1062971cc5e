// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// session is how a terminal shows a command line and what it did.
func session(line string, r result) string {
	text := "$ xdpctl " + line + "\n" + cmp.Or(r.both, r.out+r.err)
	if r.status != exitDone {
		text += fmt.Sprintf("$ echo $?\n%d\n", r.status)
	}
	return text
}

// goldenCase is a command line and what the daemon answers.
type goldenCase struct {
	name, line string
	answers    map[string]any
	status     int
}

func goldenCases(t *testing.T) []goldenCase {
	chains := &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{eth0(), usb0(), wlan0()}}
	added := &xdpdv1.AddProgramResponse{Program: blocklist(), Chains: []*xdpdv1.Chain{eth0(), wlan0()}}
	disabled := &xdpdv1.UpdateMembersResponse{Chains: []*xdpdv1.Chain{eth0()}}
	moved := &xdpdv1.UpdateMembersResponse{Chains: []*xdpdv1.Chain{eth0(), usb0()}}
	lone := &xdpdv1.Chain{Interface: "wlan0", Ifindex: 5, Revision: 2}
	removed := &xdpdv1.RemoveProgramResponse{Chains: []*xdpdv1.Chain{eth0(), lone}, Unloaded: true}
	one := eth0()
	one.Members = one.Members[:1]
	removedOne := &xdpdv1.RemoveProgramResponse{Chains: []*xdpdv1.Chain{one}}
	bad := statusAnswer()
	bad.Problems = []string{"eth7: the foreign program 44 (other) holds the interface"}
	busy := refusal(t, codes.FailedPrecondition, "INTERFACE_BUSY", "",
		"eth1 runs the XDP program 44 (firewall) in native mode, which xdpd did not put there; detach it first",
		map[string]string{"interface": "eth1", "holder_id": "44", "holder_name": "firewall", "holder_mode": "native"})
	verifier := refusal(t, codes.InvalidArgument, "VERIFIER_REJECTED",
		"3: (71) r0 = *(u8 *)(r1 +12)\ninvalid access to packet, off=12 size=1, R1(id=0,off=12,r=0)\n"+
			"R1 offset is outside of the packet\n",
		"the verifier refuses program sample: permission denied", map[string]string{"program": "sample"})
	return slices.Concat(changeCases(t), survivalCases(t), []goldenCase{
		{"chain", "chain eth0", map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: eth0()}}, 0},
		{"chains", "chain", map[string]any{"ListChains": chains}, 0},
		{"chain-json", "chain wlan0 -o json", map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: wlan0()}}, 0},
		{"chain-yaml", "chain eth0 -o yaml", map[string]any{
			"GetChain": &xdpdv1.GetChainResponse{Chain: eth0()}, "ListPrograms": withSettings(),
		}, 0},
		{"chains-none", "chain", map[string]any{"ListChains": &xdpdv1.ListChainsResponse{}}, 0},
		{"ls", "ls", map[string]any{"ListPrograms": programs()}, 0},
		{"ls-none", "ls", map[string]any{"ListPrograms": &xdpdv1.ListProgramsResponse{}}, 0},
		{"ls-yaml", "ls -o yaml", map[string]any{"ListPrograms": &xdpdv1.ListProgramsResponse{
			Programs: []*xdpdv1.Program{blocklist()},
		}}, 0},
		{"status", "status", map[string]any{"GetStatus": statusAnswer()}, 0},
		{"status-json", "status -o json", map[string]any{"GetStatus": statusAnswer()}, 0},
		{"status-problem", "status", map[string]any{"GetStatus": bad}, 0},
		{"add", "add blocklist.o --interface eth0,wlan0 --first", map[string]any{"AddProgram": added}, 0},
		{"add-json", "add blocklist.o --interface eth0,wlan0 -o json", map[string]any{
			"AddProgram": &xdpdv1.AddProgramResponse{Program: blocklist()},
		}, 0},
		{"set", "set sample --last", map[string]any{"UpdateMembers": moved}, 0},
		{"set-disable", "set dns-cache --interface eth0 --disable", map[string]any{"UpdateMembers": disabled}, 0},
		{"rm", "rm tracer", map[string]any{"RemoveProgram": removed}, 0},
		{"rm-one", "rm tracer --interface eth0", map[string]any{"RemoveProgram": removedOne}, 0},
		{"busy", "add blocklist.o --interface eth0,eth1", map[string]any{"AddProgram": busy}, exitRefused},
		{"verifier", "add sample.o --interface eth0", map[string]any{"AddProgram": verifier}, exitRefused},
		{"exclusive", "set sample --first --before blocklist", nil, exitUsage},
		{"command", "sett sample --first", nil, exitUsage},
		{"help", "--help", nil, 0},
		{"help-add", "add --help", nil, 0},
		{"help-rm", "rm --help", nil, 0},
		{"help-set", "set --help", nil, 0},
		{"help-chain", "chain --help", nil, 0},
		{"help-ls", "ls --help", nil, 0},
		{"help-status", "status --help", nil, 0},
		{"help-version", "version --help", nil, 0},
	})
}

func TestGolden(t *testing.T) {
	objects(t)
	for _, c := range goldenCases(t) {
		t.Run(c.name, func(t *testing.T) {
			f := startFake(t, c.answers)
			r := xdpctl(t, f.socket, c.line, "")
			if r.status != c.status {
				t.Errorf("exit status %d, want %d", r.status, c.status)
			}
			golden(t, c.name, session(c.line, r))
		})
	}
}

// objects makes the current folder one that has objects, files of chains, captures and this package's testdata.
func objects(t *testing.T) {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Symlink(filepath.Join(here, "testdata"), "testdata"); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"blocklist.o": "ELF of blocklist.o",
		"sample.o":    "ELF of sample.o",
		"chains.yaml": "programs: {ratelimit: {object: sample.o}}\nchains:\n  eth0: {members: [blocklist, ratelimit]}\n  wlan0: {members: []}\n",
		"wrong.yaml":  "chains:\n  eth0:\n    members:\n      - program: blocklist\n        prio: 10\n",
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	captures(t, dir)
}

// A chain is made to be read in a terminal and pasted into a bug report.
func TestChainWidth(t *testing.T) {
	c := eth0()
	c.Interface = "enp130s0f0np0"
	for _, m := range c.Members {
		m.Program = "edge-" + m.Program
		m.Counters.Seen += 1e8
		m.Counters.PassedOn += 1e8
	}
	f := startFake(t, map[string]any{"GetChain": &xdpdv1.GetChainResponse{Chain: c}})
	r := xdpctl(t, f.socket, "chain enp130s0f0np0", "")
	if n := strings.Count(r.out, "\n"); n != len(c.Members)+3 {
		t.Errorf("%d lines for %d members", n, len(c.Members))
	}
	for line := range strings.Lines(r.out) {
		if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > 100 {
			t.Errorf("%d columns: %s", n, line)
		}
		if strings.Contains(line, " \n") {
			t.Errorf("white space at the end of %q", line)
		}
	}
}

// Names come out of objects that anyone may have made: they must not reach the terminal as commands.
func TestControlCharacters(t *testing.T) {
	evil := &xdpdv1.ListProgramsResponse{Programs: []*xdpdv1.Program{{Name: "a", Function: "f\x1b[2J\u009b2J\r"}}}
	f := startFake(t, map[string]any{
		"ListPrograms": evil,
		"GetStatus":    refusal(t, codes.Internal, "KERNEL", "log\x1b[2J", "no\x1b[2J", map[string]string{"error": "\x07"}),
	})
	for _, line := range []string{"ls", "ls -o json", "ls -o yaml", "status"} {
		r := xdpctl(t, f.socket, line, "")
		if strings.ContainsAny(r.out+r.err, "\x1b\x07\r") {
			t.Errorf("%s prints control characters: %q", line, r.out+r.err)
		}
	}
}
