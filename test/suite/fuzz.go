// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// fuzzAtOnce is how many targets are fuzzed at a time, each by one process.
const fuzzAtOnce = 2

// target is a fuzz test.
type target struct{ pkg, name string }

// runFuzz fuzzes every target of the packages for some time, on this machine. An input that fails is in the testdata of
// the package then, and a test from now on.
func runFuzz(ctx context.Context, o options, packages []pkg, c *collector) {
	wanted, err := regexp.Compile(o.run)
	if err != nil {
		c.add(result{pkg: "fuzz targets", kernel: "fuzz", problem: err.Error()})
		return
	}
	var targets []target
	for _, p := range packages {
		names, err := fuzzTargets(p.name)
		names = slices.DeleteFunc(names, func(name string) bool { return !wanted.MatchString(name) })
		if err == nil && len(names) > 0 {
			err = build(ctx, "test", "-c", "-fuzz=.", "-tags", "failpoint", "-o", fuzzBinary(o, p.name), "./"+p.name)
		}
		if err != nil {
			c.add(result{pkg: p.name, kernel: "fuzz", problem: err.Error()})
			continue
		}
		for _, name := range names {
			targets = append(targets, target{p.name, name})
		}
	}
	if len(targets) == 0 && o.run == "" {
		c.add(result{pkg: "fuzz targets", kernel: "fuzz", problem: "there are none"})
	}
	tasks := make([]func(), len(targets))
	for i, t := range targets {
		tasks[i] = func() { c.add(t.fuzz(ctx, o)) }
	}
	parallel(fuzzAtOnce, tasks)
}

func fuzzBinary(o options, pkg string) string {
	return filepath.Join(o.work, "fuzz", pkg, filepath.Base(pkg)+".fuzz")
}

// fuzzLine begins a fuzz test.
var fuzzLine = regexp.MustCompile(`(?m)^func (Fuzz\w*)\(\w+ \*testing\.F\)`)

// fuzzTargets are the names of a package's fuzz tests.
func fuzzTargets(dir string) (names []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for fuzz tests: %w", err)
		}
		for _, m := range fuzzLine.FindAllStringSubmatch(string(text), -1) {
			names = append(names, m[1])
		}
	}
	return names, nil
}

// leastExecutions is how many inputs are to be tried for fuzzing to be worth its name.
const leastExecutions = 100

// executions is how many inputs were tried, as the last line says that tells of it.
func executions(out string) (n int) {
	for line := range strings.Lines(out) {
		if _, text, ok := strings.Cut(line, "execs: "); ok {
			fmt.Sscanf(text, "%d", &n)
		}
	}
	return n
}

// fuzz fuzzes a target, once more where only the end of the time came in between.
func (t target) fuzz(ctx context.Context, o options) result {
	r := t.fuzzOnce(ctx, o)
	if timeUp(r.problem) && ctx.Err() == nil {
		r = t.fuzzOnce(ctx, o)
	}
	return r
}

// timeUp tells whether fuzzing failed by nothing but the end of its time: Go up to 1.26 takes that for a failure now and then
// (golang/go#75804).
func timeUp(problem string) bool {
	return strings.Contains(problem, "context deadline exceeded") && !strings.Contains(problem, "Failing input written to")
}

func (t target) fuzzOnce(ctx context.Context, o options) result {
	args := []string{
		fuzzBinary(o, t.pkg), "-test.run=^$", "-test.fuzz=^" + t.name + "$", "-test.fuzztime=" + o.fuzz.String(), "-test.parallel=1",
		"-test.fuzzminimizetime=10x", // an object takes all the time else
		"-test.fuzzcachedir=" + filepath.Join(o.work, "fuzz", t.pkg, "cache"), "-test.timeout=" + binaryTimeout,
	}
	if os.Geteuid() != 0 { // as the other tests of those packages that need it
		args = append([]string{"sudo"}, args...)
	}
	cmd := command(ctx, args[0], args[1:]...)
	cmd.Dir = t.pkg
	started := time.Now()
	out, status := capture(cmd, logFile(o, "fuzz", t.pkg, t.name))
	r := result{pkg: t.pkg, kernel: "fuzz", linker: t.name, elapsed: time.Since(started)}
	switch {
	case status != "":
		r.problem = status + "\n" + tail(string(out))
	case executions(string(out)) < leastExecutions:
		r.problem = "it hardly fuzzed\n" + tail(string(out))
	default:
		r.passed = 1
	}
	return r
}
