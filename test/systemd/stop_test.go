// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"fmt"
	"os"
	"testing"
)

func TestStop(t *testing.T) {
	h := newHost(t)
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	h.stop()
	h.wantLog("stopped; nothing is left in the kernel")
}

func TestRestart(t *testing.T) {
	h := newHost(t)
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "back", "--interface", dev, "--lifetime", "persistent")
	h.xdpctl("add", object("verdict"), "--function", "pass", "--name", "gone", "--interface", dev)
	h.check("back", "gone")
	pid := h.pid()
	systemctl(h, "restart", mainUnit)
	h.wantOther(pid)
	h.wantLog("stopped; nothing is left in the kernel")
	h.check("back")
	h.stop()
}

// A daemon that was killed and not started again yet cannot remove anything: teardown does, also if the daemon could not
// start again with the configuration as it is now.
func TestStopOfDead(t *testing.T) {
	h := newHost(t)
	h.dropIn(daemonUnit, "[Service]\nRestartSec=1h\n")
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	untouched := h.wantUntouched()
	h.kill()
	h.wantProperty(daemonUnit, "SubState", "auto-restart")
	untouched()
	h.configure("linker: never\n")
	systemctl(h, "stop", mainUnit)
	for _, unit := range []string{mainUnit, daemonUnit} {
		if got := property(h, unit, "ActiveState"); got != "inactive" {
			h.Errorf("%s is %s after the stop", unit, got)
		}
	}
	h.checkNothing()
	if _, err := run("systemctl", "start", daemonUnit); err == nil {
		h.Error("a start with that configuration is told to be well")
	}
}

// A daemon that does not hear SIGTERM is killed, and teardown removes what it left.
func TestStopOfDeaf(t *testing.T) {
	h := newHost(t)
	h.dropIn(daemonUnit, "[Service]\nTimeoutStopSec=5s\n")
	h.start()
	h.xdpctl("add", object("verdict"), "--function", "pass", "--interface", dev)
	h.check("pass")
	h.freeze()
	systemctl(h, "stop", mainUnit)
	if got, want := h.units(), "success 0 inactive, timeout 9 failed"; got != want {
		h.Errorf("after the stop the units are %s; want %s", got, want)
	}
	h.checkNothing()
}

// freeze makes the daemon deaf to every signal but SIGKILL. A process that is only stopped would hear systemd, which lets
// it go on; and systemd thaws the cgroup of a unit that it stops, but not one below.
func (h *host) freeze() {
	h.Helper()
	group := "/sys/fs/cgroup" + property(h, daemonUnit, "ControlGroup") + "/frozen"
	err := os.Mkdir(group, 0o755)
	if err == nil {
		err = os.WriteFile(group+"/cgroup.procs", fmt.Append(nil, h.pid()), 0)
	}
	if err == nil {
		err = os.WriteFile(group+"/cgroup.freeze", []byte("1"), 0)
	}
	if err != nil {
		h.Fatal(err)
	}
}
