// SPDX-License-Identifier: Apache-2.0

// Package systemd tests the daemon under a real systemd, with the units and binaries as `make install` puts them:
// what stopping, crashing, hanging, reloading, rebooting and a power cut do to chains, and what works in the sandbox.
// It runs as root in a VM of test/vm/systemd, which is its own to break: `make test-systemd`.
//
// What it finds there: the installed files, the folder next with an xdpd of another version, and testdata with the
// objects of test/e2e.
//
// It imports the client, cilium/ebpf and netlink for the kernel's view, and x/sys/unix for raw frames.
package systemd

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// What test/vm/systemd does when it is the exit status.
const (
	reboot   = 194
	powerCut = 195
)

// later are the tests that are the continuation of another one after a boot.
var later = map[int]string{2: "TestAfterReboot", 3: "TestAfterPowerCut"}

// wanted is what a test wants to happen to the machine when all tests of this boot went well; 0: nothing.
var wanted int

func TestMain(m *testing.M) {
	boot, err := strconv.Atoi(os.Getenv("XDPD_VM_BOOT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "test/systemd: these tests need a VM whose init is systemd: make test-systemd")
		os.Exit(1)
	}
	if err := prepare(boot); err != nil {
		fmt.Fprintln(os.Stderr, "test/systemd:", err)
		os.Exit(1)
	}
	code := m.Run()
	if code == 0 {
		code = wanted
	}
	os.Exit(code)
}

// prepare chooses the tests of this boot, and sets up what all of them need.
func prepare(boot int) error {
	flag.Parse()
	name, pattern := "test.skip", "^("
	for _, test := range later {
		pattern += test + "|"
	}
	pattern = strings.TrimSuffix(pattern, "|") + ")$"
	if boot > 1 {
		name, pattern = "test.run", "^"+later[boot]+"$"
	}
	if err := flag.Set(name, pattern); err != nil {
		return err
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return err
	}
	seconds, _, _ := strings.Cut(string(uptime), " ")
	fmt.Printf("boot %d took %s s\n", boot, seconds)
	// No frame shall appear that no test sent.
	return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
}
