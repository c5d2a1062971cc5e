// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// checkTime is how long the program that is to take over may take to say whether it can.
const checkTime = 10 * time.Second

// maxAnswer is how much is read of what it says, in bytes.
const maxAnswer = 4 << 10

// successor is the program that is to take over: the file that was checked, whatever its path leads to since.
type successor struct {
	path    string
	file    *os.File
	version string
}

// Close lets go of the file; of no successor: does nothing.
func (s *successor) Close() {
	if s != nil && s.file != nil {
		s.file.Close()
	}
}

// way returns a path that leads to the file: its own as long as that does, so that the process has its name.
func (s *successor) way() string {
	own, err := s.file.Stat()
	if err == nil {
		if there, err := os.Stat(s.path); err == nil && os.SameFile(own, there) {
			return s.path
		}
	}
	return fmt.Sprintf("/proc/self/fd/%d", s.file.Fd())
}

// execute makes the file the program of this process, with the same arguments and this environment. It returns
// only if that cannot be.
func (s *successor) execute(env []string) error {
	return fmt.Errorf("execute %s: %w", s.path, syscall.Exec(s.way(), os.Args, env))
}

// outdated tells whether the program at the path of this process is another than the one that it runs.
func outdated() bool {
	runs, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	path, err := os.Executable()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && !os.SameFile(runs, there)
}

// askSuccessor lets the program that is now at the path of this process check whether it can take over from r.
func askSuccessor(ctx context.Context, r running) (*successor, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own program: %w", err)
	}
	args, err := checkArgs(os.Args[1:], r)
	if err != nil {
		return nil, err
	}
	return ask(ctx, path, args, r)
}

// ask runs the program at a path. Whatever it does but say that it can take over is a refusal. The caller closes
// the successor.
func ask(ctx context.Context, path string, args []string, r running) (_ *successor, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("find the program: %w", err)
	}
	s := &successor{path: path, file: file}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, checkTime, fmt.Errorf("%s did not answer within %v", path, checkTime))
	defer cancel()
	var stdout, stderr head
	cmd := exec.CommandContext(ctx, s.way(), args...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = without(os.Environ(), "NOTIFY_SOCKET")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second // for a grandchild that has the pipes
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the parent that Pdeathsig means is a thread
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %s", path, err, strings.TrimPrefix(stderr.String(), "xdpd: "))
	}
	if s.version, err = stdout.answer(r); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// checkArgs makes the arguments of the check from those of serve, which takes the same flags.
func checkArgs(serve []string, r running) ([]string, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	args := slices.Clone(serve)
	if i := slices.Index(args, "serve"); i >= 0 {
		args[i] = checkCommand
	}
	return append(args, "--running", string(text)), nil
}

// head keeps the beginning of what is written to it.
type head struct{ buf bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.buf.Write(p[:min(len(p), maxAnswer-h.buf.Len())])
	return len(p), nil
}

func (h *head) String() string { return strings.TrimSpace(h.buf.String()) }

// answer returns the version of the program that said this, if it is that it can take over.
func (h *head) answer(r running) (string, error) {
	var a answer
	decoder := json.NewDecoder(&h.buf)
	said := h.String()
	if err := decoder.Decode(&a); err != nil || !a.CanTakeOver {
		return "", fmt.Errorf("it does not say that it can take over: %q", said)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("it says more than that it can take over: %q", said)
	}
	return a.Version, r.readable(a.Version, a.Schema)
}

// without returns an environment without these variables.
func without(env []string, names ...string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(names, name)
	})
}
