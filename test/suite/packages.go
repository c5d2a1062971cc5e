// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const (
	module = "github.com/xdpd/xdpd"
	runner = "test/vm" // the package that tests test/vm/run
	// daemonTests are those of the whole daemon.
	daemonTests = "test/e2e"
	// failpoints is what the build tag failpoint is about, and has tests for without it too.
	failpoints = "internal/failpoint"
)

// perLinker are the packages whose tests take the linker from XDPD_TEST_LINKER.
var perLinker = []string{"dispatcher", daemonTests}

// kernelImports are the modules and packages that only those tests import that need a kernel and root.
var kernelImports = []string{"github.com/cilium/ebpf", "github.com/vishvananda/netlink", module + "/internal/netif/nettest"}

// pkg is a package with tests.
type pkg struct {
	name   string // the import path without the module's
	kernel bool   // its tests need root, and are worth a run on every kernel
}

// linkers says with which linkers the package is to be run; none of its business: one empty one.
func (p pkg) linkers(all ...string) []string {
	if slices.Contains(perLinker, p.name) {
		return all
	}
	return []string{""}
}

// binary is the path of the package's test binary, in the folder of the work and in a VM.
func (p pkg) binary(work string) string {
	return filepath.Join(work, "packages", p.name, filepath.Base(p.name)+".test")
}

// listPackages returns the packages of the project that have tests, without those that have a part of their own.
func listPackages(ctx context.Context) ([]pkg, error) {
	const format = `{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{range .Imports}} {{.}}{{end}}` +
		`{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}{{end}}`
	out, err := command(ctx, "go", "list", "-tags", "failpoint", "-f", format, "./...").Output()
	if err != nil {
		return nil, fmt.Errorf("list the packages: %w", explained(err))
	}
	packages := parsePackages(out)
	for _, name := range perLinker {
		if !slices.ContainsFunc(packages, func(p pkg) bool { return p.name == name && p.kernel }) {
			return nil, fmt.Errorf("package %s has no kernel tests", name)
		}
	}
	return packages, nil
}

// parsePackages reads lines of an import path and what is imported there.
func parsePackages(list []byte) []pkg {
	var packages []pkg
	for line := range strings.Lines(string(list)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		p := pkg{name: strings.TrimPrefix(fields[0], module+"/")}
		if p.name == runner || p.name == systemdTests {
			continue
		}
		p.kernel = slices.ContainsFunc(fields, func(path string) bool {
			return slices.ContainsFunc(kernelImports, func(prefix string) bool {
				return path == prefix || strings.HasPrefix(path, prefix+"/")
			})
		})
		packages = append(packages, p)
	}
	return packages
}

// buildAll makes static test binaries of the kernel tests, xdpd and xdpctl with failpoints, and collects the
// objects of other projects that are installed here.
func buildAll(ctx context.Context, o options, packages []pkg) error {
	for _, p := range packages {
		if !p.kernel {
			continue
		}
		if err := build(ctx, "test", "-c", "-tags", "failpoint", "-o", p.binary(o.work), "./"+p.name); err != nil {
			return err
		}
	}
	bin := filepath.Join(o.work, "bin") + string(filepath.Separator)
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	if err := build(ctx, "build", "-tags", "failpoint", "-o", bin, "./cmd/xdpd", "./cmd/xdpctl"); err != nil {
		return err
	}
	return collectObjects(ctx, filepath.Join(o.work, "objects"))
}

// build calls the go command for static binaries.
func build(ctx context.Context, args ...string) error {
	cmd := command(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// collectObjects copies the BPF objects of Debian's XDP packages below dir, which may stay empty. They keep their
// paths, so that a test finds them at the same place here and in a VM.
func collectObjects(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Where one of the packages is missing, dpkg still lists the others.
	list, _ := command(ctx, "dpkg", "-L", "libxdp1", "xdp-tools", "xdp-tests").Output()
	for lines := bufio.NewScanner(bytes.NewReader(list)); lines.Scan(); {
		path := lines.Text()
		if !strings.HasSuffix(path, ".o") {
			continue
		}
		object, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(copied, object, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// command is exec.CommandContext with a gentle end: the process is asked to stop and has time to clean up.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopDelay
	return cmd
}
