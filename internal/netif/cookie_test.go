// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func TestNetnsCookie(t *testing.T) {
	home, exact, err := NetnsCookie()
	if err != nil || home == 0 || exact != hasCookies(t) {
		t.Fatalf("NetnsCookie = %d, %v, %v", home, exact, err)
	}
	again, err := cookieBy("")
	if other := cookieIn(t, nettest.New(t)); err != nil || again != home || other == home {
		t.Errorf("cookies: %d, again %d, of another namespace %d, %v", home, again, other, err)
	}
}

// hasCookies tells whether the kernel's version is 5.14 or later.
func hasCookies(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	var major, minor int
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 5 || major == 5 && minor >= 14
}

func TestNetnsCookieOfAnOldKernel(t *testing.T) {
	old := func() (uint64, error) { return 0, unix.ENOPROTOOPT }
	home, exact, err := netnsCookie(old)
	if err != nil || exact || home == 0 {
		t.Fatalf("netnsCookie = %d, %v, %v", home, exact, err)
	}
	var other uint64
	nettest.RunIn(nettest.New(t), func() { other, _, err = netnsCookie(old) })
	if err != nil || other == home {
		t.Errorf("inodes: %d, of another namespace %d, %v", home, other, err)
	}
	if _, _, err := netnsCookie(func() (uint64, error) { return 0, unix.EPERM }); !errors.Is(err, unix.EPERM) {
		t.Errorf("a refusal is taken for an old kernel: %v", err)
	}
}

// cookieBy is that of a network namespace.
func cookieBy(netns string) (id uint64, err error) {
	err = Do(netns, func() error {
		id, _, err = NetnsCookie()
		return err
	})
	return id, err
}
