// SPDX-License-Identifier: Apache-2.0

// Command suite runs all tests of the project: those that need no kernel of their own as `go test` does, fuzz tests, the
// kernel tests as root on this machine, the same test binaries in VMs, on each kernel and with both linkers, and the
// tests of the units in a VM whose init is systemd.
// `make test` runs it, from the project's root. It ends with a table, and with status 1 if a test failed, could
// not be run, or was skipped without being on the list in skips.txt.
//
// It imports the standard library only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	parts   []string // of unit, fuzz, kernel, vm, systemd, runner
	kernels []string // for vm, as the runner understands them; systemd takes the first
	work    string   // folder for binaries and logs
	runner  string   // the program that runs VMs
	jobs    int      // runs of tests at a time
	run     string   // pattern of tests
	fuzz    time.Duration
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("suite", flag.ContinueOnError)
	parts := flags.String("parts", "unit fuzz runner kernel vm systemd", "which `parts` to run")
	kernels := flags.String("kernels", "6.1 6.12 latest", "`kernels` for the VMs")
	work := flags.String("work", ".cache/test", "`folder` for binaries and logs")
	jobs := flags.Int("jobs", runtime.NumCPU(), "`how many` test binaries and VMs run at a time")
	pattern := flags.String("run", "", "run only the tests that match this `pattern`")
	fuzz := flags.Duration("fuzztime", 30*time.Second, "`how long` each fuzz test is fuzzed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := filepath.Abs(*work)
	if err != nil {
		return err
	}
	o := options{
		parts: strings.Fields(*parts), kernels: strings.Fields(*kernels), work: dir, runner: runner + "/run", jobs: max(1, *jobs), run: *pattern, fuzz: *fuzz,
	}
	results, err := runAll(ctx, o, stdout)
	if err != nil {
		return err
	}
	return report(stdout, results)
}

// runAll builds what is needed and runs the parts asked for. Its error is that it could not start; a test that
// fails is in the results.
func runAll(ctx context.Context, o options, stdout io.Writer) ([]result, error) {
	started := time.Now()
	if err := os.MkdirAll(filepath.Join(o.work, "logs"), 0o755); err != nil {
		return nil, err
	}
	packages, err := listPackages(ctx)
	if err != nil {
		return nil, err
	}
	c := &collector{out: stdout}
	if slices.Contains(o.parts, "unit") {
		runUnit(ctx, o, packages, c)
	}
	if slices.Contains(o.parts, "fuzz") {
		runFuzz(ctx, o, packages, c)
	}
	var tasks []func()
	if slices.Contains(o.parts, "kernel") || slices.Contains(o.parts, "vm") {
		say(stdout, "building the test binaries")
		if err := buildAll(ctx, o, packages); err != nil {
			return nil, err
		}
	}
	if slices.Contains(o.parts, "vm") {
		for i, kernel := range o.kernels {
			version, err := fetchKernel(ctx, kernel)
			if err != nil {
				return nil, err
			}
			tasks = append(tasks, func() { runVM(ctx, o, version, i == 0, packages, c) })
		}
	}
	if slices.Contains(o.parts, "kernel") { // second, as what takes longest is to begin first
		tasks = slices.Insert(tasks, min(1, len(tasks)), func() { runNative(ctx, o, packages, c) })
	}
	if slices.Contains(o.parts, "systemd") {
		if err := buildSystemd(ctx, o); err != nil {
			return nil, err
		}
		tasks = append(tasks, func() { runSystemd(ctx, o, c) })
	}
	if slices.Contains(o.parts, "runner") {
		tasks = append(tasks, func() { runRunner(ctx, o, c) })
	}
	parallel(o.jobs, tasks)
	if err := ctx.Err(); err != nil {
		return nil, errors.New("stopped by a signal")
	}
	say(stdout, "all in %s", time.Since(started).Round(time.Second))
	return c.results, nil
}

// parallel runs the tasks, n of them at a time, and returns when all are done.
func parallel(n int, tasks []func()) {
	var wg sync.WaitGroup
	free := make(chan struct{}, n)
	for _, task := range tasks {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			task()
		})
	}
	wg.Wait()
}

// collector gathers results from runs that go on at the same time, and prints each as it comes.
type collector struct {
	mu      sync.Mutex // protects the fields below
	results []result
	out     io.Writer
}

func (c *collector) add(r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.results = append(c.results, r)
	r.print(c.out)
}

func say(w io.Writer, format string, args ...any) {
	fmt.Fprintf(w, "== "+format+"\n", args...)
}
