// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// checker is the process that checks whether it can take over; 0: there is none.
func (h *host) checker() (pid int) {
	h.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", h.d.cmd.Process.Pid))
	if err != nil {
		h.Fatal(err)
	}
	for _, task := range tasks {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", h.d.cmd.Process.Pid, task.Name()))
		if _, err := fmt.Sscan(string(children), &pid); err == nil {
			return pid
		}
	}
	return 0
}

// stateOf is the kernel's letter for what a process does, "T" only if all its threads stand still; "" if there is none.
func stateOf(pid int) (state string) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is a good one
	for _, thread := range threads {
		stat, err := os.ReadFile(thread)
		if err != nil {
			continue // it ended
		}
		if state = strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[0]; state != "T" {
			return state
		}
	}
	return state
}

// reachedPoint waits until the daemon, or the process that checks for it, stands still at a point, and returns which.
func (h *host) reachedPoint(point string) (pid int) {
	h.Helper()
	h.reloading("a process stands still at "+point, func() bool {
		if pid = h.d.cmd.Process.Pid; point == failpoint.ReloadCheck {
			pid = h.checker()
		}
		return pid != 0 && stateOf(pid) == "T"
	})
	return pid
}

// TestReloadStopped stops the daemon at each point of a reload. It stops as ever, whichever program hears of it; but where
// none does, which is between the last look of the one and the first of the other, the process ends at once, and
// what runs goes on, as after a kill.
func TestReloadStopped(t *testing.T) {
	points, signals := failpoint.Reload[:], map[string]syscall.Signal{"SIGTERM": unix.SIGTERM, "SIGINT": unix.SIGINT}
	if testing.Short() { // where the kernels might differ
		points = []string{failpoint.ReloadClosed, failpoint.ReloadDeaf, failpoint.ReloadTaken}
		delete(signals, "SIGINT")
	}
	for _, point := range points {
		for name, s := range signals {
			t.Run(point+" "+name, func(t *testing.T) {
				h := newReloadHost(t)
				h.start("XDPD_FAILPOINT=" + point + "=stop")
				h.do(adding(add("a", "pass", nettest.Dev)))
				h.Check()
				h.d.signal(unix.SIGHUP)
				pid := h.reachedPoint(point)
				h.d.signal(s)
				if point == failpoint.ReloadCheck {
					h.stopped() // it waits for nobody
					return
				}
				if err := unix.Kill(pid, unix.SIGCONT); err != nil {
					t.Fatal(err)
				}
				if point != failpoint.ReloadDeaf {
					h.stopped()
					return
				}
				if status := h.d.wait().Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != s {
					t.Errorf("the daemon ended with %v", h.d.ended)
				}
				h.send(nettest.Dev, 5)
				h.start()
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}

// TestReloadStoppedAnyTime stops the daemon at random moments of reloads, with further orders to reload around.
func TestReloadStoppedAnyTime(t *testing.T) {
	times := 20
	if testing.Short() {
		times = 3
	}
	h := newReloadHost(t)
	deaf := 0
	for range times {
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev)))
		h.Check()
		for range 1 + rand.IntN(3) {
			h.d.signal(unix.SIGHUP)
			time.Sleep(rand.N(60 * time.Millisecond)) // the moments are what is tried
		}
		h.d.signal(unix.SIGTERM)
		if status := h.d.wait().Sys().(syscall.WaitStatus); status.Signaled() && status.Signal() == unix.SIGTERM {
			deaf++
			h.send(nettest.Dev, 5)
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
			continue
		}
		h.stopped()
	}
	t.Logf("%d of %d stops came when nobody heard", deaf, times)
}

// TestReloadKilled kills the daemon at each point of a reload, and lets the program that takes over fail: the process
// ends, what runs goes on, and the next start finds it.
func TestReloadKilled(t *testing.T) {
	for _, point := range failpoint.Reload {
		for _, action := range []string{"kill", "error"} {
			if action == "error" && point != failpoint.ReloadTaken || point == failpoint.ReloadCheck || testing.Short() && point != failpoint.ReloadDeaf {
				continue
			}
			t.Run(point+" "+action, func(t *testing.T) {
				h := newReloadHost(t)
				h.start("XDPD_FAILPOINT=" + point + "=" + action)
				h.do(adding(add("a", "pass", nettest.Dev)))
				h.Check()
				before := h.chain(nettest.Dev).GetKernelId()
				h.d.signal(unix.SIGHUP)
				if action == "kill" {
					h.d.killed()
				} else if code := h.d.wait().ExitCode(); code != 1 || !strings.Contains(h.d.log.String(), "take over: failpoint") {
					t.Errorf("the daemon ended with %d", code)
				}
				h.send(nettest.Dev, 5)
				h.start()
				if after := h.chain(nettest.Dev).GetKernelId(); after != before {
					t.Errorf("the chain runs program %d now, and ran %d", after, before)
				}
				h.Check()
				h.stop(unix.SIGTERM)
			})
		}
	}
}

// TestReloadTwice orders a second reload while the first one is checked, at its end, and while the next program starts:
// each time there is another one after it.
func TestReloadTwice(t *testing.T) {
	points := []string{failpoint.ReloadTaken, failpoint.ReloadCheck, failpoint.ReloadClosed}
	if testing.Short() {
		points = points[:1]
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			h := newReloadHost(t)
			h.start("XDPD_FAILPOINT=" + point + "=stop")
			h.do(adding(add("a", "pass", nettest.Dev)))
			install := h.prepare(nil) // a check has not the time for it
			h.d.signal(unix.SIGHUP)
			pid := h.reachedPoint(point)
			h.d.signal(unix.SIGHUP)
			h.d.signal(unix.SIGHUP) // is the same order
			install()
			if err := unix.Kill(pid, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			pid = h.reachedPoint(point) // of the second
			if err := unix.Kill(pid, unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			h.logged(3, "msg=ready ")
			h.model.started()
			h.runsInstalled()
			h.Check()
			h.stop(unix.SIGTERM)
			if n := strings.Count(h.d.log.String(), "msg=ready "); n != 3 {
				t.Errorf("the daemon was ready %d times, want 3", n)
			}
		})
	}
}

// reloaded waits until no reload is under way or ordered.
func (h *host) reloaded() {
	h.Helper()
	last, since := -1, time.Now()
	h.eventually("no reload is under way", func() bool {
		log := h.d.log.String()
		begun, done := strings.Count(log, "msg=reloading "), strings.Count(log, "msg=ready ")-1 // the first is of the start
		if begun != last || begun != done || h.checker() != 0 {
			last, since = begun, time.Now()
		}
		return time.Since(since) > 5*time.Second // the look at the store, before a check, cannot be seen
	})
}

// TestReloadStorm orders reloads all the time, under clients: in the end one runs as ever.
func TestReloadStorm(t *testing.T) {
	h := newReloadHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	callers := h.callers(5)
	times := 50
	if testing.Short() {
		times = 10
	}
	for range times {
		h.d.signal(unix.SIGHUP)
		time.Sleep(rand.N(30 * time.Millisecond)) // the moments are what is tried
	}
	callers.more(h, 50)
	callers.stop()
	h.reloaded()
	h.reload()
	h.Check()
	h.stop(unix.SIGTERM)
}
