// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// interfaces are those of TestRandomOperations.
var interfaces = []string{nettest.Dev, "xdev1", "xdev2", "xdev3"}

// Bounds of TestRandomOperations: of hosts, and of operations on each.
const (
	randomHosts      = 20
	randomOperations = 500
	shortOperations  = 60
)

// shrinkTime bounds the search for a shorter list of operations that fail.
const shrinkTime = 90 * time.Second

// TestRandomOperations makes all kinds of changes at random, valid and invalid ones, with packets, kills, errors, stops and
// ends of patience between them, and compares each answer and what there is afterwards with the model.
//
// XDPD_SEED makes it repeat one list of operations. One that fails is repeated in parts, to find a shorter one that
// fails too.
func TestRandomOperations(t *testing.T) {
	var seeds []uint64
	operations, hosts := randomOperations, randomHosts
	if testing.Short() {
		operations, hosts = shortOperations, 1
	}
	if text := os.Getenv("XDPD_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("XDPD_SEED: %v", err)
		}
		seeds = []uint64{seed}
	} else {
		for range hosts {
			seeds = append(seeds, rand.Uint64())
		}
	}
	var (
		mu    sync.Mutex // protects total
		total = map[string]int{}
		began = time.Now()
	)
	// A daemon often waits, for the kernel or for a time to be over: there are more at once than processors.
	work := make(chan uint64)
	var workers sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for seed := range work {
				t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
					done := walkAtRandom(t, seed, operations)
					mu.Lock()
					defer mu.Unlock()
					for kind, n := range done {
						total[kind] += n
					}
				})
			}
		})
	}
	for _, seed := range seeds {
		work <- seed
	}
	close(work)
	workers.Wait()
	for _, kind := range kinds {
		if !t.Failed() && !testing.Short() && len(seeds) > 1 && total[kind+" made"] == 0 {
			t.Errorf("no %s was ever made", kind)
		}
	}
	t.Logf("%d operations in %v: %s", operations*len(seeds), time.Since(began).Round(time.Second), tallied(total))
}

// walkAtRandom makes operations drawn with a seed, and returns how many of what kind it made.
func walkAtRandom(t *testing.T, seed uint64, operations int) map[string]int {
	w := &walk{draw: newDraw(seed, 0, interfaces...), done: map[string]int{}}
	if failed := rehearse(t, func(t testing.TB) { w.run(t, operations) }); failed != "" {
		t.Errorf("operation %d of seed %d (XDPD_SEED=%d repeats it): %s", len(w.acts), seed, seed, failed)
		shrink(t, w.acts)
	}
	return w.done
}

func tallied(counts map[string]int) string {
	var parts []string
	for kind, n := range counts {
		parts = append(parts, fmt.Sprint(kind, " ", n))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// run begins with a new host and draws operations, or with none to draw repeats those it has.
func (w *walk) run(t testing.TB, operations int) {
	w.host = newHost(t, interfaces[1:]...)
	w.start()
	repeat := w.acts
	for i := range operations {
		var a act
		if repeat != nil {
			a = repeat[i]
		} else {
			a = w.drawAct()
			w.acts = append(w.acts, a)
		}
		w.perform(a)
		if t.Failed() {
			t.Fatalf("after %s", a)
		}
	}
	w.end()
}
