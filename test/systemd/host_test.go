// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// patience is how long anything may take; a VM without hardware help on a busy machine is slow.
const patience = 4 * time.Minute

const (
	mainUnit   = "xdpd.service"        // what an administrator starts and stops
	daemonUnit = "xdpd-daemon.service" // the process
	pins       = "/sys/fs/bpf/xdpd"
	state      = "/var/lib/xdpd"
	config     = "/etc/xdpd/config.yaml"
	socket     = client.DefaultSocket
)

// host is the machine of one test, which begins and ends with xdpd installed, stopped and without anything stored.
type host struct {
	testing.TB
	client  *client.Client
	since   string   // argument of journalctl: when the test began
	dropIns []string // files
	leave   bool     // leave everything for the next boot
}

// newHost gives a test the machine, with a veth pair that has no program on it.
func newHost(t testing.TB) *host {
	t.Helper()
	h := &host{TB: t, since: "--after-cursor=" + journalEnd(t)}
	t.Cleanup(h.cleanup)
	addPair(t)
	h.dial()
	return h
}

// resume gives a test the machine as it was booted, with what the boot before left on the disk.
func resume(t testing.TB) *host {
	t.Helper()
	h := &host{TB: t, since: "--boot"}
	t.Cleanup(h.cleanup)
	waitForPair(t)
	h.start()
	h.dial()
	return h
}

// next lets the machine be rebooted, or cut off from power, when all tests of this boot went well, with everything as it is now.
func (h *host) next(what int) { wanted, h.leave = what, true }

// dial opens the client that the test speaks to the daemon with.
func (h *host) dial() {
	h.Helper()
	c, err := client.Dial(socket)
	if err != nil {
		h.Fatal(err)
	}
	h.client = c
	h.Cleanup(func() { c.Close() })
}

// cleanup brings the machine back, and shows what happened if the test failed.
func (h *host) cleanup() {
	if h.Failed() {
		out, _ := run("systemctl", "status", "--no-pager", "--lines=0", mainUnit, daemonUnit) // its status is that of the units
		h.Logf("%s\nthe journal:\n%s", out, h.journal())
	}
	if h.leave && !h.Failed() {
		return
	}
	h.wipe()
	if !h.Failed() {
		h.checkNothing()
	}
	removePair(h)
}

// wipe stops xdpd and takes away what it stored and how a test configured it.
func (h *host) wipe() {
	h.Helper()
	systemctl(h, "stop", mainUnit)
	for _, path := range append(h.dropIns, state) {
		if err := os.RemoveAll(path); err != nil {
			h.Fatal(err)
		}
	}
	h.configure("")
	if len(h.dropIns) > 0 {
		systemctl(h, "daemon-reload")
	}
}

// configure writes the daemon's configuration.
func (h *host) configure(text string) {
	h.Helper()
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		h.Fatal(err)
	}
}

// dropIn adds lines to a unit, as `systemctl edit` does.
func (h *host) dropIn(unit, text string) {
	h.Helper()
	folder := "/run/systemd/system/" + unit + ".d"
	if err := os.MkdirAll(folder, 0o755); err != nil {
		h.Fatal(err)
	}
	file, err := os.CreateTemp(folder, "*.conf")
	if err == nil {
		_, err = file.WriteString(text)
		err = errors.Join(err, file.Chmod(0o644), file.Close())
	}
	if err != nil {
		h.Fatal(err)
	}
	h.dropIns = append(h.dropIns, file.Name())
	systemctl(h, "daemon-reload")
}

// start starts xdpd and waits until it is ready.
func (h *host) start() {
	h.Helper()
	systemctl(h, "start", daemonUnit)
}

// ctx is for one request.
func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	h.Cleanup(cancel)
	return ctx
}

// run runs a command and returns what it printed; the error has that too.
func run(name string, args ...string) (string, error) {
	return runAs(nil, name, args...)
}

// xdpctl runs the command line, which must succeed.
func (h *host) xdpctl(args ...string) string {
	h.Helper()
	out, err := run("xdpctl", args...)
	if err != nil {
		h.Fatal(err)
	}
	return out
}

// refused runs the command line, which must be refused with that status; it returns what it says.
func (h *host) refused(status int, args ...string) string {
	h.Helper()
	out, err := run("xdpctl", args...)
	h.wantStatus(err, status)
	return out
}

func (h *host) wantStatus(err error, status int) {
	h.Helper()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		h.Fatalf("got %v, want exit status %d", err, status)
	}
}

func systemctl(t testing.TB, args ...string) {
	t.Helper()
	if _, err := run("systemctl", args...); err != nil {
		t.Fatal(err)
	}
}

// property asks systemd for a property of a unit.
func property(t testing.TB, unit, name string) string {
	t.Helper()
	out, err := run("systemctl", "show", "--value", "--property", name, unit)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// wantProperty waits until a property of a unit, which is to stay then, has that value.
func (h *host) wantProperty(unit, name, want string) {
	h.Helper()
	var got string
	h.wait(fmt.Sprintf("%s of %s to be %s", name, unit, want), func() bool {
		got = property(h, unit, name)
		return got == want
	}, func() string { return got })
}

// wait waits until something is so; now says what is so instead.
func (h *host) wait(what string, so func() bool, now func() string) {
	h.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("waited %v for %s: it is %s", patience, what, now())
		}
	}
}

// meanwhile calls look again and again, until the function that it returns is called or the test ends.
func (h *host) meanwhile(look func()) (end func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-time.After(20 * time.Millisecond):
				look()
			}
		}
	}()
	end = sync.OnceFunc(func() { close(quit); <-done })
	h.Cleanup(end)
	return end
}

// pid is the process id of the daemon.
func (h *host) pid() int32 {
	h.Helper()
	return h.status().GetPid()
}

// kill kills the daemon so that it cannot do anything about it, and returns its process id.
func (h *host) kill() int32 {
	h.Helper()
	pid := h.pid()
	systemctl(h, "kill", "--signal=KILL", daemonUnit)
	return pid
}

// wantOther waits until the daemon serves as another process than that one.
func (h *host) wantOther(pid int32) {
	h.Helper()
	said := ""
	h.wait(fmt.Sprintf("another process than %d to serve", pid), func() bool {
		got, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		said = fmt.Sprint(got.GetPid(), err)
		return err == nil && got.GetPid() != pid
	}, func() string { return said })
	if now := property(h, daemonUnit, "MainPID"); now != fmt.Sprint(h.pid()) {
		h.Errorf("systemd says that the daemon is %s, it says %d", now, h.pid())
	}
}

// wantStopped checks that both units are as after a stop that went well.
func (h *host) wantStopped() {
	h.Helper()
	if got, want := h.units(), "success 0 inactive, success 0 inactive"; got != want {
		h.Errorf("after the stop the units are %s; want %s", got, want)
	}
	h.checkNothing()
}

// units tells how both units are: their results, how their processes ended, and their states.
func (h *host) units() string {
	h.Helper()
	var all []string
	for _, unit := range []string{mainUnit, daemonUnit} {
		out, err := run("systemctl", "show", "--value", "--property=Result,ExecMainStatus,ActiveState", unit)
		if err != nil {
			h.Fatal(err)
		}
		all = append(all, strings.Join(strings.Fields(out), " "))
	}
	return strings.Join(all, ", ")
}

// stop stops xdpd and checks that nothing is left.
func (h *host) stop() {
	h.Helper()
	systemctl(h, "stop", mainUnit)
	h.wantStopped()
}

// object is the path of an object of the tests of the daemon.
func object(name string) string { return filepath.Join("testdata", name+".bpf.o") }

// replaceFile puts a file in the place of another one as an installation does: in one step.
func (h *host) replaceFile(path string, content []byte, mode fs.FileMode) {
	h.Helper()
	err := os.WriteFile(path+".new", content, mode)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		h.Fatal(err)
	}
}
