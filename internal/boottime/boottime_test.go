// SPDX-License-Identifier: Apache-2.0

package boottime

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/xdpd/xdpd/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// patience is how long a test waits for what should happen soon.
const patience = 30 * time.Second

func now(t *testing.T) time.Duration {
	t.Helper()
	d, err := Now()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func timer(t *testing.T) *Timer {
	t.Helper()
	tm, err := NewTimer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tm.Close() })
	return tm
}

func set(t *testing.T, tm *Timer, deadline time.Duration) {
	t.Helper()
	if err := tm.Set(deadline); err != nil {
		t.Fatal(err)
	}
}

// elapses wants the deadline to pass, and not before its time.
func elapses(t *testing.T, tm *Timer, deadline time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tm.Wait(ctx); err != nil {
		t.Fatalf("wait: %v", err)
	}
	if at := now(t); at < deadline {
		t.Fatalf("the wait for %v ended at %v", deadline, at)
	}
}

// lasts wants a wait to last longer than d.
func lasts(t *testing.T, tm *Timer, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := tm.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait: %v, want it to last", err)
	}
}

func TestNow(t *testing.T) {
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Fatal(err)
	}
	var seconds float64
	if _, err := fmt.Sscan(string(text), &seconds); err != nil {
		t.Fatal(err)
	}
	a := now(t)
	if d := a - time.Duration(seconds*1e9); d < -time.Second || d > patience {
		t.Errorf("now is %v, but /proc/uptime said %v s", a, seconds)
	}
	if b := now(t); b < a {
		t.Errorf("%v came after %v", b, a)
	}
}

// The kernel tells which clock a timer is on: 7 is the one that counts while the host sleeps, and that nobody sets.
func TestTheClock(t *testing.T) {
	tm := timer(t)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", tm.file.Fd()))
	if err != nil || !strings.Contains(string(info), "clockid: 7\n") {
		t.Errorf("%v, want clock 7 in:\n%s", err, info)
	}
}

func TestDeadlines(t *testing.T) {
	tm := timer(t)
	for range 3 {
		deadline := now(t) + 20*time.Millisecond
		set(t, tm, deadline)
		elapses(t, tm, deadline)
		elapses(t, tm, deadline) // has passed, and stays so
	}
	for _, past := range []time.Duration{now(t), now(t) - time.Second, 1, -1, math.MinInt64} {
		set(t, tm, past)
		elapses(t, tm, past)
	}
	set(t, tm, now(t)+time.Hour)
	lasts(t, tm, 20*time.Millisecond)
	set(t, tm, math.MaxInt64)
	lasts(t, tm, 20*time.Millisecond)
}

func TestWithoutADeadline(t *testing.T) {
	tm := timer(t)
	lasts(t, tm, 10*time.Millisecond)
	set(t, tm, now(t)+20*time.Millisecond)
	set(t, tm, 0)
	lasts(t, tm, 60*time.Millisecond)
	set(t, tm, 1)
	elapses(t, tm, 1)
	set(t, tm, 0) // takes back what has passed
	lasts(t, tm, 10*time.Millisecond)
}

// Whether the wait begins before or after what another goroutine does is left to chance, and makes no difference.
func TestWhileWaiting(t *testing.T) {
	for name, tt := range map[string]struct {
		first time.Duration // from now on; 0: none
		act   func(*testing.T, *Timer, context.CancelFunc)
		want  error
	}{
		"a first deadline":   {0, func(t *testing.T, tm *Timer, _ context.CancelFunc) { set(t, tm, now(t)+time.Millisecond) }, nil},
		"an earlier one":     {time.Hour, func(t *testing.T, tm *Timer, _ context.CancelFunc) { set(t, tm, now(t)) }, nil},
		"closed":             {time.Hour, func(_ *testing.T, tm *Timer, _ context.CancelFunc) { tm.Close() }, os.ErrClosed},
		"closed without one": {0, func(_ *testing.T, tm *Timer, _ context.CancelFunc) { tm.Close() }, os.ErrClosed},
		"cancelled":          {time.Hour, func(_ *testing.T, _ *Timer, cancel context.CancelFunc) { cancel() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			for range 200 {
				tm := timer(t)
				if tt.first != 0 {
					set(t, tm, now(t)+tt.first)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				got := make(chan error, 1)
				go func() { got <- tm.Wait(ctx) }()
				if rand.IntN(2) == 0 {
					time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond)
				}
				tt.act(t, tm, cancel)
				if err := <-got; !errors.Is(err, tt.want) {
					t.Fatalf("%v, want %v", err, tt.want)
				}
				cancel()
				tm.Close()
			}
		})
	}
}

func TestALaterDeadlineWhileWaiting(t *testing.T) {
	tm := timer(t)
	for wait := 30 * time.Millisecond; ; wait *= 2 {
		first := now(t) + wait
		set(t, tm, first)
		got := make(chan error, 1)
		go func() { got <- tm.Wait(t.Context()) }()
		later := now(t) + 4*wait
		set(t, tm, later)
		inTime := now(t) < first
		err := <-got
		if at := now(t); err != nil || inTime && at < later {
			t.Errorf("the wait for %v ended at %v: %v", later, at, err)
		}
		if inTime || wait > patience { // else this thread had to wait itself, and the first deadline may have passed
			return
		}
	}
}

func TestContextComesFirstAndLeavesNothing(t *testing.T) {
	tm := timer(t)
	set(t, tm, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := tm.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	elapses(t, tm, 1)
	// A context that ends at the same time as the wait does not end the next one.
	for range 500 {
		set(t, tm, now(t)+100*time.Microsecond)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Microsecond)
		if err := tm.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		elapses(t, tm, 1)
	}
}

func TestClosed(t *testing.T) {
	tm := timer(t)
	if err := tm.Close(); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"wait": tm.Wait(t.Context()), "set": tm.Set(1), "close": tm.Close()} {
		if !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "timer") {
			t.Errorf("%s: %v, want %v", what, err, os.ErrClosed)
		}
	}
}

func TestNoDescriptorsAreLeft(t *testing.T) {
	timer(t) // so that Go's poller has its own descriptors
	before := descriptors(t)
	for range 100 {
		tm := timer(t)
		set(t, tm, 1)
		elapses(t, tm, 1)
		tm.Close()
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, there were %d", after, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
