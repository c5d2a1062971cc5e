// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

const (
	installed = "/usr/bin/xdpd"
	another   = "/t/next/xdpd" // of another version
)

// The program on disk takes over in the same process, or is refused; the chain and the clients notice neither.
func TestReload(t *testing.T) {
	h := newHost(t)
	before := h.keepBinary()
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	pid := h.pid()
	untouched, reachable := h.wantUntouched(), h.wantReachable()

	next, err := os.ReadFile(another)
	if err != nil {
		h.Fatal(err)
	}
	old, version := versionOf(h, installed), versionOf(h, another)
	h.replaceFile(installed, next, 0o755)
	h.reload()
	h.wantVersion(version)
	if e := h.wantLog("msg=reloading", "from="+old, "to="+version); e.Priority != "6" || e.Unit != daemonUnit {
		h.Errorf("the journal has that as %+v, want priority 6, and the unit %s", e, daemonUnit)
	}

	h.replaceFile(installed, []byte("#!/bin/sh\necho not with me >&2\nexit 1\n"), 0o755)
	h.reload()
	if e := h.wantLog("not reloading", "not with me"); e.Priority != "3" {
		h.Errorf("the journal has the refusal with priority %s, want 3: %s", e.Priority, e.Message)
	}
	h.replaceFile(installed, before, 0o755)
	h.configure("linker: never\n")
	h.reload()
	h.wantLog("not reloading", "linker")
	h.wantProperty(daemonUnit, "SubState", "running")
	h.wantVersion(version)

	untouched()
	reachable()
	if now := h.pid(); now != pid {
		h.Errorf("the daemon is process %d after the reloads, want %d still", now, pid)
	}
	h.check("pass")
	h.configure("")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "more", "--interface", dev)
	h.check("pass", "more")
	h.stop()
}

// reload reloads as an administrator does, and waits until the daemon says whether it does so: systemctl returns before. A machine
// that has no time for the check refuses, and is asked again.
func (h *host) reload() {
	h.Helper()
	for late := true; late; {
		before := h.logged("reloading")
		systemctl(h, "reload", mainUnit)
		h.wait("an answer to the reload", func() bool { return h.logged("reloading") > before }, func() string { return "not in the journal" })
		for _, e := range h.log() {
			if strings.Contains(e.Message, "reloading") {
				late = strings.Contains(e.Message, "did not answer within")
			}
		}
	}
}

// keepBinary returns the program as it is installed, which it is again after the test.
func (h *host) keepBinary() []byte {
	h.Helper()
	content, err := os.ReadFile(installed)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { h.replaceFile(installed, content, 0o755) })
	return content
}

func versionOf(t testing.TB, path string) string {
	t.Helper()
	out, err := run(path, "version")
	fields := strings.Fields(out)
	if err != nil || len(fields) < 2 {
		t.Fatalf("%s version: %v: %q", path, err, out)
	}
	return fields[1]
}

// wantVersion waits until the daemon is of that version.
func (h *host) wantVersion(version string) {
	h.Helper()
	said := ""
	h.wait("the daemon to be version "+version, func() bool {
		got, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		said = fmt.Sprint(got.GetVersion(), err)
		return got.GetVersion() == version
	}, func() string { return said })
}

// wantReachable connects to the daemon all the time, until the function that it returns is called: that fails the test
// if a connection was refused at any time.
func (h *host) wantReachable() (look func()) {
	var refused []error
	end := h.meanwhile(func() {
		conn, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), "unix", socket)
		if err != nil {
			refused = append(refused, err)
			return
		}
		conn.Close()
	})
	return func() {
		h.Helper()
		end()
		if len(refused) > 0 {
			h.Errorf("%d connections were refused: %v", len(refused), errors.Join(refused[:min(3, len(refused))]...))
		}
	}
}
