// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestKill(t *testing.T) {
	h := newHost(t)
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	untouched := h.wantUntouched()
	h.wantOther(h.kill())
	h.check("pass")
	untouched()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "more", "--interface", dev)
	h.check("pass", "more")
	h.stop()
}

// A daemon that hangs is killed and started again.
func TestWatchdog(t *testing.T) {
	h := newHost(t)
	h.dropIn(daemonUnit, "[Service]\nWatchdogSec=10s\n")
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	untouched := h.wantUntouched()
	pid := h.pid()
	systemctl(h, "kill", "--signal=STOP", daemonUnit)
	h.wantOther(pid)
	h.wantLog("Watchdog timeout")
	h.check("pass")
	untouched()
	h.stop()
}

// A daemon that fails at each start is started again and again. What runs goes on; when the cause is gone the daemon adopts it by
// itself, and a stop removes it also while the cause is there.
func TestCrashLoop(t *testing.T) {
	h := newHost(t)
	h.dropIn(daemonUnit, "[Service]\nRestartSec=100ms\n")
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	untouched := h.wantUntouched()

	pid := h.crashLoop()
	untouched()
	h.unblock()
	h.wantOther(pid)
	h.check("pass")
	untouched()

	h.crashLoop()
	untouched()
	systemctl(h, "stop", mainUnit)
	for _, unit := range []string{mainUnit, daemonUnit} {
		// A start that was failing when it was stopped has failed.
		if got := property(h, unit, "ActiveState"); got != "inactive" && (unit != daemonUnit || got != "failed") {
			h.Errorf("%s is %s after the stop", unit, got)
		}
	}
	h.checkNothing()

	h.unblock()
	systemctl(h, "start", mainUnit)
	h.wantProperty(daemonUnit, "SubState", "running")
	h.stop()
}

// systemdsLimit is after how many starts within 10 s systemd gives a unit up, unless that says otherwise.
const systemdsLimit = 5

// crashLoop lets the daemon be killed and fail at each start, as something is in the place of its socket, more often than systemd
// takes from other units. It returns the id of the process that was killed.
func (h *host) crashLoop() int32 {
	h.Helper()
	const says = "there is something that is not a socket"
	h.unblock()
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		h.Fatal(err)
	}
	before := h.logged(says)
	pid := h.kill()
	fails := 0
	h.wait("more failed starts than systemd takes", func() bool {
		fails = h.logged(says) - before
		return fails > 2*systemdsLimit
	}, func() string { return fmt.Sprint(fails) })
	if got := property(h, mainUnit, "ActiveState"); got != "active" {
		h.Errorf("%s is %s while the daemon crashes, want active: its end is a stop", mainUnit, got)
	}
	if _, told := findEntry(h.log(), "Start request repeated too quickly"); told {
		h.Error("systemd has given the daemon up")
	}
	return pid
}

// logged is how many entries of the journal have a text.
func (h *host) logged(text string) (n int) {
	h.Helper()
	for _, e := range h.log() {
		if strings.Contains(e.Message, text) {
			n++
		}
	}
	return n
}

// unblock takes away what is in the place of the socket.
func (h *host) unblock() {
	h.Helper()
	if err := os.RemoveAll(socket); err != nil {
		h.Fatal(err)
	}
}

// TestStartHangs has a daemon that starts again after a crash and does not get on: systemd starts another one, and takes nothing
// off by that.
func TestStartHangs(t *testing.T) {
	h := newHost(t)
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	untouched := h.wantUntouched()
	h.dropIn(daemonUnit, "[Service]\nTimeoutStartSec=20s\n")
	var hangs int
	for hangs == 0 {
		hangs = h.stopInStart(h.kill())
	}
	h.wantOther(int32(hangs))
	h.wantLog("start operation timed out. Aborting.")
	h.check("pass")
	untouched()
	h.stop()
}

// stopInStart stops (SIGSTOP) the process that is started after the one that was killed, as soon as it has the store open, and
// returns its id. 0: it serves already, and goes on.
func (h *host) stopInStart(killed int32) int {
	h.Helper()
	pid := 0
	h.wait("the daemon to have its store open", func() bool {
		for until := time.Now().Add(time.Second); time.Now().Before(until); {
			procs, _ := os.ReadFile("/sys/fs/cgroup/system.slice/" + daemonUnit + "/cgroup.procs")
			if n, _ := fmt.Sscan(string(procs), &pid); n == 1 && pid != int(killed) && hasOpen(pid, "xdpd.db") {
				return true
			}
		}
		return false
	}, func() string { return property(h, daemonUnit, "SubState") })
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		h.Fatal(err)
	}
	if property(h, daemonUnit, "SubState") == "start" {
		return pid
	}
	if err := unix.Kill(pid, unix.SIGCONT); err != nil {
		h.Fatal(err)
	}
	h.wantOther(killed)
	return 0
}

// hasOpen tells whether a process has a file of that name open.
func hasOpen(pid int, name string) bool {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, _ := os.ReadDir(dir)
	for _, fd := range fds {
		if path, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && filepath.Base(path) == name {
			return true
		}
	}
	return false
}
