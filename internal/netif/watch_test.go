// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// watcher is a watch in a namespace.
type watcher struct {
	ns     *nettest.NS
	events chan LinkEvent
	cancel context.CancelFunc
	ended  chan error
}

// startWatch watches ns until the test ends. The watch waits for whoever reads events.
func startWatch(t *testing.T, ns *nettest.NS, queue int) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watcher{ns: ns, events: make(chan LinkEvent), cancel: cancel, ended: make(chan error, 1)}
	ready := make(chan struct{})
	go func() {
		var err error
		nettest.RunIn(ns, func() {
			err = watch(ctx, queue, func() { close(ready) }, func(e LinkEvent) {
				select {
				case w.events <- e:
				case <-ctx.Done():
				}
			})
		})
		w.ended <- err
		close(w.ended)
	}()
	t.Cleanup(func() {
		w.cancel()
		<-w.ended
	})
	select {
	case <-ready:
	case err := <-w.ended:
		t.Fatalf("watch: %v", err)
	}
	return w
}

// next returns the next event.
func (w *watcher) next(t *testing.T) LinkEvent {
	t.Helper()
	select {
	case e := <-w.events:
		return e
	case err := <-w.ended:
		t.Fatalf("the watch ended: %v", err)
	case <-time.After(nettest.Patience):
		t.Fatal("no event came")
	}
	return LinkEvent{}
}

// until reads events up to the wanted one, and returns those before it, of which none may be a Resync.
func (w *watcher) until(t *testing.T, want LinkEvent) (before []LinkEvent) {
	t.Helper()
	for {
		e := w.next(t)
		if e == want {
			return before
		}
		if e.Resync {
			t.Fatalf("%+v after %+v, want %+v", e, before, want)
		}
		before = append(before, e)
	}
}

func TestWatch(t *testing.T) {
	ns := nettest.New(t)
	dev, peer := ns.Index(t, nettest.Dev), ns.Index(t, nettest.Peer)
	w := startWatch(t, ns, watchQueue)

	ns.SetMTU(t, nettest.Dev, 1400)
	w.until(t, LinkEvent{Name: nettest.Dev, Index: dev})
	ns.Rename(t, nettest.Dev, "renamed0")
	for _, e := range w.until(t, LinkEvent{Name: "renamed0", Index: dev}) {
		if e.Gone {
			t.Errorf("a rename: %+v", e)
		}
	}
	ns.AddPair(t, "more0", "more1")
	w.until(t, LinkEvent{Name: "more0", Index: ns.Index(t, "more0")})

	ns.Delete(t, "renamed0")
	gone := map[LinkEvent]bool{{Name: "renamed0", Index: dev, Gone: true}: true, {Name: nettest.Peer, Index: peer, Gone: true}: true}
	for len(gone) > 0 {
		e := w.next(t)
		if e.Gone && !gone[e] {
			t.Errorf("%+v", e)
		}
		delete(gone, e)
	}
}

func TestWatchSeesWhatMoves(t *testing.T) {
	from, to := nettest.New(t), nettest.New(t)
	from.AddPair(t, "mover0", "mover1")
	index := from.Index(t, "mover0")
	leaves, arrives := startWatch(t, from, watchQueue), startWatch(t, to, watchQueue)
	target, err := os.Open(to.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	nettest.RunIn(from, func() {
		link, err := netlink.LinkByName("mover0")
		if err == nil {
			err = netlink.LinkSetNsFd(link, int(target.Fd()))
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	leaves.until(t, LinkEvent{Name: "mover0", Index: index, Gone: true})
	arrives.until(t, LinkEvent{Name: "mover0", Index: to.Index(t, "mover0")})
}

func TestWatchEnds(t *testing.T) {
	ns := nettest.New(t)
	for name, act := range map[string]func(*watcher){
		"while it waits":     func(*watcher) {},
		"while f is called":  func(w *watcher) { ns.SetMTU(t, nettest.Dev, 1300) },
		"while events queue": func(w *watcher) { flap(t, ns, 20) },
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			w := startWatch(t, ns, watchQueue)
			act(w)
			w.cancel()
			if err := <-w.ended; err != nil {
				t.Errorf("the watch ended: %v", err)
			}
			if after := descriptors(t); after > before {
				t.Errorf("%d descriptors, there were %d", after, before)
			}
		})
	}
}

func TestWatchEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	nettest.RunIn(nettest.New(t), func() {
		ready := 0
		err := Watch(ctx, func() { ready++ }, func(e LinkEvent) { t.Errorf("%+v", e) })
		if err != nil || ready != 1 {
			t.Errorf("%v, ready %d times", err, ready)
		}
	})
}

func TestWatchWithoutDescriptors(t *testing.T) {
	ns := nettest.New(t)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	nettest.RunIn(ns, func() {
		none := limit
		none.Cur = 0
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
			t.Fatal(err)
		}
		err := Watch(t.Context(), func() { t.Error("it is ready") }, func(e LinkEvent) { t.Errorf("%+v", e) })
		if back := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); back != nil {
			t.Fatal(back)
		}
		if !errors.Is(err, unix.EMFILE) {
			t.Errorf("%v, want %v", err, unix.EMFILE)
		}
	})
}

// A queue that is too short overruns while nobody reads. What happens after the Resync is told.
func TestWatchOverrun(t *testing.T) {
	const changes = 1000 // of which no kernel's notifications fit into the queue, while those of a rename do
	ns := nettest.New(t)
	dev := ns.Index(t, nettest.Dev)
	w := startWatch(t, ns, 128<<10)
	for round := range 3 {
		flap(t, ns, changes)
		for read := 0; !w.next(t).Resync; read++ {
			if read == changes {
				t.Fatalf("round %d: %d changes overran nothing", round, changes)
			}
		}
		// The rest of the changes may have overrun the queue again behind that Resync: then there is one more.
		now, next := nettest.Dev, "other0"
		for told := 0; told < 2; now, next = next, now {
			ns.Rename(t, now, next)
			if w.untilOrResync(t, LinkEvent{Name: next, Index: dev}) {
				told++
			}
		}
		if now != nettest.Dev {
			ns.Rename(t, now, nettest.Dev)
			w.until(t, LinkEvent{Name: nettest.Dev, Index: dev})
		}
	}
}

// untilOrResync drops events up to the wanted one, or up to a Resync, for which it returns false.
func (w *watcher) untilOrResync(t *testing.T, want LinkEvent) bool {
	t.Helper()
	for {
		switch e := w.next(t); {
		case e == want:
			return true
		case e.Resync:
			return false
		}
	}
}

// flap changes an interface n times.
func flap(t *testing.T, ns *nettest.NS, n int) {
	t.Helper()
	nettest.RunIn(ns, func() {
		link, err := netlink.LinkByName(nettest.Dev)
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if err := netlink.LinkSetMTU(link, 1400+i%2); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// list returns the names of all interfaces of the thread's namespace by index.
func list(t *testing.T) map[int]string {
	t.Helper()
	for {
		links, err := netlink.LinkList()
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			continue
		}
		if err != nil {
			t.Errorf("list interfaces: %v", err)
		}
		all := map[int]string{}
		for _, l := range links {
			all[l.Attrs().Index] = l.Attrs().Name
		}
		return all
	}
}

// Whoever looks at all interfaces when the watch is ready and at each Resync, and follows the events, knows in the
// end which there are, however slow and however short the queue.
func TestWatchKeepsAMirrorTrue(t *testing.T) {
	for _, queue := range []int{1, 16 << 10, watchQueue} {
		t.Run(fmt.Sprint(queue), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			ns := nettest.New(t)
			ctx, cancel := context.WithTimeout(t.Context(), 4*nettest.Patience)
			defer cancel()
			var mirror map[int]string
			ready, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			resyncs := 0
			follow := func(e LinkEvent) {
				<-goOn
				switch {
				case e.Resync:
					resyncs++
					mirror = list(t)
				case e.Gone:
					delete(mirror, e.Index)
				default:
					mirror[e.Index] = e.Name
				}
				if slices.Contains(slices.Collect(maps.Values(mirror)), "last0") {
					cancel()
				}
			}
			go func() {
				var err error
				nettest.RunIn(ns, func() { err = watch(ctx, queue, func() { mirror = list(t); close(ready) }, follow) })
				ended <- err
			}()
			<-ready
			dice := rand.New(rand.NewPCG(seed, 0))
			churn(t, ns, dice, "a") // while the watch waits, so that short queues overrun
			close(goOn)
			churn(t, ns, dice, "b")         // while it follows
			ns.AddPair(t, "last1", "last0") // the kernel tells of last0, the peer, first
			if err := <-ended; err != nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
				t.Fatalf("seed %d: %v, %v", seed, err, ctx.Err())
			}
			var want map[int]string
			nettest.RunIn(ns, func() { want = list(t) })
			for _, all := range []map[int]string{mirror, want} {
				maps.DeleteFunc(all, func(_ int, name string) bool { return name == "last1" })
			}
			if !maps.Equal(mirror, want) {
				t.Errorf("seed %d: the mirror has %v, there are %v", seed, mirror, want)
			}
			if few := queue < watchQueue; few != (resyncs > 0) {
				t.Errorf("seed %d: %d resyncs with a queue of %d", seed, resyncs, queue)
			}
		})
	}
}

// churn makes, renames and deletes pairs.
func churn(t *testing.T, ns *nettest.NS, dice *rand.Rand, prefix string) {
	t.Helper()
	var names []string
	for i := range 30 {
		switch pick := dice.IntN(3); {
		case pick == 0 && len(names) > 0:
			j := dice.IntN(len(names))
			ns.Delete(t, names[j])
			names = slices.Delete(names, j, j+1)
		case pick == 1 && len(names) > 0:
			j, name := dice.IntN(len(names)), fmt.Sprintf("%sagain%d", prefix, i)
			ns.Rename(t, names[j], name)
			names[j] = name
		default:
			name := fmt.Sprintf("%sdev%d", prefix, i)
			ns.AddPair(t, name, fmt.Sprintf("%speer%d", prefix, i))
			names = append(names, name)
		}
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
