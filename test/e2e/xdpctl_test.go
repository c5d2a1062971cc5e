// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// ctl runs xdpctl and fails the test unless it exits with code.
func (h *host) ctl(code int, args ...string) result {
	h.Helper()
	return h.ctlWith(nil, code, args...)
}

func (h *host) ctlWith(stdin []byte, code int, args ...string) result {
	h.Helper()
	r := h.runWith(stdin, "xdpctl", args...)
	if r.code != code {
		h.Errorf("xdpctl %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	if (r.code == 0) != (r.stderr == "") {
		h.Errorf("xdpctl %s: exit %d with standard error %q", strings.Join(args, " "), r.code, r.stderr)
	}
	return r
}

// by makes a change with xdpctl instead of the client.
func (c change) by(args ...string) change {
	c.send = func(h *host) error { h.ctl(0, args...); return nil }
	return c
}

// TestXdpctl goes through all commands against a daemon.
func TestXdpctl(t *testing.T) {
	h := newHost(t, second)
	object := filepath.Join(h.dir, "verdict.o")
	if err := os.WriteFile(object, verdicts, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.ctl(3, "ls"); !strings.Contains(r.stderr, "no daemon at "+h.socket) {
		t.Errorf("without a daemon: %s", r.stderr)
	}
	h.start()
	h.ctl(0, "ls")
	h.ctl(0, "chain")
	b := persistent(add("b", "drop", nettest.Dev, second))
	b.Priority, b.ProceedOn = ptr(int32(7)), &xdpdv1.ProceedOn{Verdicts: []xdpdv1.Verdict{xdpdv1.Verdict_VERDICT_DROP, xdpdv1.Verdict_VERDICT_TX}}
	h.do(
		adding(add("a", "pass", nettest.Dev)).by("add", object, "--name", "a", "--function", "pass", "--interface", nettest.Dev),
		adding(b).by("add", object, "--name", "b", "--function", "drop", "--interface", nettest.Dev+","+second, "--priority", "7",
			"--proceed-on", "drop,tx", "--lifetime", "persistent"),
		updating(&xdpdv1.MemberUpdate{Program: "b", Interface: nettest.Dev, Position: last}).by("set", "b", "--interface", nettest.Dev, "--last"),
		updating(&xdpdv1.MemberUpdate{Program: "a", ProceedOn: &xdpdv1.ProceedOn{}}).by("set", "a", "--proceed-on", "none"),
		updating(&xdpdv1.MemberUpdate{Program: "a", Enabled: ptr(false)}).by("set", "a", "--disable"),
		updating(&xdpdv1.MemberUpdate{Program: "a", Enabled: ptr(true)}).by("set", "a", "--enable"),
		removing("b", second).by("rm", "b", "--interface", second),
	)
	h.Check()
	h.reads(t)
	h.completes()

	r := h.ctl(1, "rm", "nobody")
	if !strings.Contains(r.stderr, "reason: PROGRAM_NOT_FOUND") || !strings.Contains(r.stderr, "program: nobody") {
		t.Errorf("rm of nobody: %s", r.stderr)
	}
	h.ctl(1, "add", filepath.Join(h.dir, "nosuch.o"), "--interface", nettest.Dev)
	h.ctl(1, "add", object, "--interface", nettest.Dev) // has several functions
	h.ctl(1, "chain", "nosuch")
	h.ctl(2, "add", object)
	h.ctl(2, "rm")
	h.ctl(2, "set", "a")
	h.ctl(2, "explode")
	h.ctl(2, "chain", "--output", "xml")
	h.Check()
	h.do(removing("b").by("rm", "b"), removing("a").by("rm", "a"))
	h.do(change{
		send: func(h *host) error {
			h.ctlWith(verdicts, 0, "add", "-", "--function", "tx", "--interface", second)
			return nil
		},
		model: func(m *model) (*model, error) { return m.add(add("tx", "tx", second)) },
	})
	h.Check()
	h.d.kill()
	if r := h.ctl(3, "chain"); !strings.Contains(r.stderr, "nothing listens on it") {
		t.Errorf("after a kill: %s", r.stderr)
	}
	h.start()
	h.stop(unix.SIGTERM)
}

// reads compares what the commands that read print as table, JSON and YAML with the daemon's answers.
func (h *host) reads(t *testing.T) {
	chains, err := h.client.ListChains(h.ctx(), &xdpdv1.ListChainsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	one, err := h.client.GetChain(h.ctx(), &xdpdv1.GetChainRequest{Interface: nettest.Dev})
	if err != nil {
		t.Fatal(err)
	}
	programs, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args  []string
		want  proto.Message
		empty func() proto.Message
		table []string
	}{
		{[]string{"chain"}, chains, func() proto.Message { return &xdpdv1.ListChainsResponse{} }, []string{nettest.Dev + ": ifindex", "SEEN", "(final verdict)"}},
		{[]string{"chain", nettest.Dev}, one, func() proto.Message { return &xdpdv1.GetChainResponse{} }, []string{"a", "b", "drop,tx", "none"}},
		{[]string{"ls"}, programs, func() proto.Message { return &xdpdv1.ListProgramsResponse{} }, []string{"persistent", "daemon", "INTERFACES"}},
		{[]string{"status"}, status, func() proto.Message { return &xdpdv1.GetStatusResponse{} }, []string{h.pins, "problems", "none", "linker"}},
	} {
		for _, word := range c.table {
			if out := h.ctl(0, c.args...).stdout; !strings.Contains(out, word) {
				t.Errorf("xdpctl %v has no %q:\n%s", c.args, word, out)
			}
		}
		got := c.empty()
		if err := protojson.Unmarshal([]byte(h.ctl(0, append(c.args, "-o", "json")...).stdout), got); err != nil || !proto.Equal(got, c.want) {
			t.Errorf("xdpctl %v as JSON: %v\n got %v\nwant %v", c.args, err, got, c.want)
		}
		if c.args[0] == "chain" { // as YAML it is a file for apply: TestApply
			continue
		}
		var tree any
		err := yaml.Unmarshal([]byte(h.ctl(0, append(c.args, "-o", "yaml")...).stdout), &tree)
		text, jerr := json.Marshal(tree)
		got = c.empty()
		if err := protojson.Unmarshal(text, got); err != nil || !proto.Equal(got, c.want) {
			t.Errorf("xdpctl %v as YAML: %v\n got %v\nwant %v", c.args, err, got, c.want)
		}
		if err != nil || jerr != nil {
			t.Errorf("xdpctl %v as YAML: %v, %v", c.args, err, jerr)
		}
	}
	if out := h.ctl(0, "version").stdout; !strings.HasPrefix(out, "xdpctl ") {
		t.Errorf("xdpctl version: %s", out)
	}
}

// completes looks that a shell is offered the names that the daemon has now.
func (h *host) completes() {
	h.Helper()
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"rm", ""}, []string{"a", "b"}},
		{[]string{"rm", "b", "--interface", ""}, []string{nettest.Dev}},
		{[]string{"set", "a", "--before", ""}, []string{"a", "b"}},
		{[]string{"chain", ""}, []string{nettest.Dev}},
		{[]string{"add", "x.o", "--interface", "xdev"}, []string{nettest.Dev, second, second + "p"}},
	} {
		// It offers nothing where the daemon does not answer within a second.
		h.eventually(fmt.Sprintf("completion of %q offers %v", c.args, c.want), func() bool {
			got := strings.Fields(h.runWith(nil, "xdpctl", append([]string{"__completeNoDesc"}, c.args...)...).stdout)
			if n := len(got); n > 0 && strings.HasPrefix(got[n-1], ":") {
				got = got[:n-1]
			}
			slices.Sort(got)
			if len(got) > 0 && !slices.Equal(got, c.want) {
				h.Fatalf("completion of %q: %v, want %v", c.args, got, c.want)
			}
			return len(got) > 0
		})
	}
}
