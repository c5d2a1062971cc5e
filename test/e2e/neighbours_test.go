// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// noticed is how soon a daemon that has the machine for itself notices what a neighbour did.
const noticed = 2 * time.Second

// untilRepaired is how long it takes at most until all is repaired: the daemon waits up to a minute from one repair to the next.
const untilRepaired = patience + 70*time.Second

// detachLink does to an interface's link what `bpftool link detach` does.
func (h *host) detachLink(iface string) {
	h.Helper()
	l, err := link.LoadPinnedLink(filepath.Join(h.pins, h.device(iface).folder(), "link"), nil)
	if err != nil {
		h.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		h.Fatal(err)
	}
}

// repaired waits until a subject was told to be degraded, and well again, and the whole is well.
func (h *host) repaired(w *watcher, subject string) {
	h.Helper()
	since := time.Now()
	for _, kind := range []string{"degraded", "recovered"} {
		for {
			e := w.await(kind)
			if e.GetDegraded().GetSubject() == subject || e.GetRecovered().GetSubject() == subject {
				break
			}
		}
		if took := time.Since(since); kind == "degraded" && took > noticed {
			h.Logf("%s: noticed after %v", subject, took) // a starved machine is no reason to fail
		}
	}
	h.well()
}

// well waits until the status has no problem, and lets the model be as what there is then. The status passes over chains
// that somebody works at; a list waits for them.
func (h *host) well() {
	h.Helper()
	none := func() bool {
		status, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
		if err != nil {
			h.Fatal(err)
		}
		return len(status.GetProblems()) == 0
	}
	h.within(untilRepaired, "nothing is wrong", func() bool {
		if !none() {
			return false
		}
		h.chained()
		return none()
	})
	h.learn()
}

// TestForceDetach detaches the link of a chain, as anybody with CAP_SYS_ADMIN can: it is attached again.
func TestForceDetach(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
	h.Check()
	w := h.watch("")
	before, other := h.chain(nettest.Dev), h.chain(second)
	h.detachLink(nettest.Dev)
	h.repaired(w, nettest.Dev)
	if now := h.chain(nettest.Dev); now.GetState() != xdpdv1.Chain_STATE_RUNNING || now.GetLinkId() == before.GetLinkId() {
		t.Errorf("the chain is %v", now)
	}
	if now := h.chain(second); now.GetKernelId() != other.GetKernelId() {
		t.Errorf("%s was touched: %v", second, now)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestDetachedInALoop fights with a daemon: it waits longer each time before it attaches the chain again.
func TestDetachedInALoop(t *testing.T) {
	h := newHost(t)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	h.Check()
	const long = 8 * time.Second
	rounds := 0
	for deadline := time.Now().Add(long); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if h.attached(nettest.Dev) != 0 && len(h.glob("chains/*/link")) == 1 { // it is attached before it is pinned
			h.detachLink(nettest.Dev)
			rounds++
		}
	}
	// At once, and then after 1, 2 and 4 seconds; more where a look at the clock and the daemon's are apart, less where both starve.
	if rounds < 2 || rounds > 6 {
		t.Errorf("it was attached again %d times in %v, want about 4", rounds, long)
	}
	h.well()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestForeignInPlace detaches a link and puts another program in its place, which stays until its owner takes it away.
func TestForeignInPlace(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
	h.Check()
	w := h.watch("")
	var foreign uint32
	var detach func()
	h.meanwhileStopped(func() {
		h.detachLink(nettest.Dev)
		h.bare(nettest.Dev)
		foreign, detach = h.foreign(nettest.Dev)
	})
	seen := w.await("foreign_seen")
	if got := seen.GetForeignSeen(); got.GetProgramId() != foreign || seen.GetInterface() != nettest.Dev {
		t.Errorf("told of %v, want program %d on %s", seen, foreign, nettest.Dev)
	}
	now := h.chain(nettest.Dev)
	if now.GetState() != xdpdv1.Chain_STATE_FOREIGN || now.GetKernelId() != 0 || !strings.Contains(now.GetProblem(), "foreign program") {
		t.Errorf("the chain is %v", now)
	}
	// What concerns other interfaces goes on, and what is asked for here is refused, with the foreign program untouched.
	if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "a", Interfaces: []string{second}}); err != nil {
		t.Error(err)
	}
	h.refused(xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, adding(add("c", "drop", nettest.Dev)))
	if on := h.attached(nettest.Dev); on != foreign {
		t.Errorf("program %d is on %s, want the foreign one, %d", on, nettest.Dev, foreign)
	}
	detach()
	h.well()
	h.Check()
	h.stop(unix.SIGTERM)
}

// meanwhileStopped does something while the daemon does nothing.
func (h *host) meanwhileStopped(do func()) {
	h.Helper()
	h.d.signal(unix.SIGSTOP)
	h.eventually("the daemon stands still", func() bool { return h.state() == "T" })
	do()
	h.d.signal(unix.SIGCONT)
}

// TestPinsRemoved removes each of the daemon's pins in turn, and folders of them. What the kernel still has is pinned again,
// and traffic is not touched by that; what it has not is made anew.
func TestPinsRemoved(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
	h.Check()
	w := h.watch("")
	pins := h.pinned()
	for _, pin := range pins {
		kept := !strings.Contains(pin, "slot-") && !strings.HasSuffix(pin, "/link")
		switch info, err := os.Lstat(filepath.Join(h.pins, pin)); {
		case os.IsNotExist(err), strings.Count(pin, "/") == 0:
			continue // of a revision that is not any more
		case err == nil && info.IsDir() && strings.HasPrefix(pin, "chains/"):
			kept = false // with the link in it
		}
		before := h.chain(nettest.Dev).GetKernelId() + h.chain(second).GetKernelId()
		h.meanwhileStopped(func() { // it repairs faster than whole folders are removed
			if err := os.RemoveAll(filepath.Join(h.pins, pin)); err != nil {
				t.Fatal(err)
			}
		})
		e := w.await("degraded")
		for w.await("recovered").GetRecovered().GetSubject() != e.GetDegraded().GetSubject() {
		}
		h.well()
		if after := h.chain(nettest.Dev).GetKernelId() + h.chain(second).GetKernelId(); kept && after != before {
			t.Errorf("other programs run since %s was removed", pin)
		}
		h.Check()
	}
	h.stop(unix.SIGTERM)
}

// TestChainFolderMoved renames the folders of chains, with all pins: what runs is not taken for somebody else's.
func TestChainFolderMoved(t *testing.T) {
	for _, what := range []string{"", "chains"} {
		h := newHost(t, second)
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev, second)))
		h.Check()
		w := h.watch("")
		folder := filepath.Join(h.pins, cmp.Or(what, h.device(second).folder()))
		away := filepath.Join(filepath.Dir(h.pins), "away")
		if err := os.Rename(folder, away); err != nil {
			t.Fatal(err)
		}
		h.repaired(w, second)
		h.learn()
		if err := os.RemoveAll(away); err != nil {
			t.Fatal(err)
		}
		h.Check()
		h.do(adding(add("b", "goon", nettest.Dev, second)))
		h.Check()
		h.stop(unix.SIGTERM)
	}
}

// TestFolderRemoved removes the daemon's folder with all that is in it, and puts another one in its place: programs are
// loaded and chains linked anew, and all works.
func TestFolderRemoved(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		h := newHost(t, second)
		h.start()
		h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
		h.Check()
		w := h.watch("")
		h.meanwhileStopped(func() {
			if err := os.RemoveAll(h.pins); err != nil {
				t.Fatal(err)
			}
			if replaced {
				if err := os.Mkdir(h.pins, 0o700); err != nil {
					t.Fatal(err)
				}
			}
		})
		h.repaired(w, "pins")
		h.Check()
		h.do(adding(add("c", "pass", second)))
		h.Check()
		h.stop(unix.SIGTERM)
	}
}

// TestUnmounted takes the mount of the BPF FS away and mounts another: all pins are made again there, and packets do not
// notice.
func TestUnmounted(t *testing.T) {
	h := newHost(t, second)
	mount := filepath.Join(h.dir, "bpf")
	config, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	mounted := func() {
		if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	mounted()
	t.Cleanup(func() {
		for unix.Unmount(mount, unix.MNT_DETACH) == nil {
		}
	})
	changed := strings.Replace(string(config), h.pins, filepath.Join(mount, "xdpd"), 1)
	h.pins = filepath.Join(mount, "xdpd")
	if err := os.WriteFile(h.config, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev)))
	h.Check()
	w := h.watch("")
	before := []uint32{h.chain(nettest.Dev).GetKernelId(), h.chain(second).GetKernelId()}
	if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for w.await("degraded").GetDegraded().GetSubject() != "pins" {
	}
	wire := h.wires[nettest.Dev]
	arrived := wire.receiver.Count()
	wire.sender.Send(nettest.Frame(64), 10) // both pass
	wire.receiver.Wait(arrived + 10)
	if _, err := h.client.AddProgram(h.ctx(), add("c", "drop", nettest.Dev)); err == nil {
		t.Error("a change was made without a place for its pins")
	}
	mounted()
	for w.await("recovered").GetRecovered().GetSubject() != "pins" {
	}
	h.well()
	if now := []uint32{h.chain(nettest.Dev).GetKernelId(), h.chain(second).GetKernelId()}; !slices.Equal(now, before) {
		t.Errorf("programs %v run, want those from before, %v", now, before)
	}
	h.Check()
	h.do(removing("b"))
	h.Check()
	h.stop(unix.SIGTERM)
}
