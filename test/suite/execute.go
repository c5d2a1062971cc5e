// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	stopDelay     = 10 * time.Second
	binaryTimeout = "60m"   // for one test binary: it ends what hangs, on the slowest machine too
	vmSeconds     = "10800" // for all of them in one VM
	vmMemory      = "1024"  // MiB
)

// guestScript runs the test binaries of a plan in a VM.
//
//go:embed guest.sh
var guestScript []byte

// runUnit runs the packages that need no kernel, with the race detector where there is a C compiler for it.
func runUnit(ctx context.Context, o options, packages []pkg, c *collector) {
	args := []string{"-tags", "failpoint"}
	if out, err := command(ctx, "go", "env", "CGO_ENABLED").Output(); err == nil && strings.TrimSpace(string(out)) == "1" {
		args = append(args, "-race")
	} else {
		say(c.out, "no cgo here: the race detector is off")
	}
	var names []string
	for _, p := range packages {
		if !p.kernel {
			names = append(names, p.name)
		}
	}
	goTest(ctx, o, "unit", args, names, c)
	goTest(ctx, o, "unit-release", nil, []string{failpoints}, c)
}

// runRunner runs the test of the VM runner itself, which the cache of test results knows nothing of.
func runRunner(ctx context.Context, o options, c *collector) {
	goTest(ctx, o, "unit", []string{"-count=1"}, []string{runner}, c)
}

// goTest runs packages by `go test` with these arguments.
func goTest(ctx context.Context, o options, kind string, args, names []string, c *collector) {
	if len(names) == 0 {
		return
	}
	args = append([]string{"test", "-json", "-timeout", binaryTimeout, "-run", o.run}, args...)
	for _, name := range names {
		args = append(args, "./"+name)
	}
	out, status := capture(command(ctx, "go", args...), logFile(o, kind, names[0], ""))
	missing := slices.Clone(names)
	for _, r := range decode(out) {
		r.kernel = kind
		c.add(r)
		missing = remove(missing, r.pkg)
	}
	for _, name := range missing {
		c.add(result{pkg: name, kernel: kind, problem: "did not run: " + status + "\n" + tail(string(out))})
	}
}

// runNative runs the kernel tests as root on this machine's kernel, with the linker that works on every kernel.
func runNative(ctx context.Context, o options, packages []pkg, c *collector) {
	for _, p := range packages {
		if !p.kernel {
			continue
		}
		for _, linker := range p.linkers("inline") {
			args := []string{
				"env", "XDPD_BIN_DIR=" + filepath.Join(o.work, "bin"), "XDPD_TEST_LINKER=" + linker, p.binary(o.work),
			}
			args = append(append(args, testFlags...), "-test.run="+o.run)
			if os.Geteuid() != 0 {
				args = append([]string{"sudo"}, args...)
			}
			cmd := command(ctx, args[0], args[1:]...)
			cmd.Dir = p.name
			started := time.Now()
			out, status := capture(cmd, logFile(o, "native", p.name, linker))
			r := convert(ctx, p.name, out, status)
			r.kernel, r.linker, r.elapsed = "native", linker, time.Since(started)
			c.add(r)
		}
	}
}

// testFlags are for every test binary.
var testFlags = []string{"-test.v=test2json", "-test.timeout=" + binaryTimeout}

func logFile(o options, kernel, name, linker string) string {
	parts := []string{kernel, strings.ReplaceAll(name, "/", "-")}
	if linker != "" {
		parts = append(parts, linker)
	}
	return filepath.Join(o.work, "logs", strings.Join(parts, ".")+".log")
}

// fetchKernel returns the version that the runner takes for kernel, which is then in its cache.
func fetchKernel(ctx context.Context, kernel string) (string, error) {
	cmd := command(ctx, runner+"/run", "-f", kernel)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("get kernel %s: %w", kernel, err)
	}
	return filepath.Base(strings.TrimSpace(string(out))), nil
}

// vmRun is one run of a test binary in a VM.
type vmRun struct {
	pkg    pkg
	linker string
	tests  string // pattern of the tests to run
}

// kernelsSay are the tests of the daemon that a kernel has most say in. The rest of them runs with the inline linker
// on this machine, and with freplace on the first kernel: emulation is slow.
const kernelsSay = `^Test(Continuity|FullChain|Kill|RandomOperations|SharedMaps|Settings|Trace|Undone|UndoOf.*)$`

// runVM runs the kernel tests with both linkers in one VM, and all those of the daemon if it is the first kernel.
func runVM(ctx context.Context, o options, version string, first bool, packages []pkg, c *collector) {
	var runs []vmRun
	for _, p := range packages {
		if !p.kernel {
			continue
		}
		for _, linker := range p.linkers("freplace", "inline") {
			r := vmRun{p, linker, o.run}
			if p.name == daemonTests && o.run == "" && (!first || linker == "inline") {
				r.tests = kernelsSay
			}
			runs = append(runs, r)
		}
	}
	runInVM(ctx, o, version, runs, c)
}

// bootsLeast are tried before the kernel of a VM that crashes counts as a failure: emulation makes stock kernels crash now
// and then, whichever tests run. What ended before the crash counts; the report has the crash.
const bootsLeast = 2

func runInVM(ctx context.Context, o options, version string, runs []vmRun, c *collector) {
	kernel := series(version)
	for boot := 1; ; boot++ {
		args, err := vmArguments(o, version, runs)
		if err != nil {
			c.add(result{pkg: "the VM", kernel: kernel, problem: err.Error()})
			return
		}
		sections := newSections(func(i int, out []byte, status string, elapsed time.Duration) {
			r := convert(ctx, runs[i].pkg.name, out, status)
			r.kernel, r.linker, r.elapsed = kernel, runs[i].linker, elapsed
			c.add(r)
		})
		cmd := command(ctx, o.runner, args...)
		out, status := capture(cmd, logFile(o, version, "vm", fmt.Sprint(boot)), sections)
		var missing []vmRun
		for _, i := range sections.missing(len(runs)) {
			missing = append(missing, runs[i])
		}
		if status == "" && len(missing) == 0 {
			return
		}
		vm := result{pkg: "the VM", kernel: kernel}
		if crash := crashOf(out); crash != "" && boot < bootsLeast && ctx.Err() == nil {
			vm.note = "the kernel crashed; what had not ended was run again"
			say(c.out, "kernel %s crashed in the VM, and what had not ended is run again:\n%s", kernel, crash)
			c.add(vm)
			runs = missing
			continue
		}
		for _, r := range missing {
			c.add(result{pkg: r.pkg.name, kernel: kernel, linker: r.linker, problem: "did not end in the VM"})
		}
		vm.problem = cmp.Or(status, "ended early") + "\n" + tail(string(out))
		c.add(vm)
		return
	}
}

// crashOf is what the runner said of a kernel that crashed, if it did.
func crashOf(out []byte) string {
	for _, mark := range []string{"crashed:\n", "the VM ended without a result"} {
		if i := strings.Index(string(out), mark); i >= 0 {
			return string(out[i:])
		}
	}
	return ""
}

// series returns the first two numbers of a kernel's version.
func series(version string) string {
	return strings.Join(strings.SplitN(version, ".", 3)[:2], ".")
}

// vmArguments writes the plan of the runs and returns the arguments for the runner.
func vmArguments(o options, version string, runs []vmRun) ([]string, error) {
	dir := filepath.Join(o.work, "vm", version)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	args := []string{
		"-t", vmSeconds, "-m", vmMemory, "-a", filepath.Join(o.work, "bin") + ":/t/bin",
		"-a", filepath.Join(o.work, "objects") + ":/", "-a", filepath.Join(dir, "plan") + ":/t/plan",
		"-e", "XDPD_BIN_DIR=/t/bin",
	}
	var plan bytes.Buffer
	added := map[string]bool{}
	for i, r := range runs {
		fmt.Fprintf(&plan, "%d %s %s %s\n", i, r.pkg.binary("/t"), cmp.Or(r.linker, "-"), r.tests)
		if added[r.pkg.name] {
			continue
		}
		added[r.pkg.name] = true
		args = append(args, "-a", r.pkg.binary(o.work)+":"+r.pkg.binary("/t"))
		testdata := filepath.Join(r.pkg.name, "testdata")
		if _, err := os.Stat(testdata); err == nil {
			args = append(args, "-a", testdata+":"+filepath.Join(filepath.Dir(r.pkg.binary("/t")), "testdata"))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "plan"), plan.Bytes(), 0o644); err != nil {
		return nil, err
	}
	script := filepath.Join(dir, "guest.sh")
	if err := os.WriteFile(script, guestScript, 0o755); err != nil {
		return nil, err
	}
	// Emulation is slow: what is tried in full on this machine is tried in its main parts there.
	return append(append(append(args, version, script), testFlags...), "-test.short"), nil
}

// capture runs cmd with its output to a log and to the writers, and returns the output and how it ended: "" is well.
func capture(cmd *exec.Cmd, log string, writers ...io.Writer) ([]byte, string) {
	var out bytes.Buffer
	file, err := os.Create(log)
	if err != nil {
		return nil, err.Error()
	}
	w := io.MultiWriter(append(writers, file, &out)...)
	cmd.Stdout, cmd.Stderr = w, w
	if err := errors.Join(cmd.Run(), file.Close()); err != nil {
		return out.Bytes(), err.Error()
	}
	return out.Bytes(), ""
}

// explained adds to the error of a command what it printed as its reason.
func explained(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}
