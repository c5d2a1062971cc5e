// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"fmt"
	"os"
	"path/filepath"
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

// A daemon that fails at each start is given up by systemd. What runs goes on, a start adopts it, and a stop removes it.
func TestCrashLoop(t *testing.T) {
	h := newHost(t)
	h.dropIn(daemonUnit, "[Unit]\nStartLimitIntervalSec=1h\n[Service]\nRestartSec=100ms\n") // the limit is found on a slow machine too
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	untouched := h.wantUntouched()

	h.crashLoop()
	systemctl(h, "reset-failed", daemonUnit)
	h.unblock()
	h.start()
	h.check("pass")

	h.crashLoop()
	untouched()
	systemctl(h, "stop", mainUnit)
	h.checkNothing()

	// The restarts are used up: a new start counts anew.
	h.unblock()
	systemctl(h, "start", mainUnit)
	h.wantProperty(daemonUnit, "SubState", "running")
	h.stop()
}

// crashLoop lets the daemon be killed and fail at each start, as something is in the place of its socket, until systemd
// gives it up.
func (h *host) crashLoop() {
	h.Helper()
	h.unblock()
	if err := os.WriteFile(socket, nil, 0o600); err != nil {
		h.Fatal(err)
	}
	h.kill()
	h.wantProperty(daemonUnit, "ActiveState", "failed")
	if got := property(h, mainUnit, "ActiveState"); got != "active" {
		h.Errorf("%s is %s while the daemon crashes, want active: its end is a stop", mainUnit, got)
	}
	h.wantLog("there is something that is not a socket")
	h.wantLog("Start request repeated too quickly")
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
	h.dropIn(daemonUnit, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nTimeoutStartSec=20s\n")
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
