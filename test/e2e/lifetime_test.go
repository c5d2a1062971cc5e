// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func persistent(r *xdpdv1.AddProgramRequest) *xdpdv1.AddProgramRequest {
	r.Lifetime = xdpdv1.Lifetime_LIFETIME_PERSISTENT
	return r
}

// TestPersistentOverStop stops and starts daemons: persistent programs come back with their places, order,
// settings and counts, the others do not.
func TestPersistentOverStop(t *testing.T) {
	h := newHost(t, second)
	h.start()
	h.do(
		adding(persistent(add("keep", "goon", nettest.Dev, second))), adding(add("a", "pass", nettest.Dev)), adding(add("b", "pass", second)),
		adding(persistent(add("too", "pass", nettest.Dev))),
		updating(&xdpdv1.MemberUpdate{Program: "too", Position: first, Priority: ptr(int32(3))}),
		updating(&xdpdv1.MemberUpdate{Program: "keep", Interface: second, Enabled: ptr(false)}),
	)
	for range 2 {
		h.Check()
		h.stop(unix.SIGTERM)
		h.start()
	}
	h.Check()
	h.d.kill() // is no stop
	h.start()
	h.Check()
	h.do(removing("keep"), removing("too"))
	h.Check()
	h.stop(unix.SIGTERM)
}

// TestReboot kills a daemon and gives its successor another boot id, without the pins, as after a reboot, and
// with them, as where a machine was restored from an image. Persistent programs are back, the others are not.
func TestReboot(t *testing.T) {
	for _, pins := range []bool{false, true} {
		name := map[bool]string{false: "without pins", true: "with pins"}[pins]
		t.Run(name, func(t *testing.T) {
			h := newHost(t, second)
			h.start()
			h.do(
				adding(add("a", "drop", nettest.Dev, second)), adding(persistent(add("keep", "pass", nettest.Dev))),
				updating(&xdpdv1.MemberUpdate{Program: "keep", Priority: ptr(int32(60))}),
			)
			h.note()
			h.d.kill()
			if !pins {
				if err := os.RemoveAll(h.pins); err != nil {
					t.Fatal(err)
				}
				h.nothingLeft()
			}
			h.boot("b0070000-0000-4000-8000-000000000000\n")
			h.model.stopped()
			h.start()
			h.Check()
			h.stop(unix.SIGTERM)
		})
	}
}

// boot gives processes of this mount namespace another boot id until the test ends.
func (h *host) boot(id string) {
	h.Helper()
	const bootID = "/proc/sys/kernel/random/boot_id"
	file := filepath.Join(h.dir, "boot_id")
	if err := os.WriteFile(file, []byte(id), 0o600); err != nil {
		h.Fatal(err)
	}
	if err := unix.Mount(file, bootID, "", unix.MS_BIND, ""); err != nil {
		h.Fatalf("mount another boot id: %v", err)
	}
	h.Cleanup(func() {
		if err := unix.Unmount(bootID, 0); err != nil {
			h.Errorf("unmount the boot id: %v", err)
		}
	})
}
