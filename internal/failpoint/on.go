// SPDX-License-Identifier: Apache-2.0

//go:build failpoint

package failpoint

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Enabled tells whether the build has failpoints.
const Enabled = true

// Env is the environment variable with the settings, FIFO the one with the path for the action wait.
const (
	Env  = "XDPD_FAILPOINT"
	FIFO = "XDPD_FAILPOINT_FIFO"
)

type setting struct {
	action string
	left   int // hits until the action
}

var (
	mu       sync.Mutex // protects settings
	settings = mustParse(os.Getenv(Env))
)

// Hit marks that the point name is reached, where nothing can be returned.
func Hit(name string) {
	if err := Err(name); err != nil {
		panic(err)
	}
}

// Err marks that the point name is reached, and returns the error that a test asked for. Call one of Hit and
// Err at a place, not both: each counts.
func Err(name string) error {
	switch action := reached(name); action {
	case "":
		return nil
	case "panic":
		panic("failpoint " + name)
	case "wait":
		await(os.Getenv(FIFO))
		return nil
	case "kill":
		signal(syscall.SIGKILL)
	case "stop":
		signal(syscall.SIGSTOP)
		return nil
	}
	return fmt.Errorf("failpoint %s", name)
}

// reached counts a hit, and returns the action that is due.
func reached(name string) string {
	mu.Lock()
	defer mu.Unlock()
	s := settings[name]
	if s == nil {
		return ""
	}
	s.left--
	if s.left != 0 {
		return ""
	}
	return s.action
}

// await waits until somebody has opened a FIFO for writing, and closed it.
func await(fifo string) {
	f, err := os.Open(fifo)
	if err != nil {
		panic(fmt.Sprintf("failpoint: %v", err))
	}
	defer f.Close()
	if _, err := io.Copy(io.Discard, f); err != nil {
		panic(fmt.Sprintf("failpoint: %v", err))
	}
}

// signal sends sig, which is one for the whole process, through this thread. It returns, for SIGSTOP, when the process
// goes on.
func signal(sig syscall.Signal) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Tgkill(os.Getpid(), unix.Gettid(), sig); err != nil {
		panic(fmt.Sprintf("failpoint: send %v to the own process: %v", sig, err))
	}
	// It returns once this thread took the signal; SIGKILL has ended it by now.
}

func mustParse(text string) map[string]*setting {
	s, err := parse(text)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", Env, err)
		os.Exit(2)
	}
	return s
}

func parse(text string) (map[string]*setting, error) {
	all := make(map[string]*setting)
	if text == "" {
		return all, nil
	}
	for _, part := range strings.Split(text, ",") {
		name, rest, _ := strings.Cut(part, "=")
		action, count, counted := strings.Cut(rest, "@")
		if !slices.Contains(All[:], name) && !slices.Contains(Reload[:], name) {
			return nil, fmt.Errorf("no point is called %q", name)
		}
		if !slices.Contains([]string{"kill", "stop", "wait", "panic", "error"}, action) {
			return nil, fmt.Errorf("%s: no action is called %q; there are kill, stop, wait, panic and error", name, action)
		}
		left := 1
		if counted {
			n, err := strconv.Atoi(count)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%s: the count %q is not a number above 0", name, count)
			}
			left = n
		}
		if all[name] != nil {
			return nil, fmt.Errorf("%s is set twice", name)
		}
		all[name] = &setting{action: action, left: left}
	}
	return all, nil
}
