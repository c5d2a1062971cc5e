// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestStopWhilePending stops a daemon with each change waiting to be confirmed: what comes back at the next start
// is what was there before the change, with new maps.
func TestStopWhilePending(t *testing.T) {
	h := newTrialHost(t)
	for _, tr := range someTrials() {
		before := h.picture(false)
		h.try(tr, time.Hour)
		h.note() // what is kept for undoing it too is to be gone
		h.stop(unix.SIGTERM)
		h.start()
		if after := h.picture(false); after != before {
			t.Errorf("%s, then a stop: there is\n%s\nthere was\n%s", tr.name, after, before)
		}
		h.learn()
		h.Check()
		if t.Failed() {
			return
		}
	}
	h.stop(unix.SIGTERM)
}

// TestRebootWhilePending kills a daemon with a change that waits to be confirmed, and starts it as after a reboot: what
// comes back is what was there before the change.
func TestRebootWhilePending(t *testing.T) {
	for _, tr := range []trial{trials[0], trials[3], trials[7]} {
		t.Run(tr.name, func(t *testing.T) {
			h := newTrialHost(t)
			before := h.picture(false)
			h.try(tr, time.Hour)
			h.note()
			h.d.kill()
			if err := os.RemoveAll(h.pins); err != nil {
				t.Fatal(err)
			}
			h.nothingLeft()
			h.boot("b0070000-0000-4000-8000-000000000001\n")
			h.start()
			if after := h.picture(false); after != before {
				t.Errorf("there is\n%s\nthere was\n%s", after, before)
			}
			h.learn()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// TestRemovedWhilePending removes a program from its last place until that is confirmed, and looks that it is not said
// to be unknown to whoever would change it.
func TestRemovedWhilePending(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", second)))
	removed, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Options: within(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	for name, send := range map[string]func() error{
		"removal": func() error {
			_, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a"})
			return err
		},
		"replacement": func() error {
			_, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "a", Function: "drop"})
			return err
		},
		"update": func() error {
			_, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "a", Enabled: ptr(false)}}})
			return err
		},
		"apply": func() error {
			_, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{Chains: []*xdpdv1.ChainSpec{chainOf(second, "a", "b")}})
			return err
		},
	} {
		err := send()
		if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING || client.Facts(err)["program"] != "a" {
			t.Errorf("%s: %v %v, want one about a pending change of program a", name, err, client.Facts(err))
		}
	}
	h.cancelled(h.watch(""), removed.GetChange().GetPending().GetId())
	h.learn()
	h.do(removing("a"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestOthersWait makes a change that waits to be confirmed, and looks that nobody changes what it changed, and
// that everything else can be changed.
func TestOthersWait(t *testing.T) {
	h := newHost(t, second, third)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", second)), adding(add("c", "goon", third)))
	h.learn()
	object := h.object("a")
	remove := &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{nettest.Dev}, Options: within(time.Hour)}
	answer, err := h.client.RemoveProgram(h.ctx(), remove)
	if err != nil {
		t.Fatal(err)
	}
	id := answer.GetChange().GetPending().GetId()
	picture := h.picture(true)
	for name, c := range map[string]struct {
		about string // "interface xdev0"
		send  func() error
	}{
		"add": {"interface " + nettest.Dev, func() error { _, err := h.client.AddProgram(h.ctx(), add("n", "pass", third, nettest.Dev)); return err }},
		"add with confirm": {"interface " + nettest.Dev, func() error {
			r := add("n", "pass", nettest.Dev)
			r.Options = within(time.Minute)
			_, err := h.client.AddProgram(h.ctx(), r)
			return err
		}},
		"add, dry": {"interface " + nettest.Dev, func() error {
			r := add("n", "pass", nettest.Dev)
			r.Options = &xdpdv1.ChangeOptions{DryRun: true}
			_, err := h.client.AddProgram(h.ctx(), r)
			return err
		}},
		"add of what was removed": {"program a", func() error { _, err := h.client.AddProgram(h.ctx(), add("a", "pass", third)); return err }},
		"removal of its last place": {"program a", func() error {
			_, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a"})
			return err
		}},
		"replacement": {"program a", func() error {
			_, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: "a", Function: "drop"})
			return err
		}},
		"apply": {"interface " + nettest.Dev, func() error {
			_, err := h.client.SetChains(h.ctx(), &xdpdv1.SetChainsRequest{
				Programs: []*xdpdv1.ProgramSpec{{Name: "n", ObjectSha256: object, Function: "drop"}},
				Chains:   []*xdpdv1.ChainSpec{chainOf(nettest.Dev, "n"), chainOf(third, "c", "n")},
			})
			return err
		}},
		"rollback": {"interface " + nettest.Dev, func() error {
			_, err := h.client.Rollback(h.ctx(), &xdpdv1.RollbackRequest{Interface: nettest.Dev})
			return err
		}},
	} {
		err := c.send()
		f := client.Facts(err)
		kind, about, _ := strings.Cut(c.about, " ")
		until, terr := time.Parse(time.RFC3339, f["until"])
		if status.Code(err) != codes.FailedPrecondition || client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_CHANGE_PENDING ||
			f["change"] != strconv.FormatUint(id, 10) || f["uid"] != "0" || f["pid"] != strconv.Itoa(os.Getpid()) || f[kind] != about ||
			terr != nil || time.Until(until) > time.Hour+time.Second || time.Until(until) < 50*time.Minute {
			t.Errorf("%s: %v %v, want one about %s", name, err, f, c.about)
		}
		if now := h.picture(true); now != picture {
			t.Fatalf("%s: there is\n%s\nthere was\n%s", name, now, picture)
		}
	}
	// What it has nothing to do with can be changed.
	if _, err := h.client.AddProgram(h.ctx(), add("free", "pass", third)); err != nil {
		t.Error(err)
	}
	if _, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Position: first}}}); err != nil {
		t.Error(err)
	}
	h.cancelled(h.watch(""), id)
	h.learn()
	h.Check()
	h.do(removing("a"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestPendingOnTwoInterfaces lets two changes wait at the same time: what becomes of the one is nothing to the other.
func TestPendingOnTwoInterfaces(t *testing.T) {
	h := newHost(t, second, third)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second, third)))
	h.learn()
	w := h.watch("")
	adds := map[string]time.Duration{nettest.Dev: 2 * time.Second, second: time.Second, third: time.Hour}
	ids := map[string]uint64{}
	for iface, d := range adds {
		r := add("on-"+iface, "goon", iface)
		r.Options = within(d)
		a, err := h.client.AddProgram(h.ctx(), r)
		if err != nil {
			t.Fatal(err)
		}
		ids[iface] = a.GetChange().GetPending().GetId()
	}
	for _, c := range h.chains() {
		over := c.GetPending() == nil && c.GetInterface() != third // which may be so already
		if !over && c.GetPending().GetId() != ids[c.GetInterface()] {
			t.Errorf("%s waits for %v, want %d", c.GetInterface(), c.GetPending(), ids[c.GetInterface()])
		}
	}
	if n := len(slices.Compact(slices.Sorted(maps.Values(ids)))); n != len(ids) {
		t.Errorf("the changes have the numbers %v", ids)
	}
	h.expired(w, ids[second], ids[nettest.Dev])
	if _, err := h.client.Confirm(h.ctx(), &xdpdv1.ConfirmRequest{Id: ids[third]}); err != nil {
		t.Error(err)
	}
	want := fmt.Sprint(map[string]int{nettest.Dev: 1, second: 1, third: 2})
	got := map[string]int{}
	for _, c := range h.chains() {
		got[c.GetInterface()] = len(c.GetMembers())
	}
	if fmt.Sprint(got) != want {
		t.Errorf("there are so many members: %v, want %s", got, want)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestInterfaceGoneWhilePending deletes an interface on which a change waits to be confirmed. It is undone all the
// same, when its time is up or by a cancel.
func TestInterfaceGoneWhilePending(t *testing.T) {
	for _, by := range []string{"cancel", "time", "start"} {
		t.Run("undone by "+by, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, second)
			h.start("XDPD_FAILPOINT=" + failpoint.UnpinAfter + "=stop@4") // when the third change is made on both
			h.do(adding(persistent(add("a", "pass", nettest.Dev))), adding(persistent(add("b", "goon", second))))
			h.learn()
			w := h.watch("")
			before := h.picture(true)
			r := persistent(add("n", "drop", nettest.Dev, second))
			r.Options = within(map[string]time.Duration{"cancel": time.Hour, "time": time.Second, "start": time.Second}[by])
			id := h.meanwhile(r, func() { h.unplug(second) })
			switch by {
			case "cancel":
				h.cancelled(w, id)
			case "time":
				h.expired(w, id)
			case "start":
				h.d.kill()
				h.waitUntil(h.deadline(time.Second))
				h.start()
				h.unknown(id)
			}
			if after := h.picture(true); after != before {
				t.Errorf("there is\n%s\nthere was\n%s", after, before)
			}
			h.ns.AddPair(t, second, second+"p")
			h.plug(second, second+"p")
			if _, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Priority: ptr(int32(9))}}}); err != nil {
				t.Error(err)
			}
			h.learn()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// sleeps is set in a process that is to become the daemon it names, in a time namespace in which so many seconds more
// have passed since boot: "SECONDS PATH".
const sleeps = "XDPD_E2E_SLEPT"

func init() {
	seconds, path, ok := strings.Cut(os.Getenv(sleeps), " ")
	if !ok {
		return
	}
	// The namespace is that of the next program that this process becomes.
	err := errors.Join(os.Unsetenv(sleeps), unix.Unshare(unix.CLONE_NEWTIME))
	if err == nil {
		err = os.WriteFile("/proc/self/timens_offsets", []byte("boottime "+seconds+" 0\n"), 0)
	}
	if err == nil {
		err = syscall.Exec(path, append([]string{path}, os.Args[1:]...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, "become a program in a time namespace:", err)
	os.Exit(1)
}

// TestHostSlept kills a daemon with a change that waits to be confirmed, and starts it where more time has passed
// since boot, as if the host had slept: the change is undone before the daemon serves.
func TestHostSlept(t *testing.T) {
	if inVM() {
		t.Log("older kernels put only children into a time namespace, and no process that becomes another program: it is tried on this machine's kernel only")
		return
	}
	for _, c := range []struct {
		slept  time.Duration
		undone bool
	}{{2 * time.Hour, true}, {30 * time.Minute, false}} {
		t.Run(c.slept.String(), func(t *testing.T) {
			h := newTrialHost(t)
			before := h.picture(true)
			id := h.try(trials[3], time.Hour)
			h.d.kill()
			h.startAfterSleep(c.slept)
			if !c.undone {
				if p := h.chain(nettest.Dev).GetPending(); p.GetId() != id || p.GetLeft().AsDuration() > 30*time.Minute || p.GetLeft().AsDuration() < 20*time.Minute {
					t.Errorf("after a sleep of %v of an hour %v", c.slept, p)
				}
				h.cancelled(h.watch(""), id)
			}
			h.unknown(id)
			if after := h.picture(true); after != before {
				t.Errorf("there is\n%s\nthere was\n%s", after, before)
			}
			h.learn()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// startAfterSleep is start where more time has passed since boot.
func (h *host) startAfterSleep(slept time.Duration) {
	h.Helper()
	exe, err := os.Executable()
	if err == nil {
		err = os.Symlink(exe, filepath.Join(h.dir, "xdpd"))
	}
	if err != nil {
		h.Fatal(err)
	}
	daemon := filepath.Join(binDir, "xdpd")
	defer func(dir string) { binDir = dir }(binDir)
	binDir = h.dir
	h.start(fmt.Sprintf("%s=%d %s", sleeps, int(slept.Seconds()), daemon))
}

// TestWallClock sets the clock of the host while changes wait to be confirmed, which is nothing to them.
func TestWallClock(t *testing.T) {
	if !inVM() {
		t.Log("the clock of this machine is left alone: it is tried in VMs")
		return
	}
	h := newTrialHost(t)
	w := h.watch("")
	for _, jump := range []time.Duration{48 * time.Hour, -48 * time.Hour} {
		id := h.try(trials[0], time.Hour)
		setClock(t, jump)
		p := h.chain(third).GetPending()
		if left := p.GetLeft().AsDuration(); left > time.Hour || left < 50*time.Minute {
			t.Errorf("after a jump by %v the change is undone in %v", jump, left)
		}
		if until := time.Until(p.GetUntil().AsTime()); until > time.Hour || until < 50*time.Minute {
			t.Errorf("after a jump by %v the change is undone at %v, in %v", jump, p.GetUntil().AsTime(), until)
		}
		h.cancelled(w, id)
		id = h.try(trials[0], time.Second)
		setClock(t, -jump)
		h.expired(w, id)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

func setClock(t *testing.T, by time.Duration) {
	t.Helper()
	tv := unix.NsecToTimeval(time.Now().Add(by).UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		t.Fatal(err)
	}
}

// inVM tells whether this is a VM of test/vm/run, where nothing but the tests runs.
func inVM() bool {
	cmdline, err := os.ReadFile("/proc/1/cmdline")
	return err == nil && strings.Contains(string(cmdline), "sh\x00/init")
}
