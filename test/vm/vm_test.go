// SPDX-License-Identifier: Apache-2.0

// Package vm tests the runner that the kernel tests use, by running a small program
// with it in VMs. It imports the standard library only.
package vm

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const kernel = "6.12" // that most of the tests use

// guest builds the program that runs in the VM and returns its path.
func guest(t *testing.T) string {
	t.Helper()
	for _, command := range []string{"qemu-system-x86_64", "busybox"} {
		if _, err := exec.LookPath(command); err != nil {
			t.Skipf("no %s here: `make deps` installs it", command)
		}
	}
	path := filepath.Join(t.TempDir(), "guest")
	build := exec.Command("go", "build", "-o", path, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the guest: %v\n%s", err, out)
	}
	return path
}

// result is what a run of the runner came to.
type result struct {
	status         int
	stdout, stderr string
}

// run calls the runner with these arguments.
func run(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.Command("./run", args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
	if t.Failed() || testing.Verbose() {
		t.Logf("run %q: status %d, stdout %q", args, r.status, r.stdout)
	}
	return r
}

func TestKernels(t *testing.T) {
	binary := guest(t)
	for _, version := range []string{"6.1", "6.12"} {
		t.Run(version, func(t *testing.T) {
			r := run(t, version, binary, "release")
			if r.status != 0 {
				t.Fatalf("status %d: %s", r.status, r.stderr)
			}
			release, uid, _ := strings.Cut(strings.TrimSpace(r.stdout), "\n")
			if !strings.HasPrefix(release, version+".") || uid != "0" {
				t.Errorf("ran as %q on %q, want 0 on %s.x", uid, release, version)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	if r := run(t, kernel, guest(t), "exit", "42"); r.status != 42 {
		t.Errorf("status %d, want 42: %s", r.status, r.stderr)
	}
}

func TestArgumentsAndVariable(t *testing.T) {
	r := run(t, "-e", `VM_TEST=it's "$HOME"`, kernel, guest(t), "echo", "a b", "it's", "$x", "")
	if want := `["a b" "it's" "$x" ""] "it's \"$HOME\""` + "\n"; r.stdout != want || r.status != 0 {
		t.Errorf("status %d, printed %q, want %q: %s", r.status, r.stdout, want, r.stderr)
	}
}

func TestFilesInAndOut(t *testing.T) {
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	content := bytes.Repeat([]byte("\x00\r\n\x04\x11\x13\xff"), 10_000)
	if err := os.WriteFile(filepath.Join(dir, "in"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, "-a", dir+":/somewhere/else", "-o", out, kernel, guest(t), "copy", "/somewhere/else/in", "/out/copy")
	if r.status != 0 {
		t.Fatalf("status %d: %s%s", r.status, r.stdout, r.stderr)
	}
	got, err := os.ReadFile(filepath.Join(out, "copy"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Errorf("%d bytes went in, %d other ones came out", len(content), len(got))
	}
}

func TestTimeLimit(t *testing.T) {
	binary, r := guest(t), result{}
	for limit := 20; r.stdout == "" && limit < 1000; limit *= 3 { // until the VM has the time to start
		r = run(t, "-t", strconv.Itoa(limit), kernel, binary, "wait")
	}
	if r.status != 124 || r.stdout != "waiting\n" {
		t.Errorf("status %d after %q, want 124 after what was printed: %s", r.status, r.stdout, r.stderr)
	}
}

func TestCrash(t *testing.T) {
	r := run(t, kernel, guest(t), "crash")
	if r.status != 125 || !strings.Contains(r.stderr, "crashed:\n") {
		t.Errorf("status %d, want 125 and word of a crash: %s", r.status, r.stderr)
	}
}

func TestNoSuchKernel(t *testing.T) {
	r := run(t, "1.2", guest(t), "exit", "0")
	if r.status != 125 || !strings.Contains(r.stderr, "no kernel 1.2 here") {
		t.Errorf("status %d, want 125 and the reason: %s", r.status, r.stderr)
	}
}
