// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestSpelling sets variables in all the ways in which their values can be written: what xdpctl prints of it changes
// nothing when it is applied, and neither does the same request again.
func TestSpelling(t *testing.T) {
	h := newHost(t)
	h.start()
	request := func() *xdpdv1.AddProgramRequest {
		return persistent(&xdpdv1.AddProgramRequest{
			Name: "s", Object: settingsObject, Function: "show", Interfaces: []string{nettest.Dev},
			Settings: &xdpdv1.ProgramSettings{
				MaxEntries: map[string]uint32{"table": 16},
				Globals:    map[string]string{"limit": " 2\n", "ports": `[1, "\u0032",3 ]`, "label": `"\u003ca\/b\u003E"`, "strict": "\tfalse"},
			},
		})
	}
	if _, err := h.client.AddProgram(h.ctx(), request()); err != nil {
		t.Fatal(err)
	}
	h.run1()
	if got, want := h.shown("s"), (shown{Limit: 2, Ports: [4]uint16{1, 2, 3}, Label: [8]byte([]byte("<a/b>\x00\x00\x00"))}); got != want {
		t.Errorf("the program sees %+v, want %+v", got, want)
	}
	unchanged := func(out string) {
		t.Helper()
		if !strings.HasPrefix(out, "nothing changed") {
			t.Errorf("it says %s", out)
		}
	}
	file := h.ctl(0, "chain", "-o", "yaml").stdout
	unchanged(h.ctlWith([]byte(file), 0, "apply", "-f", "-").stdout)
	set := &xdpdv1.SetChainsRequest{
		Programs: []*xdpdv1.ProgramSpec{{Name: "s", Settings: request().GetSettings()}},
		Chains:   []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "s")},
	}
	if a, err := h.client.SetChains(h.ctx(), set); err != nil || a.GetChange().GetChanged() {
		t.Errorf("the same settings once more: %v, %v", a, err)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestDryGroup gives the maps of programs to a group without making it so: nobody else can pass to the pins then. With the
// last program of a group the way is closed again, also by a daemon that finds it open.
func TestDryGroup(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(persistent(add("a", "pass", nettest.Dev))))
	modes := func(what string, want os.FileMode) {
		t.Helper()
		for _, dir := range []string{h.pins, filepath.Join(h.pins, "programs")} {
			info, err := os.Stat(dir)
			if err != nil {
				t.Fatal(err)
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s: %s has mode %v, want %v", what, dir, got, want)
			}
		}
	}
	request := func(name string) *xdpdv1.AddProgramRequest {
		r := persistent(add(name, "goon", nettest.Dev))
		r.Settings = &xdpdv1.ProgramSettings{MapGroup: fmt.Sprint(group)}
		return r
	}
	modes("no group", 0o700)
	dry := request("b")
	dry.Options = &xdpdv1.ChangeOptions{DryRun: true}
	if _, err := h.client.AddProgram(h.ctx(), dry); err != nil {
		t.Fatal(err)
	}
	modes("a dry run", 0o700)
	h.d.kill()
	h.start("XDPD_FAILPOINT=save.before=error")
	if _, err := h.client.AddProgram(h.ctx(), request("b")); err == nil {
		t.Fatal("the change did not fail")
	}
	modes("a change that failed", 0o700)

	h.do(adding(request("b")), adding(request("c")))
	modes("two programs", 0o711)
	h.do(removing("b"))
	modes("one program", 0o711)
	if _, err := h.client.AddProgram(h.ctx(), dry); err != nil {
		t.Fatal(err)
	}
	modes("a dry run beside it", 0o711)
	h.d.kill()
	h.start()
	modes("a start", 0o711)
	h.ctl(0, "replace", "c", "--function", "pass", "--max-entries", "runs=1")
	h.learn()
	modes("a version without the group", 0o700)
	h.do(adding(request("b")))
	modes("another program", 0o711)
	h.do(removing("b"))
	modes("it is gone", 0o700)

	h.d.kill()
	h.start("XDPD_FAILPOINT=load.pinned=kill")
	_, _ = h.client.AddProgram(h.ctx(), request("b")) // it is cut off
	h.d.killed()
	for _, dir := range []string{h.pins, filepath.Join(h.pins, "programs")} {
		if err := os.Chmod(dir, 0o711); err != nil { // as if the daemon had come a bit further
			t.Fatal(err)
		}
	}
	h.start()
	modes("killed in between", 0o700)
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
