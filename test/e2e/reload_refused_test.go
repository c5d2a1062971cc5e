// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
	"github.com/xdpd/xdpd/store"
)

// TestReloadRefused reloads with programs that cannot take over, and configurations that they cannot take over with:
// the daemon says why and goes on, and no client notices, not even one that watches.
func TestReloadRefused(t *testing.T) {
	h := newReloadHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	program, err := os.ReadFile(filepath.Join(binDir, "xdpd"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	w := h.watch("")
	callers := h.callers(3)
	since := h.since()
	script := func(s string) []byte { return []byte("#!/bin/sh\n" + s + "\n") }
	type attempt struct {
		name    string
		program []byte // nil: the daemon's own
		config  string // behind what is there
		says    string
	}
	attempts := []attempt{
		{"older", script(`echo 'xdpd: unknown command "check-takeover" for "xdpd"' >&2; exit 2`), "", `unknown command \"check-takeover\"`},
		{"crashes", script("kill -KILL $$"), "", "signal: killed"},
		{"fails", script("echo 'xdpd: no such luck' >&2; exit 1"), "", "no such luck"},
		{"garbage", script("echo hello"), "", "does not say that it can take over"},
		{"silent", script("exit 0"), "", "does not say that it can take over"},
		{"too much", script("yes | head -c 100000"), "", "does not say that it can take over"},
		{"no program", []byte("\x7fELFnot"), "", "exec format error"},
		{
			"downgrade", script(fmt.Sprintf(`echo '{"can_take_over":true,"version":"0.0.1","schema":%d}'`, store.Schema-1)), "",
			fmt.Sprintf("downgrade: version 0.0.1 reads stores up to schema %d", store.Schema-1),
		},
		{"unknown key", nil, "colour: red\n", "no key"},
		{"other socket", nil, "socket: /other\n", ""},
		{"other state", nil, "state_dir: /other\n", ""},
		{"unknown group", nil, "socket_group: no-such-group\n", "no-such-group"},
	}
	if testing.Short() {
		attempts = attempts[len(attempts)-1:] // no kernel has to do with it
	}
	for _, c := range attempts {
		switch c.name { // a key that is there already
		case "other socket", "other state":
			key, _, _ := strings.Cut(c.config, " ")
			lines := strings.Split(string(config), "\n")
			for i, line := range lines {
				if strings.HasPrefix(line, key) {
					lines[i] = strings.TrimSpace(c.config)
				}
			}
			h.rewrite([]byte(strings.Join(lines, "\n")))
			c.says = "takes a stop and a start"
		default:
			h.rewrite(append(config, c.config...))
		}
		if c.program == nil {
			c.program = program
		}
		h.install(c.program)
		if line := h.refusal(); !strings.Contains(line, c.says) || !strings.Contains(line, "level=ERROR") {
			t.Errorf("%s: the log says %s", c.name, line)
		}
		callers.more(h, 5)
		if h.since() != since {
			t.Fatalf("%s: another program serves", c.name)
		}
	}
	h.rewrite(config)
	h.install(program)
	h.do(adding(add("b", "pass", nettest.Dev))) // and the watcher hears of it
	w.await("member_added")
	h.reload()
	callers.more(h, 20)
	callers.stop()
	h.runsInstalled()
	h.Check()
	h.stop(unix.SIGTERM)
}

// refusal orders a reload, and returns what the log says of the refusal. A machine that has no time for the check is asked
// again.
func (h *host) refusal() (line string) {
	h.Helper()
	for range 10 {
		before := strings.Count(h.d.log.String(), "not reloading")
		h.d.signal(unix.SIGHUP)
		h.logged(before+1, "not reloading")
		for l := range strings.SplitSeq(h.d.log.String(), "\n") {
			if strings.Contains(l, "not reloading") {
				line = l // the last one
			}
		}
		if !strings.Contains(line, lateCheck) {
			break
		}
	}
	return line
}

// TestReloadHangs reloads with a program that does not answer. The daemon serves meanwhile, and goes on then.
func TestReloadHangs(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.start("XDPD_FAILPOINT=" + failpoint.ReloadCheck + "=stop")
	callers := h.callers(3)
	h.d.signal(unix.SIGHUP)
	h.reachedPoint(failpoint.ReloadCheck)
	callers.more(h, 20)
	h.logged(1, lateCheck+" 10s")
	if pid := h.checker(); pid != 0 {
		t.Errorf("the process %d that was to check is left", pid)
	}
	callers.more(h, 20)
	callers.stop()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestDowngrade asks the real program to take over from one whose store is newer than it knows.
func TestDowngrade(t *testing.T) {
	h := newReloadHost(t)
	running := fmt.Sprintf(`{"version":"9.9.9","schema":%d,"socket":%q,"state_dir":%q,"bpffs":%q,"new":"key"}`,
		store.Schema+1, h.socket, h.dir+"/state", h.pins)
	r := h.run("xdpd", "check-takeover", "--config", h.config, "--running", running)
	if want := fmt.Sprintf("the store of the daemon that runs, version 9.9.9, has schema %d", store.Schema+1); r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, want) {
		t.Errorf("a downgrade: %+v, want %q", r, want)
	}
	running = strings.Replace(running, fmt.Sprint(store.Schema+1), fmt.Sprint(store.Schema), 1)
	r = h.run("xdpd", "check-takeover", "--config", h.config, "--running", running)
	if r.code != 1 || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("without a store: %+v", r)
	}
	if _, err := os.Lstat(h.stateDir()); err == nil {
		t.Error("a check made a store")
	}
	if err := errors.Join(os.Mkdir(h.stateDir(), 0o700), os.WriteFile(h.storePath(), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	r = h.run("xdpd", "check-takeover", "--config", h.config, "--running", running)
	if r.code != 0 || !strings.Contains(r.stdout, `"can_take_over":true`) || r.stderr != "" {
		t.Errorf("no downgrade: %+v", r)
	}
	for _, path := range []string{h.pins, h.socket} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("a check made %s", path)
		}
	}
}

// rewrite replaces the configuration.
func (h *host) rewrite(config []byte) {
	h.Helper()
	if err := os.WriteFile(h.config, config, 0o600); err != nil {
		h.Fatal(err)
	}
}
