// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// result is what a run of one package's tests came to.
type result struct {
	pkg, kernel, linker string
	passed              int
	failed, skipped     []test
	elapsed             time.Duration
	problem             string // why the run counts as failed beyond its tests; "" is none
	note                string // what else is to be known of it
}

// test is a test or subtest that did not pass, with what it printed.
type test struct {
	name, output string
}

// event is one of `go test -json`.
type event struct {
	Action  string
	Package string
	Test    string
	Output  string
	Elapsed float64
}

// convert makes a result of what a test binary printed, run with -test.v=test2json, and how it ended.
func convert(ctx context.Context, name string, out []byte, status string) result {
	cmd := command(ctx, "go", "tool", "test2json", "-p", module+"/"+name)
	cmd.Stdin = bytes.NewReader(out)
	events, err := cmd.Output()
	if err != nil {
		return result{pkg: name, problem: fmt.Sprintf("test2json: %v", explained(err))}
	}
	results := decode(events)
	if len(results) == 0 {
		results = []result{{pkg: name, problem: "printed nothing"}}
	}
	r := results[0]
	// Of a panic or a leak that is found after the last test only the status tells.
	if status != "" && len(r.failed) == 0 {
		r.problem = status + ": " + tail(string(out))
	}
	return r
}

// decode makes results of events, one for each package, in order of their appearance.
// What is no event, such as a compiler's message, is ignored: the status of the run tells.
func decode(events []byte) []result {
	var order []string
	states := map[string]*state{}
	for line := range bytes.Lines(events) {
		var e event
		if json.Unmarshal(line, &e) != nil || e.Package == "" {
			continue
		}
		s, ok := states[e.Package]
		if !ok {
			s = &state{result: result{pkg: strings.TrimPrefix(e.Package, module+"/")}, output: map[string]*strings.Builder{}}
			states[e.Package] = s
			order = append(order, e.Package)
		}
		s.take(e)
	}
	results := make([]result, 0, len(order))
	for _, name := range order {
		results = append(results, states[name].end())
	}
	return results
}

// state is a result in the making.
type state struct {
	result  result
	running []string // tests that have begun and not ended
	output  map[string]*strings.Builder
	verdict string // of the package
}

func (s *state) take(e event) {
	if s.output[e.Test] == nil {
		s.output[e.Test] = &strings.Builder{}
	}
	ended := func() test {
		s.running = remove(s.running, e.Test)
		return test{e.Test, s.output[e.Test].String()}
	}
	switch {
	case e.Action == "output":
		s.output[e.Test].WriteString(e.Output)
	case e.Test == "":
		if slices.Contains([]string{"pass", "fail", "skip"}, e.Action) {
			s.verdict = e.Action
			s.result.elapsed = time.Duration(e.Elapsed * float64(time.Second))
		}
	case e.Action == "run":
		s.running = append(s.running, e.Test)
	case e.Action == "pass":
		ended()
		s.result.passed++
	case e.Action == "fail":
		s.result.failed = append(s.result.failed, ended())
	case e.Action == "skip":
		s.result.skipped = append(s.result.skipped, ended())
	}
}

func (s *state) end() result {
	for _, name := range s.running {
		s.result.failed = append(s.result.failed, test{name, s.output[name].String() + "    did not end\n"})
	}
	if s.verdict != "pass" && s.verdict != "skip" && len(s.result.failed) == 0 {
		s.result.problem = "failed beside its tests: "
		if out := s.output[""]; out != nil {
			s.result.problem += tail(out.String())
		}
	}
	return s.result
}

// failures counts failed tests, and a failure beside the tests as one.
func (r result) failures() int {
	if r.problem != "" {
		return len(r.failed) + 1
	}
	return len(r.failed)
}

// print writes a line, and all that failed tests said.
func (r result) print(w io.Writer) {
	verdict := "ok  "
	if r.failures() > 0 {
		verdict = "FAIL"
	}
	fmt.Fprintf(w, "%s  %-28s %-16s %-9s %4d passed %3d failed %3d skipped %8s\n", verdict, r.pkg, r.kernel, r.linker,
		r.passed, r.failures(), len(r.skipped), r.elapsed.Round(100*time.Millisecond))
	for _, t := range r.failed {
		fmt.Fprintf(w, "      %s\n%s", t.name, indent(t.output))
	}
	if r.problem != "" {
		fmt.Fprint(w, indent(r.problem+"\n"))
	}
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("        " + line)
	}
	return b.String()
}

// tail returns the last lines of a text, at most 40.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-40):], "\n")
}

func remove(list []string, item string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == item })
}
