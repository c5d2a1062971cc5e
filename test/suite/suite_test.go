// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// names returns the tests' names.
func names(tests []test) string {
	var names []string
	for _, t := range tests {
		names = append(names, t.name)
	}
	return strings.Join(names, " ")
}

const marker = "\x16" // what -test.v=test2json puts before the lines about tests

func TestConvert(t *testing.T) {
	for _, c := range []struct {
		name, out, status string
		passed            int
		failed, skipped   string
		problem           string // a part of it
	}{
		{
			"passes",
			marker + "=== RUN   TestA\n" + marker + "=== RUN   TestA/x\n" + marker + "--- PASS: TestA/x (0.00s)\n" +
				marker + "=== NAME  TestA\n" + marker + "--- PASS: TestA (0.01s)\n" + marker + "PASS\n",
			"", 2, "", "", "",
		},
		{
			"fails and skips",
			marker + "=== RUN   TestA\n    a.go:1: wrong\n" + marker + "--- FAIL: TestA (0.00s)\n" +
				marker + "=== RUN   TestB\n" + marker + "--- SKIP: TestB (0.00s)\n" + marker + "FAIL\n",
			"exit status 1", 0, "TestA", "TestB", "",
		},
		{
			"panics",
			marker + "=== RUN   TestA\n" + marker + "--- PASS: TestA (0.00s)\n" + marker + "=== RUN   TestB\npanic: no\n\ngoroutine 1:\n",
			"exit status 2", 1, "TestB", "", "",
		},
		{
			"leaks after its tests",
			marker + "=== RUN   TestA\n" + marker + "--- PASS: TestA (0.00s)\n" + marker + "PASS\nleaked: fd 7\n",
			"exit status 1", 1, "", "", "leaked: fd 7",
		},
		{"dies at once", "cannot load\n", "exit status 3", 0, "", "", "exit status 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := convert(t.Context(), "some/pkg", []byte(c.out), c.status)
			if r.pkg != "some/pkg" || r.passed != c.passed || names(r.failed) != c.failed || names(r.skipped) != c.skipped {
				t.Errorf("got %+v", r)
			}
			if !strings.Contains(r.problem, c.problem) || (c.problem == "") != (r.problem == "") {
				t.Errorf("problem %q, want %q", r.problem, c.problem)
			}
		})
	}
}

func TestFailedOutputIsKept(t *testing.T) {
	out := marker + "=== RUN   TestA\n    a.go:1: wrong\n" + marker + "--- FAIL: TestA (0.00s)\n" + marker + "FAIL\n"
	r := convert(t.Context(), "p", []byte(out), "exit status 1")
	if len(r.failed) != 1 || !strings.Contains(r.failed[0].output, "a.go:1: wrong") {
		t.Errorf("got %+v", r.failed)
	}
}

func TestDecodeBuildFailure(t *testing.T) {
	results := decode([]byte(`# m/p
{"ImportPath":"m/p","Action":"build-output","Output":"x.go:1: bad\n"}
{"Action":"start","Package":"m/p"}
{"Action":"output","Package":"m/p","Output":"FAIL\tm/p [build failed]\n"}
{"Action":"fail","Package":"m/p","Elapsed":0}
`))
	if len(results) != 1 || results[0].failures() != 1 {
		t.Errorf("got %+v", results)
	}
}

func TestSections(t *testing.T) {
	var got []string
	s := newSections(func(number int, out []byte, status string, _ time.Duration) {
		got = append(got, fmt.Sprintf("%d %q %q", number, out, status))
	})
	stream := "noise\n##suite begin 0\na\nb\n##suite end 0 0\n##suite begin 1\n\n##suite end 1 2\n##suite begin 2\nhalf"
	for _, b := range []byte(stream) { // in the smallest pieces
		if _, err := s.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{`0 "a\nb\n" ""`, `1 "\n" "exit status 2"`}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if missing := s.missing(4); !slices.Equal(missing, []int{2, 3}) {
		t.Errorf("missing %v, want 2 and 3", missing)
	}
}

func TestParsePackages(t *testing.T) {
	list := module + "/chain fmt\n\n" + module + "/dispatcher " + module + "/chain github.com/cilium/ebpf/link\n" +
		module + "/" + runner + " os\n" + module + "/" + systemdTests + " github.com/cilium/ebpf\n"
	got := parsePackages([]byte(list))
	if want := []pkg{{"chain", false}, {"dispatcher", true}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSkipsFile(t *testing.T) {
	if _, err := parseSkips(expectedSkips); err != nil {
		t.Error(err)
	}
	if _, err := parseSkips("6.1 dispatcher TestX\n"); err == nil {
		t.Error("a line without a reason was taken")
	}
}

func TestSkipCovers(t *testing.T) {
	s := skip{kernel: "6.1", pkg: "test/e2e", test: "TestX", why: "w"}
	for _, c := range []struct {
		kernel, pkg, test string
		want              bool
	}{
		{"6.1", "test/e2e", "TestX", true},
		{"6.1", "test/e2e", "TestX/sub", true},
		{"6.12", "test/e2e", "TestX", false},
		{"6.1", "test/e2e", "TestXY", false},
		{"6.1", "dispatcher", "TestX", false},
	} {
		if got := s.covers(result{kernel: c.kernel, pkg: c.pkg}, c.test); got != c.want {
			t.Errorf("%v: %v", c, got)
		}
	}
}

func TestReport(t *testing.T) {
	ok := result{pkg: "a", kernel: "native", passed: 3}
	for _, c := range []struct {
		name    string
		results []result
		last    string
		fails   bool
	}{
		{"all well", []result{ok}, "3 passed, 0 failed, 0 skipped\n", false},
		{"a failed test", []result{ok, {pkg: "b", failed: []test{{"TestA", "x\n"}}}}, "3 passed, 1 failed, 0 skipped\n", true},
		{"a VM that failed", []result{ok, {pkg: "the VM", problem: "the VM: exit status 125"}}, "3 passed, 1 failed, 0 skipped\n", true},
		{"a skip that nobody expects", []result{ok, {pkg: "b", skipped: []test{{"TestA", "x\n"}}}}, "3 passed, 0 failed, 1 skipped\n", true},
		{"nothing", nil, "0 passed, 0 failed, 0 skipped\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			err := report(&out, c.results)
			if !strings.HasSuffix(out.String(), c.last) || (err != nil) != c.fails {
				t.Errorf("error %v after\n%s", err, out.String())
			}
		})
	}
}

// TestCrashedVM has a runner whose kernel crashes in the second of three runs: those that did not end run again, once.
func TestCrashedVM(t *testing.T) {
	for name, c := range map[string]struct {
		crashes      int
		passed, fail int
	}{"never": {0, 3, 0}, "once": {1, 3, 0}, "always": {9, 1, 3}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			script := fmt.Sprintf(`#!/bin/sh
cd %s
boots=$(cat boots 2>/dev/null || echo 0)
echo $((boots + 1)) >boots
while read -r number rest; do
  if [ "$boots" -lt %d ] && { [ "$number" = 1 ] || [ "$boots" != 0 ]; }; then
    echo "vm: kernel 6.1 crashed:" >&2
    echo "BUG: all of it" >&2
    exit 125
  fi
  printf '##suite begin %%s\n\026=== RUN   TestX\n\026--- PASS: TestX (0.00s)\n\026PASS\n\n##suite end %%s 0\n' "$number" "$number"
done <vm/6.1.9/plan
`, dir, c.crashes)
			runner := filepath.Join(dir, "runner")
			if err := errors.Join(os.WriteFile(runner, []byte(script), 0o700), os.Mkdir(filepath.Join(dir, "logs"), 0o700)); err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			results := &collector{out: &out}
			runs := []vmRun{{pkg: pkg{name: "a"}}, {pkg: pkg{name: "b"}}, {pkg: pkg{name: "c"}}}
			runInVM(t.Context(), options{work: dir, runner: runner}, "6.1.9", runs, results)
			passed, failed := 0, 0
			for _, r := range results.results {
				passed, failed = passed+r.passed, failed+r.failures()
			}
			if passed != c.passed || failed != c.fail || (c.crashes > 0) != strings.Contains(out.String(), "BUG: all of it") {
				t.Errorf("%d passed and %d failed, want %d and %d:\n%s", passed, failed, c.passed, c.fail, out.String())
			}
		})
	}
}

func TestTimeUp(t *testing.T) {
	const ended = "fuzz: elapsed: 30s, execs: 52000 (0/sec)\n--- FAIL: FuzzX (30.02s)\n    context deadline exceeded\nFAIL\n"
	if !timeUp(ended) || timeUp(ended+"    Failing input written to testdata/fuzz/FuzzX/1234\n") || timeUp("--- FAIL: FuzzX (3.00s)\n") {
		t.Error("only a target that failed by the end of its time is to be fuzzed once more")
	}
}

func TestCrashOf(t *testing.T) {
	for out, want := range map[string]string{
		"boot\nvm: kernel 6.1 crashed:\nBUG: x\n": "crashed:\nBUG: x\n", "boot\nvm: the VM ended without a result (qemu: 0)\n": "the VM ended without a result (qemu: 0)\n",
		"--- FAIL: TestX\n": "", "vm: stopped after 10800 s\n": "",
	} {
		if got := crashOf([]byte(out)); got != want {
			t.Errorf("of %q it says %q", out, got)
		}
	}
}

func TestFuzzTargets(t *testing.T) {
	dir := t.TempDir()
	text := "package x\n\nfunc FuzzOne(f *testing.F) {\n}\n// func FuzzNot(f *testing.F)\nfunc TestX(t *testing.T) {}\nfunc FuzzTwo(fz *testing.F) {}\n"
	if err := os.WriteFile(filepath.Join(dir, "x_test.go"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := executions("fuzz: elapsed: 3s, execs: 7 (2/sec)\nfuzz: elapsed: 6s, execs: 1234 (0/sec), new interesting: 3 (total: 20)\nPASS\n"); n != 1234 {
		t.Errorf("%d inputs were tried, want 1234", n)
	}
	names, err := fuzzTargets(dir)
	if err != nil || !slices.Equal(names, []string{"FuzzOne", "FuzzTwo"}) {
		t.Errorf("found %q, %v", names, err)
	}
}
