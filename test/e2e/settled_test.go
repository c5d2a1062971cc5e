// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// awaited is an xdpctl that waits for what becomes of a change.
type awaited struct {
	*running
	id uint64
}

// wait begins a change with xdpctl, up to where it waits to be confirmed.
func (h *host) wait(args ...string) awaited {
	h.Helper()
	w := h.watch("")
	defer w.end()
	r := h.begin(append(args, "--confirm-within", "1h")...)
	id := w.await("confirm_pending").GetConfirmPending().GetId()
	h.eventually("xdpctl waits", func() bool { return strings.Contains(r.stderr.String(), "waiting for xdpctl confirm") })
	return awaited{r, id}
}

// asleep does something that xdpctl does not see: it is not told when it goes on. The daemon is another one then.
func (a awaited) asleep(do func()) {
	a.Helper()
	a.signal(unix.SIGSTOP)
	a.d.kill()
	a.start()
	do()
	a.signal(unix.SIGCONT)
}

func (a awaited) signal(s os.Signal) {
	a.Helper()
	if err := a.cmd.Process.Signal(s); err != nil {
		a.Fatalf("send %v to xdpctl: %v", s, err)
	}
}

func (a awaited) cancelIt() {
	a.Helper()
	if _, err := a.client.Cancel(a.ctx(), &xdpdv1.CancelRequest{Id: a.id}); err != nil {
		a.Fatal(err)
	}
}

func (a awaited) confirmIt() {
	a.Helper()
	if _, err := a.client.Confirm(a.ctx(), &xdpdv1.ConfirmRequest{Id: a.id}); err != nil {
		a.Fatal(err)
	}
}

// TestSettledUnseen settles changes while xdpctl, which waits for that, cannot see it. It says that a change stays only
// if it does.
func TestSettledUnseen(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(persistent(add("a", "pass", nettest.Dev))), adding(persistent(add("b", "pass", second))), adding(persistent(add("c", "goon", second))))
	// The first interface has this chain already.
	apply := []string{"apply", "-f", h.write("chains.yaml", fmt.Appendf(nil, "chains: {%s: {members: [a]}, %s: {members: [c, b]}}\n", nettest.Dev, second))}
	lifetime := []string{"apply", "-f", h.write("lifetime.yaml", fmt.Appendf(nil, "programs: {a: {lifetime: daemon}}\nchains: {%s: {members: [a]}}\n", nettest.Dev))}
	remove := []string{"rm", "a"}
	const unknown, stays = "does not wait to be confirmed any more", "is confirmed and stays"
	for _, c := range []struct {
		name string
		args []string
		do   func(a awaited)
		code int
		says string
	}{
		{"one of two interfaces changed, cancelled", apply, awaited.cancelIt, 1, unknown},
		{"one of two interfaces changed, confirmed", apply, awaited.confirmIt, 0, stays},
		{"only a lifetime, cancelled", lifetime, awaited.cancelIt, 1, unknown},
		{"a removal, cancelled", remove, awaited.cancelIt, 1, unknown},
		{"a removal, cancelled and made by another", remove, func(a awaited) {
			a.cancelIt()
			a.ctl(0, "rm", "a")
			a.ctl(0, "rollback", nettest.Dev)
			a.ctl(0, "rm", "a")
		}, 1, unknown},
	} {
		a := h.wait(c.args...)
		a.asleep(func() { c.do(a) })
		r := a.end()
		if r.code != c.code || !strings.Contains(r.stdout+r.stderr, fmt.Sprintf("change %d %s", a.id, c.says)) {
			t.Errorf("%s: exit %d, %s%s", c.name, r.code, r.stdout, r.stderr)
		}
	}
	h.ctl(0, "rollback", nettest.Dev)

	// A removal that is confirmed leaves no revision, and stays.
	a := h.wait(remove...)
	a.asleep(a.confirmIt)
	if r := a.end(); r.code != 0 || !strings.Contains(r.stdout, stays) {
		t.Errorf("a removal, confirmed: exit %d, %s%s", r.code, r.stdout, r.stderr)
	}
	h.ctl(0, "rollback", nettest.Dev)

	// A change that still waits when xdpctl is back is waited for, whatever it is.
	for name, args := range map[string][]string{"only a lifetime": lifetime, "a removal": remove} {
		a := h.wait(args...)
		a.asleep(func() {})
		h.eventually("xdpctl is back", func() bool { return strings.Contains(a.stderr.String(), "the daemon is back") })
		h.ctl(0, "cancel", fmt.Sprint(a.id))
		if r := a.end(); r.code != 1 || !strings.Contains(r.stderr, "was cancelled") && !strings.Contains(r.stderr, unknown) {
			t.Errorf("%s: exit %d, %s%s", name, r.code, r.stdout, r.stderr)
		}
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestInterruptDuringChange sends Ctrl-C to xdpctl after the daemon saved the change and before it answers: the change
// is undone as soon as there is an answer. A second Ctrl-C ends xdpctl, and leaves the change to the daemon.
func TestInterruptDuringChange(t *testing.T) {
	for _, often := range []int{1, 2} {
		t.Run(fmt.Sprint(often), func(t *testing.T) {
			h := newHost(t)
			h.start()
			h.do(adding(add("a", "pass", nettest.Dev)), adding(add("b", "goon", nettest.Dev)))
			before := h.picture(true)
			h.d.kill()
			h.start("XDPD_FAILPOINT=save.after=stop")
			w := h.watch("")
			a := awaited{running: h.begin("set", "b", "--interface", nettest.Dev, "--first", "--confirm-within", "1h")}
			h.eventually("the daemon stands still", func() bool { return h.state() == "T" })
			a.signal(os.Interrupt)
			h.eventually("xdpctl says what it does", func() bool { return strings.Contains(a.stderr.String(), "interrupted: the change is undone") })
			if often == 2 {
				h.eventually("the second Ctrl-C ends xdpctl", func() bool {
					_ = a.cmd.Process.Signal(os.Interrupt) // it may have ended
					select {
					case <-a.done:
						return true
					default:
						return false
					}
				})
				h.d.signal(unix.SIGCONT)
				a.id = w.await("confirm_pending").GetConfirmPending().GetId()
				a.cancelIt()
			} else {
				h.d.signal(unix.SIGCONT)
				r := a.end()
				if r.code != 1 || !strings.Contains(r.stderr, "was cancelled") {
					t.Errorf("exit %d, %s%s", r.code, r.stdout, r.stderr)
				}
				if e := w.await("reverted"); e.GetReverted().GetExpired() {
					t.Errorf("the watch says %v", e)
				}
			}
			if after := h.picture(true); after != before {
				t.Errorf("there is\n%s\nthere was\n%s", after, before)
			}
			h.learn()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}
