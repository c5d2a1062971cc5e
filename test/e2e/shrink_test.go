// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// rehearsal is a test within a test, whose failure is a text.
type rehearsal struct {
	testing.TB
	mu       sync.Mutex // protects what follows
	failed   bool
	text     []string
	cleanups []func()
}

// rehearse runs a test, with its clean-up, and returns what it failed with.
func rehearse(t testing.TB, test func(testing.TB)) (failed string) {
	r := &rehearsal{TB: t}
	run := func(f func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() {
				if p := recover(); p != nil {
					r.Errorf("panic: %v", p)
				}
			}()
			f()
		}()
		<-done
	}
	run(func() { test(r) })
	for len(r.cleanups) > 0 {
		f := r.cleanups[len(r.cleanups)-1]
		r.cleanups = r.cleanups[:len(r.cleanups)-1]
		run(f)
	}
	if !r.failed {
		return ""
	}
	return strings.Join(r.text, "\n")
}

func (r *rehearsal) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

func (r *rehearsal) Log(args ...any) { r.note(false, fmt.Sprint(args...)) }

func (r *rehearsal) Logf(format string, args ...any) { r.note(false, fmt.Sprintf(format, args...)) }

func (r *rehearsal) Error(args ...any) { r.note(true, fmt.Sprint(args...)) }

func (r *rehearsal) Errorf(format string, args ...any) { r.note(true, fmt.Sprintf(format, args...)) }

func (r *rehearsal) Fatal(args ...any) { r.note(true, fmt.Sprint(args...)); runtime.Goexit() }

func (r *rehearsal) Fatalf(format string, args ...any) {
	r.note(true, fmt.Sprintf(format, args...))
	runtime.Goexit()
}

func (r *rehearsal) Fail() { r.note(true, "failed") }

func (r *rehearsal) FailNow() { r.note(true, "failed"); runtime.Goexit() }

func (r *rehearsal) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *rehearsal) note(failed bool, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = r.failed || failed
	if len(r.text) < 40 {
		r.text = append(r.text, text)
	}
}

// shrink looks for a shorter list of operations that fails, by leaving parts out, and tells of it.
func shrink(t *testing.T, acts []act) {
	var last string
	deadline := time.Now().Add(shrinkTime)
	fails := func(some []act) bool {
		if len(some) == 0 || time.Now().After(deadline) {
			return false
		}
		failed := rehearse(t, func(t testing.TB) {
			w := &walk{acts: some, done: map[string]int{}}
			w.run(t, len(some))
		})
		if failed != "" {
			last = failed
		}
		return failed != ""
	}
	for size := (len(acts) + 1) / 2; size > 0; size /= 2 {
		for from := 0; from < len(acts); {
			without := slices.Delete(slices.Clone(acts), from, min(from+size, len(acts)))
			if fails(without) {
				acts = without
				continue
			}
			from += size
		}
	}
	if last == "" {
		t.Log("no shorter list of operations was found that fails")
		return
	}
	var list strings.Builder
	for i, a := range acts {
		fmt.Fprintf(&list, "\n%3d %s", i, a)
	}
	t.Logf("%d operations that fail:%s\nwith: %s", len(acts), &list, last)
}
