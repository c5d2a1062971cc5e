// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// expectedSkips lists the tests that may be skipped.
//
//go:embed skips.txt
var expectedSkips string

// skip is a line of skips.txt: three patterns as for path.Match.
type skip struct {
	kernel, pkg, test string
	why               string
}

// parseSkips reads lines of three patterns and a reason behind a #.
func parseSkips(text string) ([]skip, error) {
	var skips []skip
	for line := range strings.Lines(text) {
		patterns, why, _ := strings.Cut(line, "#")
		fields := strings.Fields(patterns)
		if len(fields) == 0 {
			continue
		}
		why = strings.TrimSpace(why)
		if len(fields) != 3 || why == "" {
			return nil, fmt.Errorf("skips.txt: want KERNEL PACKAGE TEST # WHY, not %q", strings.TrimSpace(line))
		}
		for _, pattern := range fields {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, fmt.Errorf("skips.txt: %q: %w", pattern, err)
			}
		}
		skips = append(skips, skip{fields[0], fields[1], fields[2], why})
	}
	return skips, nil
}

// covers says whether the line is about this test; a test covers its subtests.
func (s skip) covers(r result, name string) bool {
	match := func(pattern, text string) bool {
		ok, err := path.Match(pattern, text)
		return ok && err == nil
	}
	top, _, _ := strings.Cut(name, "/")
	return match(s.kernel, r.kernel) && match(s.pkg, r.pkg) && (match(s.test, name) || match(s.test, top))
}

// report prints the table, the skips and the closing line. It returns an error if anything failed or was skipped
// that is not on the list.
func report(w io.Writer, results []result) error {
	skips, err := parseSkips(expectedSkips)
	if err != nil {
		return err
	}
	slices.SortStableFunc(results, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.pkg, b.pkg), cmp.Compare(a.kernel, b.kernel), cmp.Compare(a.linker, b.linker))
	})
	var passed, failed, skipped, surprises int
	var notes strings.Builder
	fmt.Fprintln(w)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PACKAGE\tKERNEL\tLINKER\tPASSED\tFAILED\tSKIPPED\tTIME")
	for _, r := range results {
		passed, failed, skipped = passed+r.passed, failed+r.failures(), skipped+len(r.skipped)
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%s\n", r.pkg, r.kernel, cmp.Or(r.linker, "-"), r.passed, r.failures(),
			len(r.skipped), r.elapsed.Round(100*time.Millisecond))
		for _, t := range r.failed {
			fmt.Fprintf(&notes, "failed: %s %s %s %s\n", r.pkg, r.kernel, r.linker, t.name)
		}
		if r.problem != "" {
			first, _, _ := strings.Cut(r.problem, "\n")
			fmt.Fprintf(&notes, "failed: %s %s %s: %s\n", r.pkg, r.kernel, r.linker, first)
		}
		if r.note != "" {
			fmt.Fprintf(&notes, "note: %s %s %s: %s\n", r.pkg, r.kernel, r.linker, r.note)
		}
		for _, t := range r.skipped {
			i := slices.IndexFunc(skips, func(s skip) bool { return s.covers(r, t.name) })
			if i < 0 {
				surprises++
				fmt.Fprintf(&notes, "skipped and not on the list: %s %s %s %s\n%s", r.pkg, r.kernel, r.linker, t.name, indent(t.output))
				continue
			}
			fmt.Fprintf(&notes, "skipped: %s %s %s %s: %s\n", r.pkg, r.kernel, r.linker, t.name, skips[i].why)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "\n%s\n%d passed, %d failed, %d skipped\n", notes.String(), passed, failed, skipped)
	switch {
	case failed > 0:
		return fmt.Errorf("%d failed", failed)
	case surprises > 0:
		return fmt.Errorf("%d skipped that are not in test/suite/skips.txt", surprises)
	case passed == 0:
		return fmt.Errorf("no test ran")
	}
	return nil
}
