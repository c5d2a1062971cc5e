// SPDX-License-Identifier: Apache-2.0

// Package docs tests that the program in docs/writing-programs.md is the one that the tests of package examples
// run, and that the page's own command compiles it. It imports the standard library only.
package docs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const page = "docs/writing-programs.md"

// block returns the first block of code of a language.
func block(t *testing.T, text, language string) string {
	t.Helper()
	_, rest, found := strings.Cut(text, "\n```"+language+"\n")
	code, _, ended := strings.Cut(rest, "\n```\n")
	if !found || !ended {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return code + "\n"
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWritingPrograms(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, filepath.Join(root, page))
	program := block(t, text, "c")
	if program != read(t, "../testdata/shield.bpf.c") {
		t.Errorf("the program in %s is not examples/testdata/shield.bpf.c", page)
	}

	if _, err := exec.LookPath("clang"); err != nil {
		t.Fatal("no clang here: install the packages clang, libbpf-dev and linux-libc-dev")
	}
	command, _, _ := strings.Cut(block(t, text, "sh"), "\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "shield.bpf.c"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-ec", strings.ReplaceAll(command, "-Ibpf", "-Werror -Wall -I"+root+"/bpf"))
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v (are libbpf-dev and linux-libc-dev installed?)\n%s", command, err, out)
	}
	if info, err := os.Stat(filepath.Join(dir, "shield.bpf.o")); err != nil || info.Size() == 0 {
		t.Errorf("%s made no object: %v", command, err)
	}
}
