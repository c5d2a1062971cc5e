// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// TestLeaseOverKill kills the daemon, and starts it again. A client holds its lease again by itself. One that went meanwhile
// does not, and its programs last as long as the configuration or its grace says.
func TestLeaseOverKill(t *testing.T) {
	t.Run("the client is there", func(t *testing.T) {
		t.Parallel()
		h, _ := newLeaseHost(t)
		l, _ := h.holds(client.HoldOptions{})
		h.rent(l.Token())
		h.Check()
		for range 2 {
			h.d.kill()
			h.send(second, 5) // the programs of the lease are at work
			h.start()
			h.eventually("the client holds its lease again", h.held)
			h.rented(true)
			h.Check()
		}
		failIf(t, l.Err())
		h.stop(unix.SIGTERM)
	})
	for name, c := range map[string]struct {
		renewal string
		grace   time.Duration
		least   time.Duration
	}{
		"the client went":              {"1s", 0, time.Second},
		"the client went, with grace":  {"0s", 2 * time.Second, 2 * time.Second},
		"the client went, no patience": {"0s", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, before := newLeaseHost(t, "lease_renewal: "+c.renewal)
			l, _ := h.holds(client.HoldOptions{Grace: c.grace})
			h.rent(l.Token())
			h.d.kill()
			l.Close()
			begin := time.Now()
			h.start()
			h.eventually("the lease has ended", func() bool { return len(h.leases()) == 0 })
			if took := time.Since(begin); took < c.least {
				t.Errorf("the lease ended after %v", took)
			}
			h.over(before, l.Token())
			h.stop(unix.SIGTERM)
		})
	}
}

// TestLeaseTakeover hands a lease from one client to another, which nothing of the chains sees.
func TestLeaseTakeover(t *testing.T) {
	h, before := newLeaseHost(t)
	r, token := h.lessee("--grace", anHour.String())
	h.rent(token)
	imprint := h.takeImprint()
	l, _ := h.holds(client.HoldOptions{Token: token, Grace: anHour})
	end := r.end()
	if end.code != 128+int(unix.SIGTERM) || !strings.Contains(end.stderr, "LEASE_TAKEN") || !strings.Contains(end.stderr, fmt.Sprintf("pid: %d", os.Getpid())) {
		t.Errorf("the first client: %+v", end)
	}
	if v := h.rented(true); v.GetHolder().GetPid() != int32(os.Getpid()) {
		t.Errorf("the lease is %v", v)
	}
	next, _ := h.holds(client.HoldOptions{Token: token, Grace: anHour})
	select {
	case <-l.Lost():
	case <-time.After(patience):
		t.Fatal("the second client did not lose the lease")
	}
	if err := l.Err(); client.Reason(err) != leaseTaken || client.Facts(err)["uid"] != fmt.Sprint(os.Getuid()) {
		t.Errorf("the second client lost the lease by %v %v", err, client.Facts(err))
	}
	if err := l.Release(t.Context()); client.Reason(err) != leaseTaken { // it has nothing to release
		t.Errorf("release of what another has: %v", err)
	}
	h.rented(true)
	if now := h.takeImprint(); now != imprint {
		t.Errorf("there is\n%s\nthere was\n%s", now, imprint)
	}
	h.Check()
	failIf(t, next.Release(t.Context()))
	h.over(before, token)
	h.stop(unix.SIGTERM)
}

// TestLeaseReload replaces the process of the daemon: clients hold their leases again, and nothing is removed meanwhile.
func TestLeaseReload(t *testing.T) {
	h, before := newLeaseHost(t)
	l, _ := h.holds(client.HoldOptions{Grace: anHour})
	r, other := h.lessee("--grace", anHour.String())
	h.rent(l.Token())
	imprint := h.takeImprint()
	for range 3 {
		h.reload()
		h.eventually("both clients hold their leases again", func() bool {
			return !slices.ContainsFunc(h.leases(), func(l *xdpdv1.Lease) bool { return !l.GetHeld() })
		})
		if n := len(h.leases()); n != 2 {
			t.Fatalf("there are %d leases", n)
		}
		if now := h.takeImprint(); now != imprint {
			t.Errorf("there is\n%s\nthere was\n%s", now, imprint)
		}
	}
	h.learn()
	h.Check()
	failIf(t, r.cmd.Process.Signal(unix.SIGTERM))
	r.end()
	failIf(t, l.Release(t.Context()))
	h.over(before, other)
	h.stop(unix.SIGTERM)
}

// TestLeaseStop stops a daemon with leases, also one whose client is there, and reboots: leases and their programs are gone.
func TestLeaseStop(t *testing.T) {
	for _, how := range []string{"stop", "teardown", "reboot"} {
		t.Run(how, func(t *testing.T) {
			h, _ := newLeaseHost(t)
			l, _ := h.holds(client.HoldOptions{Grace: time.Hour})
			h.rent(l.Token())
			h.Check()
			switch how {
			case "stop":
				h.stop(unix.SIGTERM)
			case "teardown":
				h.d.kill()
				if r := h.run("xdpd", "teardown", "--config", h.config); r.code != 0 {
					t.Errorf("teardown: %+v", r)
				}
			case "reboot":
				h.note()
				h.d.kill()
				h.boot("b0070000-0000-4000-8000-000000000001\n")
			}
			h.start()
			select {
			case <-l.Lost():
			case <-time.After(patience):
				t.Fatal("the client does not hear that its lease is gone")
			}
			if client.Reason(l.Err()) != leaseGone {
				t.Errorf("the client hears %v", l.Err())
			}
			h.over("", l.Token())
			h.stop(unix.SIGTERM)
		})
	}
}

// TestLeaseRace holds leases again at the moment at which they end. Each client has its lease with all its programs then, or
// neither is there.
func TestLeaseRace(t *testing.T) {
	h, before := newLeaseHost(t)
	kept, times := 0, 20
	if testing.Short() {
		times = 4
	}
	for range times {
		l, _ := h.holds(client.HoldOptions{})
		h.rent(l.Token())
		l.Close()
		again, err := h.client.Hold(h.ctx(), client.HoldOptions{Token: l.Token()})
		switch {
		case err == nil:
			kept++
			h.rented(true)
			failIf(t, again.Release(t.Context()))
		case client.Reason(err) != leaseGone:
			t.Errorf("hold again: %v", err)
		}
		h.over(before, l.Token())
		if t.Failed() {
			return
		}
	}
	t.Logf("of %d leases %d were held again in time", times, kept)
	h.stop(unix.SIGTERM)
}

// TestLeaseKill kills the daemon at each point of the end of a lease. The next start finishes it, or does it anew.
func TestLeaseKill(t *testing.T) {
	points := "stage.dispatcher stage.slots stage.pinned fold.before stage.dispatcher@2 stage.pinned@2 fold.before@2 save.before save.after " +
		"commit.before commit.after commit.before@2 commit.after@2 unpin.before unpin.after unpin.before@2 unpin.after@2 unload.before unload.before@2"
	for _, at := range (operation{points: points}).met() {
		t.Run(fmt.Sprintf("%s %d", at.point, at.hit), func(t *testing.T) {
			t.Parallel()
			h, before := newLeaseHost(t, "lease_renewal: 0s")
			l, _ := h.holds(client.HoldOptions{})
			h.rent(l.Token())
			h.d.kill()
			l.Close()
			if h.launch(fmt.Sprintf("XDPD_FAILPOINT=%s=kill@%d", at.point, at.hit)).killed(); t.Failed() {
				return
			}
			h.start()
			h.eventually("the lease has ended", func() bool { return len(h.leases()) == 0 })
			h.over(before, l.Token())
			h.stop(unix.SIGTERM)
		})
	}
}

// TestLeaseErrors makes the end of a lease fail: it is told, and tried again until it is done, and nothing is done by halves
// meanwhile.
func TestLeaseErrors(t *testing.T) {
	h, before := newLeaseHost(t)
	l, _ := h.holds(client.HoldOptions{})
	h.rent(l.Token())
	h.d.kill()
	h.start("XDPD_FAILPOINT=save.before=error,commit.before=error@2")
	h.eventually("the client holds its lease again", h.held)
	w := h.watch("")
	subject := fmt.Sprintf("lease %d", h.rented(true).GetId())
	if err := l.Release(t.Context()); err == nil || !strings.Contains(err.Error(), "failpoint save.before") || !strings.Contains(err.Error(), "tried again") {
		t.Errorf("release: %v", err)
	}
	for _, point := range []string{"save.before", "commit.before"} {
		if e := w.await("degraded").GetDegraded(); e.GetSubject() != subject || !strings.Contains(e.GetText(), "failpoint "+point) {
			t.Errorf("the watch says %v", e)
		}
	}
	if e := w.await("recovered").GetRecovered(); e.GetSubject() != subject {
		t.Errorf("the watch says %v", e)
	}
	w.await("lease_ended")
	h.over(before, l.Token())
	h.stop(unix.SIGTERM)
}
