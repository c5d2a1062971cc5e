// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// openTerminal returns the two sides of a terminal: what is written to keyboard is typed, and screen shows.
func openTerminal(t *testing.T) (keyboard, terminal *os.File) {
	t.Helper()
	keyboard, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { keyboard.Close() })
	raw := int(keyboard.Fd())
	n, err := unix.IoctlGetInt(raw, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(raw, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return keyboard, terminal
}

// question is how a change that waits for a minute is asked about.
var question = regexp.MustCompile(`keep it\? 00:0(1:00|0:\d\d) left \[y/N\] `)

func TestTerminal(t *testing.T) {
	objects(t)
	confirm := &xdpdv1.ConfirmResponse{Change: change7()}
	cancelled := &xdpdv1.CancelResponse{Change: &xdpdv1.Change{Changed: true}}
	for _, c := range []struct {
		typed             string
		status            int
		confirms, cancels int
	}{
		{"y\n", 0, 1, 0},
		{"Yes \n", 0, 1, 0},
		{"n\n", exitRefused, 0, 1},
		{"\n", exitRefused, 0, 1},
		{"yo\n", exitRefused, 0, 1},
		{"\x04", exitRefused, 0, 1}, // Ctrl-D
	} {
		t.Run(fmt.Sprintf("%q", c.typed), func(t *testing.T) {
			f := startFake(t, map[string]any{"AddProgram": addedPending(), "Confirm": confirm, "Cancel": cancelled})
			status, shown := onTerminal(t, t.Context(), f, func(keyboard *os.File) { keyboard.WriteString(c.typed) })
			if status != c.status || !question.MatchString(shown) {
				t.Errorf("exit status %d, %q", status, shown)
			}
			var confirms, cancels int
			for _, r := range f.asked() {
				switch r.(type) {
				case *xdpdv1.ConfirmRequest:
					confirms++
				case *xdpdv1.CancelRequest:
					cancels++
				}
			}
			if confirms != c.confirms || cancels != c.cancels {
				t.Errorf("%d confirms, %d cancels", confirms, cancels)
			}
		})
	}
}

// What ends a question other than an answer: the time, Ctrl-C, a confirmation from elsewhere.
func TestTerminalWithoutAnswer(t *testing.T) {
	objects(t)
	cancelled := &xdpdv1.CancelResponse{Change: &xdpdv1.Change{Changed: true}}
	t.Run("expired", func(t *testing.T) {
		f := startFake(t, map[string]any{"AddProgram": addedPending()})
		status, shown := onTerminal(t, t.Context(), f, func(*os.File) { f.events <- reverted(7, true) })
		if status != exitRefused || !strings.Contains(shown, "change 7 was not confirmed in time: eth0 has its chain") {
			t.Errorf("exit status %d, %q", status, shown)
		}
	})
	t.Run("confirmed elsewhere", func(t *testing.T) {
		f := startFake(t, map[string]any{"AddProgram": addedPending()})
		status, shown := onTerminal(t, t.Context(), f, func(*os.File) { f.events <- confirmed7() })
		if status != 0 || !strings.Contains(shown, "change 7 is confirmed and stays") {
			t.Errorf("exit status %d, %q", status, shown)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		f := startFake(t, map[string]any{"AddProgram": addedPending(), "Cancel": cancelled})
		status, shown := onTerminal(t, ctx, f, func(*os.File) { cancel() })
		if status != exitRefused || !strings.Contains(shown, "change 7 was cancelled") {
			t.Errorf("exit status %d, %q", status, shown)
		}
	})
	t.Run("away at the answer", func(t *testing.T) {
		f := startFake(t, map[string]any{
			"AddProgram": addedPending(), "ListChains": &xdpdv1.ListChainsResponse{}, "Confirm": &xdpdv1.ConfirmResponse{},
			"ListHistory": &xdpdv1.ListHistoryResponse{Entries: []*xdpdv1.HistoryEntry{current(entry7(4))}},
		})
		asked := 0
		f.answers["Confirm"] = answer(func(proto.Message) (proto.Message, error) {
			if asked++; asked == 1 { // heard, and the daemon stops before it answers
				return nil, status.Error(codes.Unavailable, "stopping")
			}
			f.events <- missed()
			return nil, refusal(t, codes.NotFound, "CHANGE_NOT_FOUND", "", "no change 7 waits", nil)
		})
		status, shown := onTerminal(t, t.Context(), f, func(keyboard *os.File) { keyboard.WriteString("y\n") })
		if status != 0 || asked != 2 || !strings.Contains(shown, "change 7 is confirmed and stays") {
			t.Errorf("exit status %d, asked %d times, %q", status, asked, shown)
		}
	})
	t.Run("away for ever", func(t *testing.T) {
		resp := addedPending()
		resp.Change.Pending.Left = durationpb.New(5 * time.Second) // long enough for one look at the clock
		f := startFake(t, map[string]any{"AddProgram": resp})
		status, shown := onTerminal(t, t.Context(), f, func(keyboard *os.File) {
			f.stop()
			keyboard.WriteString("y\n")
		})
		if status != exitRefused || !strings.Contains(shown, "no daemon answers, and change 7 was not confirmed") {
			t.Errorf("exit status %d, %q", status, shown)
		}
	})
}

// onTerminal runs addWithin on a terminal, and acts when the question is on it.
func onTerminal(t *testing.T, ctx context.Context, f *fake, act func(keyboard *os.File)) (status int, shown string) {
	t.Helper()
	keyboard, terminal := openTerminal(t)
	done := make(chan string)
	go func() {
		var screen strings.Builder
		b := make([]byte, 1024)
		acted := false
		for {
			n, err := keyboard.Read(b)
			if err != nil {
				done <- screen.String()
				return
			}
			screen.Write(b[:n])
			if !acted && strings.Contains(screen.String(), "[y/N] ") {
				acted = true
				act(keyboard)
			}
		}
	}()
	status = run(ctx, strings.Fields(addWithin), func(string) string { return f.socket }, stdio{terminal, terminal, terminal})
	terminal.Close()
	return status, <-done
}

// The question is printed anew each second, with the time that is left then. In a bubble, no time passes meanwhile.
func TestCountdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var screen strings.Builder
		w := &waiter{app: &app{stdio: stdio{err: &screen}}, asks: true, deadline: time.Now().Add(2*time.Hour + 3*time.Minute + 4*time.Second)}
		w.prompt(true)
		if want := "\x1b7\rkeep it? 02:03:04 left [y/N] \x1b8"; screen.String() != want {
			t.Errorf("got %q, want %q", screen.String(), want)
		}
		screen.Reset()
		w.deadline = time.Now().Add(-time.Minute)
		w.prompt(false)
		if want := "keep it? 00:00:00 left [y/N] "; screen.String() != want {
			t.Errorf("got %q, want %q", screen.String(), want)
		}
	})
}

// A read from a terminal or pipe on which nothing comes ends with the process's context.
func TestUntilDone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	in := untilDone(ctx, r)
	w.WriteString("ab")
	b := make([]byte, 8)
	if n, err := in.Read(b); n != 2 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := in.Read(b)
		got <- err
	}()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
