// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// write makes a file in the host's folder and returns its path.
func (h *host) write(name string, data []byte) string {
	h.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		h.Fatal(err)
	}
	return path
}

// refused is an object whose program the kernel's verifier does not take.
//
//go:embed testdata/refused.bpf.o
var refused []byte

// planned is a file of chains.
const planned = `# What the tests want.
programs:
  guard:
    object: verdict.o
    function: pass
    lifetime: persistent
  tail:
    object: ./verdict.o
    function: goon
  m:
    object: trail.o
    function: mark
    globals: {id: 3, version: 0x10}
chains:
  xdev0:
    members:
      - program: guard
        priority: 10
        proceed_on: [pass, tx]
      - m
      - program: tail
        enabled: false
  xdev1:
    final: drop
    members: [tail, guard]
  xdev2:
    members: []
`

// newApplyHost has a daemon, objects beside chains.yaml, and a program on xdev2.
func newApplyHost(t *testing.T) (h *host, file string) {
	h = newHost(t, second, third)
	h.write("verdict.o", verdicts)
	h.write("trail.o", trails)
	file = h.write("chains.yaml", []byte(planned))
	h.start()
	h.do(adding(add("old", "drop", third)))
	return h, file
}

// storeFile is what the store's file has.
func (h *host) storeFile() []byte {
	h.Helper()
	data, err := os.ReadFile(filepath.Join(h.dir, "state", "xdpd.db"))
	if err != nil {
		h.Fatal(err)
	}
	return data
}

// applied applies with the real xdpctl and returns the answer.
func (h *host) applied(stdin []byte, args ...string) *xdpdv1.SetChainsResponse {
	h.Helper()
	out := h.ctlWith(stdin, 0, append([]string{"apply", "-o", "json"}, args...)...).stdout
	var a xdpdv1.SetChainsResponse
	if err := protojson.Unmarshal([]byte(out), &a); err != nil {
		h.Fatalf("%v in\n%s", err, out)
	}
	return &a
}

// untouched does something, and fails the test if afterwards anything is different: in the kernel, the pins, or a
// byte of the store.
func (h *host) untouched(what string, do func()) {
	h.Helper()
	imprint, file := h.takeImprint(), h.storeFile()
	do()
	if now := h.takeImprint(); now != imprint {
		h.Errorf("%s: there is\n%s\nthere was\n%s", what, now, imprint)
	}
	if !bytes.Equal(h.storeFile(), file) {
		h.Errorf("%s: the store was written", what)
	}
	h.checkDescriptors()
}

// TestApply applies a file of chains, first only to see, and then what xdpctl chain prints of the result, in all forms:
// that changes nothing.
func TestApply(t *testing.T) {
	h, file := newApplyHost(t)
	var dry *xdpdv1.SetChainsResponse
	h.untouched("a dry run", func() { dry = h.applied(nil, "-f", file, "--dry-run") })
	real := h.applied(nil, "-f", file, "--comment", "as planned")
	if !dry.GetChange().GetDryRun() || !dry.GetChange().GetChanged() || real.GetChange().GetDryRun() || len(real.GetChange().GetDiff()) < 6 ||
		!slices.Equal(dry.GetChange().GetDiff(), real.GetChange().GetDiff()) || fmt.Sprint(dry.GetChange().GetMaps()) != fmt.Sprint(real.GetChange().GetMaps()) {
		t.Errorf("the dry run said\n%v\nand then it was\n%v", dry.GetChange(), real.GetChange())
	}
	for i, c := range real.GetChains() {
		imagined := dry.GetChains()[i]
		if fmt.Sprint(c.GetMembers()) != fmt.Sprint(imagined.GetMembers()) || c.GetRevision() != imagined.GetRevision() || c.GetInterface() != imagined.GetInterface() {
			t.Errorf("the dry run imagined\n%v\nand then it was\n%v", imagined, c)
		}
	}
	for iface, want := range map[string]string{
		nettest.Dev: "{Mode:auto Final:pass Members:[{Program:guard Priority:10 ProceedOn:pass,tx Disabled:false} {Program:m Priority:10 ProceedOn:pass Disabled:false} {Program:tail Priority:10 ProceedOn:pass Disabled:true}]}",
		second:      "{Mode:auto Final:drop Members:[{Program:tail Priority:50 ProceedOn:pass Disabled:false} {Program:guard Priority:50 ProceedOn:pass Disabled:false}]}",
	} {
		if got, _ := decoded(h.chain(iface)); fmt.Sprintf("%+v", got) != want {
			t.Errorf("the chain of %s is\n%+v\nwant\n%s", iface, got, want)
		}
	}
	if e := h.history(third)[0]; e.GetComment() != "as planned" || len(e.GetChain().GetMembers()) != 0 {
		t.Errorf("the history of %s says %v", third, e)
	}
	h.learn()
	h.Check()

	all := []byte(h.ctl(0, "chain", "-o", "yaml").stdout)
	asJSON, err := yaml.YAMLToJSON(all)
	if err != nil {
		t.Fatal(err)
	}
	for name, again := range map[string]struct {
		stdin []byte
		args  []string
	}{
		"the file itself":     {nil, []string{"-f", file}},
		"what chain prints":   {all, []string{"-f", "-"}},
		"that as a file":      {nil, []string{"-f", h.write("all.yaml", all)}},
		"that as JSON":        {asJSON, []string{"-f", "-"}},
		"JSON in a file":      {nil, []string{"-f", h.write("all.json", asJSON)}},
		"of one interface":    {[]byte(h.ctl(0, "chain", second, "-o", "yaml").stdout), []string{"-f", "-"}},
		"with a confirmation": {all, []string{"-f", "-", "--confirm-within", "1h"}},
	} {
		h.untouched(name, func() {
			if a := h.applied(again.stdin, again.args...); a.GetChange().GetChanged() || len(a.GetChange().GetDiff())+len(a.GetChange().GetMaps()) > 0 || a.GetChange().GetPending() != nil {
				t.Errorf("%s: %v", name, a.GetChange())
			}
		})
	}
	if out := h.ctl(0, "apply", "-f", file).stdout; out != "nothing changed: it is so already\n" {
		t.Errorf("people are told %q", out)
	}
	// From nothing, with objects that only the history has.
	picture := h.picture(false)
	h.applied([]byte("chains: {xdev0: {members: []}, xdev1: {members: []}}"), "-f", "-")
	h.model = newModel()
	h.model.blind = true
	h.Check()
	h.applied(all, "-f", "-")
	if now := h.picture(false); now != picture {
		t.Errorf("there is\n%s\nthere was\n%s", now, picture)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestApplyRefused applies files of which one interface or program of several cannot be had: all stays as it is.
func TestApplyRefused(t *testing.T) {
	h, file := newApplyHost(t)
	h.applied(nil, "-f", file)
	h.learn()
	h.Check()
	h.write("bad.o", refused)
	foreign, detach := h.foreign(third)
	for name, c := range map[string]struct{ file, reason, says string }{
		"a foreign program": {"chains: {xdev0: {members: [m]}, xdev1: {members: [m, tail]}, xdev2: {members: [guard]}}", "INTERFACE_BUSY", "interface: xdev2"},
		"the verifier": {
			"programs: {bad: {object: bad.o}}\nchains: {xdev0: {members: [m]}, xdev1: {members: [bad]}}",
			"VERIFIER_REJECTED", "the end of the verifier's log",
		},
		"no such interface":         {"chains: {xdev0: {members: [m]}, nosuch0: {members: [m]}}", "INTERFACE_NOT_FOUND", "interface: nosuch0"},
		"no such program":           {"chains: {xdev0: {members: [m, nobody]}}", "PROGRAM_NOT_FOUND", "program: nobody"},
		"no such object":            {"programs: {n: {object: 'sha256:" + strings.Repeat("ab", 32) + "'}}\nchains: {xdev0: {members: [n]}}", "OBJECT_NOT_FOUND", ""},
		"a global that is no":       {"programs: {m: {globals: {nobody: 1}}}\nchains: {xdev0: {members: [m]}}", "GLOBAL_INVALID", "global: nobody"},
		"priorities that fall":      {"chains: {xdev0: {members: [{program: m, priority: 9}, {program: guard, priority: 8}]}}", "POSITION_CONFLICT", ""},
		"a program without a place": {"programs: {n: {object: verdict.o, function: pass}}\nchains: {xdev0: {members: [m]}}", "INVALID_ARGUMENT", ""},
		"another mode":              {"chains: {xdev1: {mode: generic, members: [tail]}}", "MODE_CONFLICT", "interface: xdev1"},
		"no such file":              {"programs: {n: {object: nosuch.o}}\nchains: {xdev0: {members: [n]}}", "", "nosuch.o"},
		"an unknown key":            {"chain: {xdev0: {members: [m]}}", "", `no key "chain"`},
	} {
		path := h.write("wrong.yaml", []byte(c.file))
		ways := [][]string{{}, {"--dry-run"}, {"--confirm-within", "1h"}}
		if testing.Short() {
			ways = ways[:1]
		}
		for _, args := range ways {
			h.untouched(name, func() {
				r := h.ctl(1, append([]string{"apply", "-f", path}, args...)...)
				if !strings.Contains(r.stderr, c.says) || c.reason != "" && !strings.Contains(r.stderr, "reason: "+c.reason+"\n") {
					t.Errorf("%s %v: %s", name, args, r.stderr)
				}
			})
		}
		if h.attached(third) != foreign {
			t.Errorf("%s: the foreign program is gone", name)
		}
		if t.Failed() {
			break
		}
	}
	detach()
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// foreign puts an XDP program on an interface, as somebody else would, and returns its id.
func (h *host) foreign(iface string) (id uint32, detach func()) {
	h.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, AttachType: ebpf.AttachXDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		h.Fatal(err)
	}
	defer p.Close()
	var l link.Link
	index := h.ns.Index(h, iface)
	nettest.RunIn(h.ns, func() { l, err = link.AttachXDP(link.XDPOptions{Program: p, Interface: index}) })
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { l.Close() })
	id = h.attached(iface)
	return id, func() {
		l.Close()
		// Whoever waits for the interface may have taken it by the time it is looked at.
		h.eventually("the foreign program is gone", func() bool { return h.attached(iface) != id })
	}
}

// running is an xdpctl that runs beside the test.
type running struct {
	*host
	cmd            *exec.Cmd
	stdout, stderr buffer
	done           chan struct{}
}

// begin starts xdpctl and does not wait for its end.
func (h *host) begin(args ...string) *running {
	h.Helper()
	r := &running{host: h, done: make(chan struct{})}
	r.cmd = exec.Command(filepath.Join(binDir, "xdpctl"), args...)
	r.cmd.Env = append(os.Environ(), "XDPD_SOCKET="+h.socket)
	r.cmd.Stdout, r.cmd.Stderr = &r.stdout, &r.stderr
	var err error
	nettest.RunIn(h.ns, func() { err = r.cmd.Start() })
	if err != nil {
		h.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // how it ended is in ProcessState
		close(r.done)
	}()
	h.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.done
	})
	return r
}

// end waits for the end and returns what it did.
func (r *running) end() result {
	r.Helper()
	select {
	case <-r.done:
	case <-time.After(patience):
		r.Fatalf("xdpctl %v does not end: %s%s", r.cmd.Args, r.stdout.String(), r.stderr.String())
	}
	return result{r.cmd.ProcessState.ExitCode(), r.stdout.String(), r.stderr.String()}
}

// TestApplyWaits applies with a confirmation and lets each thing happen that xdpctl can wait for.
func TestApplyWaits(t *testing.T) {
	h, file := newApplyHost(t)
	w := h.watch("")
	before := h.picture(true)
	for _, c := range []struct {
		name   string
		within string
		do     func(r *running, id uint64)
		code   int
		says   string
	}{
		{"Ctrl-C", "1h", func(r *running, _ uint64) { _ = r.cmd.Process.Signal(os.Interrupt) }, 1, "was cancelled"},
		{"SIGTERM", "1h", func(r *running, _ uint64) { _ = r.cmd.Process.Signal(unix.SIGTERM) }, 1, "was cancelled"},
		{"cancelled elsewhere", "1h", func(_ *running, id uint64) { h.ctl(0, "cancel", fmt.Sprint(id)) }, 1, "was cancelled"},
		{"time", "1s", func(*running, uint64) {}, 1, "was not confirmed in time|does not wait to be confirmed any more"},
		{"a kill and a start", "1h", func(_ *running, id uint64) {
			h.d.kill()
			h.start()
			w = h.watch("")
			h.ctl(0, "cancel")
		}, 1, "does not wait to be confirmed any more|was cancelled"},
		{"confirmed elsewhere", "1h", func(*running, uint64) { h.ctl(0, "confirm") }, 0, "is confirmed and stays"},
	} {
		r := h.begin("apply", "-f", file, "--confirm-within", c.within)
		id := w.await("confirm_pending").GetConfirmPending().GetId()
		h.eventually("xdpctl waits", func() bool { return strings.Contains(r.stderr.String(), "waiting for xdpctl confirm") })
		c.do(r, id)
		ended := r.end()
		if out := ended.stdout + ended.stderr; ended.code != c.code || !regexp.MustCompile(fmt.Sprintf("change %d (%s)", id, c.says)).MatchString(out) {
			t.Errorf("%s: exit %d: %s", c.name, ended.code, out)
		}
		if after := h.picture(true); (after == before) != (c.code != 0) {
			t.Errorf("%s: there is\n%s\nthere was\n%s", c.name, after, before)
		}
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
