// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The sessions in docs/xdpctl.md are those that the other tests check: each block names its golden file.
func TestDocs(t *testing.T) {
	const doc = "../../docs/xdpctl.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)<!-- ([a-z-]+\\.golden) -->\n```console\n(.*?)```\n")
	if *update {
		text = block.ReplaceAllFunc(text, func(old []byte) []byte {
			name := block.FindSubmatch(old)[1]
			return []byte("<!-- " + string(name) + " -->\n```console\n" + read(t, string(name)) + "```\n")
		})
		if err := os.WriteFile(doc, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blocks := block.FindAllStringSubmatch(string(text), -1)
	if fences := strings.Count(string(text), "```console\n"); fences != len(blocks) || fences < 10 {
		t.Errorf("%d sessions, %d of them with a golden file", fences, len(blocks))
	}
	for _, b := range blocks {
		if want := read(t, b[1]); b[2] != want {
			t.Errorf("the session of %s differs; got:\n%s\nwant:\n%s", b[1], b[2], want)
		}
	}
}

func read(t *testing.T, golden string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", golden))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A golden file that no test writes any more would stay right for ever.
func TestGoldenFilesAreUsed(t *testing.T) {
	used := map[string]bool{
		"no-socket": true, "no-listener": true, "no-permission": true, "no-stream": true, "watch": true, "watch-json": true,
		"wait-confirmed": true, "wait-expired": true, "wait-cancelled": true, "no-wait": true,
	}
	for _, c := range goldenCases(t) {
		used[c.name] = true
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) != len(used) {
		t.Errorf("%d golden files for %d tests (%v)", len(files), len(used), err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".golden"); !used[name] {
			t.Errorf("%s belongs to no test", f)
		}
	}
}
