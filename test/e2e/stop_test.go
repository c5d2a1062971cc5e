// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestStop stops a daemon with programs on two interfaces: nothing of it is left, and it exits with 0.
func TestStop(t *testing.T) {
	for name, s := range map[string]os.Signal{"SIGTERM": unix.SIGTERM, "SIGINT": unix.SIGINT} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, second)
			h.start()
			h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "drop", second)))
			h.Check()
			h.stop(s)
			h.start() // and there is nothing that a start would find
			h.Check()
			h.stop(s)
		})
	}
}

// TestStopDuringChange stops a daemon that is in the middle of a change: it finishes the change first.
func TestStopDuringChange(t *testing.T) {
	for name, s := range map[string]os.Signal{"SIGTERM": unix.SIGTERM, "SIGINT": unix.SIGINT} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.start("XDPD_FAILPOINT=" + failpoint.SaveBefore + "=stop")
			r := add("a", "pass", nettest.Dev)
			r.Lifetime = xdpdv1.Lifetime_LIFETIME_PERSISTENT
			h.meanwhile(r, func() { h.d.signal(s) })
			next, err := h.model.add(r)
			if err != nil {
				t.Fatal(err)
			}
			h.model = next
			h.stopped()
			h.start()
			h.Check()
			h.stop(s)
		})
	}
}

// meanwhile makes a change in a daemon that was started to stand still in the middle of it, does something else then, and
// lets the daemon go on. It returns the number of the change, if it waits to be confirmed: its time is not up before.
func (h *host) meanwhile(change proto.Message, do func()) (id uint64) {
	h.Helper()
	type result struct {
		answer answer
		err    error
	}
	done := make(chan result, 1)
	go func() {
		a, err := h.ask(change)
		done <- result{a, err}
	}()
	h.eventually("the daemon stands still", func() bool { return h.state() == "T" })
	do()
	h.d.signal(unix.SIGCONT)
	r := <-done
	if r.err != nil {
		h.Fatalf("the change was cut off: %v %v", r.err, client.Facts(r.err))
	}
	return r.answer.GetChange().GetPending().GetId()
}

// state is the kernel's letter for what the daemon does.
func (h *host) state() string { return stateOf(h.d.cmd.Process.Pid) }

// TestSecondDaemon starts a daemon where one runs already, with all or a part of its places. It refuses and
// says why, and the first goes on.
func TestSecondDaemon(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	for _, c := range []struct{ name, socket, state, pins, says string }{
		{"all the same", "", "", "", "locked"},
		{"same BPF FS", "/other.sock", "/other", "", h.pins + " is locked"},
		{"same state", "/other.sock", "", "-other", "in use by another process"},
		{"same socket", "", "/other", "-other", "is xdpd running already"},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := []string{"serve", "--config", h.config, "--bpffs", h.pins + c.pins}
			if c.socket != "" {
				args = append(args, "--socket", h.dir+c.socket)
			}
			if c.state != "" {
				args = append(args, "--state-dir", h.dir+c.state)
			}
			r := h.run("xdpd", args...)
			said := strings.Contains(r.stderr, c.says) || c.name == "all the same" && strings.Contains(r.stderr, "in use")
			if r.code != 1 || !said {
				t.Errorf("a second daemon: %d, %s", r.code, r.stderr)
			}
			if c.pins != "" {
				if err := os.RemoveAll(h.pins + c.pins); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestTeardown takes everything down after a kill, and nothing while a daemon runs.
func TestTeardown(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)))
	if r := h.run("xdpd", "teardown", "--config", h.config); r.code != 1 || !strings.Contains(r.stderr, "locked") {
		t.Errorf("teardown while a daemon runs: %+v", r)
	}
	h.Check()
	h.d.kill()
	for range 2 {
		if r := h.run("xdpd", "teardown", "--config", h.config); r.code != 0 {
			t.Errorf("teardown: %+v", r)
		}
		h.nothingLeft()
	}
	h.model.stopped()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestTeardownWithDamagedStore clears the kernel all the same.
func TestTeardownWithDamagedStore(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "drop", nettest.Dev)))
	h.Check()
	h.d.kill()
	if err := os.WriteFile(filepath.Join(h.dir, "state", "xdpd.db"), []byte("not a store"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := h.run("xdpd", "teardown", "--config", h.config); r.code != 1 || !strings.Contains(r.stderr, "damaged") {
		t.Errorf("teardown: %+v", r)
	}
	h.nothingLeft()
}
