// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// once keeps what has nothing to do with the kernel out of the VMs.
func once(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("what the daemon does when its disk fails is the same on every kernel: it is tested on this machine only")
	}
}

// stream lets packets come in on all interfaces, until the function that it returns is called, which compares what
// was sent with what was counted. Their chains must pass all packets on.
func (h *host) stream() (end func()) {
	h.Helper()
	before := map[string]uint64{}
	for iface := range h.wires {
		before[iface] = h.chain(iface).GetPackets()
	}
	ended := false
	stop := h.flows(slices.Sorted(maps.Keys(h.wires)))
	return func() {
		h.Helper()
		if ended {
			return
		}
		ended = true
		for iface, n := range stop() {
			total := func() uint64 { return h.chain(iface).GetPackets() }
			h.eventually(fmt.Sprintf("all packets of %s are counted", iface), func() bool { return total() >= before[iface]+n })
			if got := total() - before[iface]; got != n {
				h.Errorf("%s counted %d packets, want %d", iface, got, n)
			}
		}
		h.learn()
	}
}

// broken sees to it that a change is refused because of the store, that the daemon says so and goes on telling what runs, and
// that nothing else happens.
func (h *host) broken(says string) error {
	h.Helper()
	picture, pins := h.picture(true), h.pinned()
	err := h.request(grown("refused", 0, nettest.Dev))
	if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_STORE_FAILED || !strings.Contains(client.Facts(err)["error"], says) {
		h.Fatalf("the change ended with %v %v, want STORE_FAILED and %q", err, client.Facts(err), says)
	}
	if now := h.picture(true); now != picture {
		h.Errorf("a change that was refused made\n%s\nof\n%s", now, picture)
	}
	if now := h.pinned(); !slices.Equal(now, pins) {
		h.Errorf("a change that was refused made the pins\n%q\nof\n%q", now, pins)
	}
	if problem := h.storeProblem(); !strings.Contains(problem, says) {
		h.Errorf("the status says %q of the store, want %q", problem, says)
	}
	h.checkDescriptors()
	return err
}

// storeProblem is what the status says of the store; empty: nothing.
func (h *host) storeProblem() string {
	h.Helper()
	s, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{})
	if err != nil {
		h.Fatal(err)
	}
	for _, p := range s.GetProblems() {
		if rest, ok := strings.CutPrefix(p, "store: "); ok {
			return rest
		}
	}
	return ""
}

// mends sees to it that the store works again.
func (h *host) mends(iface string) {
	h.Helper()
	h.do(adding(add("mended", "goon", iface)))
	if problem := h.storeProblem(); problem != "" {
		h.Errorf("the status still says of the store: %s", problem)
	}
	h.Check()
	h.do(removing("mended"))
}

// grown is a program whose object is larger by some bytes that nobody reads.
func grown(name string, bytes int, ifaces ...string) *xdpdv1.AddProgramRequest {
	r := add(name, "goon", ifaces...)
	r.Object = append(slices.Clone(r.Object), make([]byte, bytes)...)
	return r
}

// furnish makes a chain of two programs on each of the interfaces, which pass all packets on.
func (h *host) furnish() {
	h.Helper()
	h.do(adding(add("a", "goon", nettest.Dev, second)), adding(add("b", "goon", nettest.Dev, second)))
}

func (h *host) stateDir() string { return filepath.Join(h.dir, "state") }

func (h *host) storePath() string { return filepath.Join(h.stateDir(), "xdpd.db") }

// small puts the state folder on a file system of its own.
func (h *host) small(kind string) {
	h.Helper()
	state := h.stateDir()
	err := os.Mkdir(state, 0o700)
	if err == nil && kind == "tmpfs" {
		err = unix.Mount("tmpfs", state, "tmpfs", 0, "size=1m,mode=0700")
	} else if err == nil {
		image := h.dir + "/image"
		h.shell("truncate -s 4M %s && mkfs.ext4 -q -m 0 -E root_owner=0:0 %s && mount -o loop,errors=remount-ro %s %s && rmdir %s/lost+found", image, image, image, state, state)
	}
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = unix.Unmount(state, unix.MNT_DETACH) })
}

// shell runs a command of an administrator.
func (h *host) shell(format string, args ...any) {
	h.Helper()
	command := fmt.Sprintf(format, args...)
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		h.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestStorageFull fills the disk under the daemon: changes that do not fit are refused, and work when there is room again.
func TestStorageFull(t *testing.T) {
	once(t)
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			h := newHost(t, second)
			h.small(kind)
			h.start()
			h.furnish()
			end := h.stream()
			fill, err := os.Create(h.stateDir() + "/fill")
			if err != nil {
				t.Fatal(err)
			}
			defer fill.Close()
			if _, err := io.CopyBuffer(fill, endless{}, make([]byte, 4096)); !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			var refusal error
			for i := 0; refusal == nil; i++ {
				refusal = h.request(grown("new", 10_000+i, nettest.Dev))
				if refusal == nil { // it still found room in the file
					if _, err := h.client.RemoveProgram(h.ctx(), &xdpdv1.RemoveProgramRequest{Name: "new"}); err != nil {
						refusal = err
					}
				}
				if i > 500 {
					t.Fatal("the disk never gets full")
				}
			}
			if client.Reason(refusal) != xdpdv1.ErrorReason_ERROR_REASON_STORE_FAILED || !strings.Contains(client.Facts(refusal)["error"], "no space left") {
				t.Fatalf("%v %v", refusal, client.Facts(refusal))
			}
			if problem := h.storeProblem(); !strings.Contains(problem, "no space left") {
				t.Errorf("the status says of the store: %q", problem)
			}
			end()
			h.checkStore()
			h.checkKernel()
			if err := fill.Truncate(0); err != nil {
				t.Fatal(err)
			}
			h.learn()
			h.mends(nettest.Dev)
			h.d.kill()
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// endless has zeros without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestStorageReadOnly lets the kernel make the file system read-only, as it does when it finds something wrong there, or
// take it off line. The daemon is killed, the file system mended, and the daemon started: not a packet is lost.
func TestStorageReadOnly(t *testing.T) {
	once(t)
	for name, c := range map[string]struct{ command, says string }{
		"read-only": {"echo failure > /sys/fs/ext4/$(basename $(findmnt -no SOURCE %[1]s))/trigger_fs_error", "read-only file system"},
		"off line":  {"", "input/output error"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, second)
			h.small("ext4")
			h.start()
			h.furnish()
			end := h.stream()
			if c.command != "" {
				h.shell(c.command, h.stateDir())
			} else {
				shutDown(t, h.stateDir())
			}
			h.broken(c.says)
			h.broken(c.says)
			h.d.kill()
			h.shell("umount %[1]s && { e2fsck -p -f %[2]s; test $? -le 1; } && mount -o loop,errors=remount-ro %[2]s %[1]s", h.stateDir(), h.dir+"/image")
			h.start()
			end()
			h.Check()
			h.mends(second)
			h.stop(unix.SIGTERM)
		})
	}
}

// shutDown is what a disk is that was pulled out.
func shutDown(t *testing.T, dir string) {
	t.Helper()
	const (
		goingDown = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogs    = 2          // nothing more is written
	)
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := unix.IoctlSetPointerInt(int(d.Fd()), goingDown, noLogs); err != nil {
		t.Fatal(err)
	}
}

// TestStorageSlow holds a change at the disk: it ends for its client when its time is up, others that read what it does not
// change do not wait, and what came of it can be asked for once the disk goes on.
func TestStorageSlow(t *testing.T) {
	once(t)
	h := newHost(t, second)
	d := h.startBehindDisk()
	h.furnish()
	end := h.stream()
	goOn := d.stall()
	late := func(r *xdpdv1.AddProgramRequest) chan error {
		done := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // to come to the disk
			defer cancel()
			_, err := h.client.AddProgram(ctx, r)
			done <- err
		}()
		return done
	}
	first := late(add("first", "goon", second))
	d.stalled()
	next := late(add("next", "goon", nettest.Dev))
	begun := time.Now()
	for range 20 {
		if _, err := h.client.ListPrograms(h.ctx(), &xdpdv1.ListProgramsRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := h.client.GetStatus(h.ctx(), &xdpdv1.GetStatusRequest{}); err != nil {
			t.Error(err)
		}
		if _, err := h.client.ListHistory(h.ctx(), &xdpdv1.ListHistoryRequest{Interface: nettest.Dev}); err != nil {
			t.Error(err)
		}
	}
	t.Logf("60 reads while the disk stands still took %v", time.Since(begun))
	for _, err := range []error{<-first, <-next} {
		if status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a change whose time was up: %v", err)
		}
	}
	goOn()
	// Each waits for the changes of its interface.
	h.chain(second)
	h.chain(nettest.Dev)
	end()
	t.Logf("of the two changes came %v", slices.Sorted(maps.Keys(h.model.programs)))
	h.Check()
	h.d.kill()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestStorageSyncFails lets the disk fail when a change is to be made durable: before the page is written that makes it valid,
// and after. It is refused, and does not come back.
func TestStorageSyncFails(t *testing.T) {
	once(t)
	h := newHost(t, second)
	d := h.startBehindDisk()
	h.furnish()
	end := h.stream()
	d.fail(1, syscall.EIO)
	h.broken("input/output error")
	d.fail(0, 0)
	if err := h.request(add("works", "goon", second)); err != nil {
		t.Errorf("the disk works again: %v", err)
	}
	if problem := h.storeProblem(); problem != "" {
		t.Errorf("the status still says of the store: %s", problem)
	}
	d.fail(2, syscall.EIO)
	err := h.broken("input/output error")
	d.fail(0, 0)
	if facts := client.Facts(err)["error"]; !strings.Contains(facts, fmt.Sprint("kill -9 ", h.d.cmd.Process.Pid)) {
		t.Errorf("the error does not say what to do: %s", facts)
	}
	h.broken("nearly done")
	h.d.kill()
	h.start()
	end()
	h.Check()
	h.mends(second)
	h.stop(unix.SIGTERM)
}
