// SPDX-License-Identifier: Apache-2.0

//go:build failpoint

package failpoint

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain is also the process that the tests end: with the argument "reach" it reaches points and says so.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "reach" {
		for _, name := range os.Args[2:] {
			if err := Err(name); err != nil {
				os.Stdout.WriteString(err.Error() + "\n")
			} else {
				os.Stdout.WriteString("passed\n")
			}
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func reach(t *testing.T, setting string, names ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, append([]string{"reach"}, names...)...)
	cmd.Env = append(os.Environ(), Env+"="+setting)
	return cmd
}

func TestKillAtTheThirdHit(t *testing.T) {
	out, err := reach(t, "commit.after=kill@3", CommitAfter, SaveAfter, CommitAfter, CommitAfter, CommitAfter).Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want a kill", err)
	}
	if got := strings.Count(string(out), "passed"); got != 3 {
		t.Errorf("%d points passed before the kill, want 3: %s", got, out)
	}
}

func TestErrorOnce(t *testing.T) {
	out, err := reach(t, "save.before=error", SaveAfter, SaveBefore, SaveBefore).Output()
	if want := "passed\nfailpoint save.before\npassed\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

func TestPanic(t *testing.T) {
	out, err := reach(t, "save.before=panic", SaveBefore).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: failpoint save.before") {
		t.Errorf("got %v: %s", err, out)
	}
}

func TestStopAndGoOn(t *testing.T) {
	cmd := reach(t, "fold.before=stop", FoldBefore)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process did not stop: %v, %v", status, err)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || out.String() != "passed\n" {
		t.Errorf("after SIGCONT: %v, %q", err, out.String())
	}
}

func TestWaitForAFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := reach(t, "fold.before=wait", SaveBefore, FoldBefore, SaveAfter)
	cmd.Env = append(cmd.Env, FIFO+"="+fifo)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // returns when the point is reached
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process does not wait: %v", err)
	}
	w.Close()
	if err := cmd.Wait(); err != nil || out.String() != "passed\npassed\npassed\n" {
		t.Errorf("after the wait: %v, %q", err, out.String())
	}
}

func TestErrorWhereNoneCanBeReturned(t *testing.T) {
	mu.Lock()
	settings, _ = parse("unpin.after=error")
	mu.Unlock()
	defer func() {
		if recover() == nil {
			t.Error("Hit kept an error for itself")
		}
	}()
	Hit(UnpinAfter)
}

func TestBadSettings(t *testing.T) {
	for _, bad := range []string{
		"nosuch=kill", "save.after", "save.after=", "save.after=explode", "save.after=kill@0", "save.after=kill@x",
		"save.after=kill@", "save.after=kill,", "save.after=kill,save.after=stop",
	} {
		if got, err := parse(bad); err == nil {
			t.Errorf("parse(%q) = %v", bad, got)
		}
		if err := reach(t, bad, SaveAfter).Run(); err == nil {
			t.Errorf("a process with %q runs", bad)
		}
	}
	if got, err := parse("save.after=kill@2,stop.saved=error"); err != nil || len(got) != 2 || got[SaveAfter].left != 2 {
		t.Errorf("two settings: %v, %v", got, err)
	}
}
