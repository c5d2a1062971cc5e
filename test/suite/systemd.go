// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// systemdTests are those that need a VM whose init is systemd.
const systemdTests = "test/systemd"

const (
	systemdSeconds = "5400" // for all boots
	otherVersion   = "another-version"
)

// installation is the folder of the work that has what `make install` installs.
func installation(o options) string { return filepath.Join(o.work, "systemd", "root") }

// buildSystemd builds what the tests under systemd need, and gets the image of the VM. The daemon is the one that users
// have: as it is installed, without failpoints.
func buildSystemd(ctx context.Context, o options) error {
	dir := filepath.Join(o.work, "systemd")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if out, err := command(ctx, "make", "--no-print-directory", "install", "PREFIX=/usr", "DESTDIR="+installation(o)).CombinedOutput(); err != nil {
		return fmt.Errorf("make install: %w\n%s", err, out)
	}
	next := filepath.Join(dir, "next") + string(filepath.Separator)
	if err := build(ctx, "build", "-trimpath", "-ldflags", "-X main.version="+otherVersion, "-o", next, "./cmd/xdpd"); err != nil {
		return err
	}
	if err := build(ctx, "test", "-c", "-o", pkg{name: systemdTests}.binary(o.work), "./"+systemdTests); err != nil {
		return err
	}
	cmd := command(ctx, runner+"/systemd", "-f", o.kernels[0])
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("get the image with systemd: %w", err)
	}
	return nil
}

// runSystemd runs the tests under systemd on the first kernel. The VM is rebooted on the way; what the tests of each boot
// print comes one after the other.
func runSystemd(ctx context.Context, o options, c *collector) {
	args := []string{"-t", systemdSeconds, "-m", vmMemory, "-a", installation(o) + ":/"}
	for from, to := range map[string]string{
		filepath.Join(o.work, "systemd", "next"): "/t/next",
		"test/e2e/testdata":                      "/t/testdata",
		"examples/blocklist":                     "/t/testdata",
	} {
		args = append(args, "-a", from+":"+to)
	}
	args = append(args, o.kernels[0], pkg{name: systemdTests}.binary(o.work), "-test.run="+o.run)
	started := time.Now()
	var out []byte
	var status string
	for boot := 1; boot <= bootsLeast; boot++ {
		out, status = capture(command(ctx, runner+"/systemd", append(slices.Clone(args), testFlags...)...), logFile(o, "systemd", systemdTests, fmt.Sprint(boot)))
		crash := crashOf(out)
		if crash == "" || ctx.Err() != nil {
			break
		}
		say(c.out, "the kernel of the VM with systemd crashed:\n%s", crash)
	}
	r := convert(ctx, systemdTests, out, status)
	r.kernel, r.elapsed = "systemd", time.Since(started)
	c.add(r)
}
