// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// Check compares everything that says what runs: the model, the API, the store, the pins, what the kernel says
// of links and programs, and what packets do. A stateful test ends in it.
func (h *host) Check() {
	h.Helper()
	for _, iface := range slices.Sorted(maps.Keys(h.wires)) {
		h.send(iface, 3)
	}
	l := h.look()
	l.compareAPI()
	h.checkHistory(slices.Sorted(maps.Keys(h.wires))...)
	l.compareRest()
}

// checkAPI compares what the daemon says with the model.
func (h *host) checkAPI() {
	h.Helper()
	h.look().compareAPI()
}

// checkStore compares a copy of the store's file with the API's answers, and the pins with it.
func (h *host) checkStore() {
	h.Helper()
	h.look().compareStore()
}

// checkKernel compares what the kernel says with the API's answers, and notes all ids for later.
func (h *host) checkKernel() {
	h.Helper()
	h.look().compareKernel()
}

// ctx ends after the host's patience, and with the test.
func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), cmp.Or(h.patience, patience))
	h.Cleanup(cancel)
	return ctx
}

// send sends k packets to an interface, sees to it that as many arrive as the model says, and returns when they
// are counted. No change may go on.
func (h *host) send(iface string, k uint64) {
	h.Helper()
	h.sendThrough(h.model, iface, k)
}

// sendThrough is send where the chain that is live is that of from, and not the intended one. It does not need the daemon.
func (h *host) sendThrough(from *model, iface string, k uint64) {
	h.Helper()
	w := h.wires[iface]
	arrived, counted := w.receiver.Count(), h.counted(iface)
	w.sender.Send(nettest.Frame(64), int(k))
	arrive := h.model.sendThrough(from, iface, k)
	w.receiver.Wait(arrived + arrive)
	if len(from.chains[iface].Members) == 0 {
		return
	}
	h.eventually(fmt.Sprintf("%s counts %d packets more", iface, k), func() bool { return h.counted(iface) == counted+k })
	if got := w.receiver.Count() - arrived; got != arrive {
		h.Errorf("%d of %d packets arrived behind %s, want %d", got, k, iface, arrive)
	}
}

// eventually waits for what nobody tells of, such as counters in the kernel. What it waits for must stay when it has come.
func (h *host) eventually(what string, is func() bool) {
	h.Helper()
	h.within(patience, what, is)
}

func (h *host) within(limit time.Duration, what string, is func() bool) {
	h.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("it never came to be that %s", what)
		}
	}
}

// counted reads from the pins how many packets all revisions of an interface counted.
func (h *host) counted(iface string) (sum uint64) {
	h.Helper()
	for _, path := range h.glob("%s/rev-*/counters", h.device(iface).folder()) {
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			h.Fatalf("open counters: %v", err)
		}
		for cpu := range m.MaxEntries() {
			var exits chain.Exits
			if err := m.Lookup(cpu, &exits); err != nil {
				h.Fatalf("read counters: %v", err)
			}
			sum += exits.Packets(chain.MaxMembers)
		}
		m.Close()
	}
	return sum
}

func (h *host) glob(format string, args ...any) []string {
	paths, err := filepath.Glob(filepath.Join(h.pins, fmt.Sprintf(format, args...)))
	if err != nil {
		h.Fatal(err)
	}
	return paths
}

// pinned is all of the daemon's folder, sorted.
func (h *host) pinned() (all []string) {
	err := filepath.WalkDir(h.pins, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != h.pins {
			return nil // it went just now
		}
		if err == nil && path != h.pins {
			all = append(all, strings.TrimPrefix(path, h.pins+"/"))
		}
		return err
	})
	if err != nil {
		h.Fatalf("list pins: %v", err)
	}
	slices.Sort(all)
	return all
}
