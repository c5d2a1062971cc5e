// SPDX-License-Identifier: Apache-2.0

package early

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
)

// TestMain is also the process that hears: with the argument "hear" it sends itself signals and says what it heard.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "hear" {
		os.Exit(m.Run())
	}
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGTERM, syscall.SIGTERM} {
		if err := syscall.Kill(os.Getpid(), s); err != nil {
			panic(err)
		}
	}
	later := make(chan os.Signal, 8)
	signal.Notify(later, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	fmt.Println(Heard(), Heard())
}

func hearing(t *testing.T, reloaded bool, args ...string) (string, error) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, append([]string{"hear"}, args...)...)
	if reloaded {
		cmd.Env = append(os.Environ(), Handle+"=")
	}
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func TestHeard(t *testing.T) {
	if got, err := hearing(t, true); err != nil || got != "[terminated hangup] []" {
		t.Errorf("after a reload it heard %q, %v", got, err)
	}
	if got, err := hearing(t, false, "--flag", "x", "serve", "--flag", "y"); err != nil || got != "[terminated hangup] []" {
		t.Errorf("at a start it heard %q, %v", got, err)
	}
	if got, err := hearing(t, false, "check-takeover", "--serve"); err == nil || got != "" {
		t.Errorf("a process that is to be no daemon heard %q, %v; want it to end by the signal", got, err)
	}
	if got := Heard(); got != nil {
		t.Errorf("this process heard %v", got)
	}
}
