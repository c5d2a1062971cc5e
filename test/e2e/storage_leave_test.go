// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestStorageReload reloads while the store could not be opened again: the daemon, which may have the only copy, goes on and says
// why, and reloads when the file is well.
func TestStorageReload(t *testing.T) {
	once(t)
	for name, c := range map[string]struct{ harm, mend, says string }{
		"moved away": {"mv %[1]s %[1]s.away", "mv %[1]s.away %[1]s", "it was deleted; nothing was changed; put it back with: cp /proc/"},
		"replaced":   {"mv %[1]s %[1]s.away && cp -p %[1]s.away %[1]s", "mv %[1]s.away %[1]s", "another file was put in its place"},
		"readable":   {"chmod 644 %[1]s", "chmod 600 %[1]s", "chmod 600"},
		"read-only":  {"mount --bind %[2]s %[2]s && mount -o remount,bind,ro %[2]s", "umount %[2]s", "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, second)
			h.start()
			h.furnish()
			end := h.stream()
			since := h.since()
			h.shell(c.harm, h.storePath(), h.stateDir())
			mended := false
			t.Cleanup(func() {
				if !mended {
					h.shell(c.mend, h.storePath(), h.stateDir())
				}
			})
			if line := h.refusal(); !strings.Contains(line, c.says) || !strings.Contains(line, "level=ERROR") {
				t.Errorf("the log says %s", line)
			}
			if h.since() != since {
				t.Fatal("another program serves")
			}
			h.shell(c.mend, h.storePath(), h.stateDir())
			mended = true
			h.reload()
			end()
			h.mends(second)
			h.stop(unix.SIGTERM)
		})
	}
}

// TestStorageReloadDeleted deletes the file and reloads: it is refused, and the only copy is there to be put back as the log
// says.
func TestStorageReloadDeleted(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	end := h.stream()
	good := h.storeFile()
	if err := os.Remove(h.storePath()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if line := h.refusal(); !strings.Contains(line, "it was deleted") {
			t.Errorf("the log says %s", line)
		}
	}
	if err := os.WriteFile(h.storePath(), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if line := h.refusal(); !strings.Contains(line, "another file was put in its place") { // a change may have come after the copy
		t.Errorf("the log says %s", line)
	}
	h.d.kill()
	h.start()
	h.reload()
	end()
	h.mends(second)
	h.stop(unix.SIGTERM)
}

// TestStorageReloadDamaged damages the file under the daemon, and reloads: it notices, if it has not yet.
func TestStorageReloadDamaged(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	end := h.stream()
	good := h.storeFile()
	bad := append([]byte(nil), good...)
	clear(bad[:2*os.Getpagesize()])
	h.overwrite(good, bad)
	if line := h.refusal(); !strings.Contains(line, "damaged") {
		t.Errorf("the log says %s", line)
	}
	h.broken("damaged")
	h.overwrite(bad, good)
	h.d.kill()
	h.start()
	end()
	h.mends(second)
	h.stop(unix.SIGTERM)
}

// TestStorageStopWhileStill stops a daemon whose disk stands still: it takes everything out of the kernel, and says what its store
// does not know.
func TestStorageStopWhileStill(t *testing.T) {
	once(t)
	h := newHost(t, second)
	d := h.startBehindDisk()
	h.furnish()
	h.do(adding(add("c", "goon", nettest.Dev)))
	goOn := d.stall()
	h.d.signal(unix.SIGTERM)
	begun := time.Now()
	ended := h.d.wait()
	if took := time.Since(begun); ended.ExitCode() != 1 || took < 8*time.Second || took > 28*time.Second { // TimeoutStopSec=30s
		t.Errorf("the daemon stopped with %v after %v", ended, took)
	}
	if log := h.d.log.String(); !strings.Contains(log, "does not answer") || !strings.Contains(log, "the next start may bring back") {
		t.Errorf("the log does not say that the store was not told")
	}
	h.nothingLeft()
	goOn()
	h.start()
	if !h.has("c") {
		t.Error("what the store was not told to forget is not back")
	}
	h.learn()
	h.mends(second)
	h.stop(unix.SIGTERM)
}

// TestStorageTeardownWhileStill takes down what a daemon left, while the disk stands still.
func TestStorageTeardownWhileStill(t *testing.T) {
	once(t)
	h := newHost(t, second)
	h.start()
	h.furnish()
	h.d.kill()
	d := h.newDisk()
	goOn := d.stall()
	d.behind(func(env string) {
		name, value, _ := strings.Cut(env, "=")
		t.Setenv(name, value)
		begun := time.Now()
		r := h.run("xdpd", "teardown", "--config", h.config)
		if took := time.Since(begun); r.code != 1 || took < 8*time.Second || !strings.Contains(r.stderr, "does not answer") {
			t.Errorf("teardown after %v: %+v", took, r)
		}
		os.Unsetenv(name)
	})
	h.nothingLeft()
	goOn()
	if r := h.run("xdpd", "teardown", "--config", h.config); r.code != 0 {
		t.Errorf("teardown when the disk goes on: %+v", r)
	}
	h.model.stopped()
	h.start()
	h.Check()
	h.stop(unix.SIGTERM)
}
