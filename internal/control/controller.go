// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/boottime"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/feed"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// Config says where a controller keeps what it keeps, and which linker it uses.
type Config struct {
	StateDir string // the folder of the store
	BPFFS    string // the folder for pins, in a BPF FS
	Linker   string // dispatcher.Auto, Freplace or Inline
	History  int    // how many earlier chains of an interface are kept

	LeaseRenewal time.Duration // how long clients have to hold their leases again after a start
}

// Controller makes all changes of one daemon. Its methods may be called from several goroutines.
type Controller struct {
	store   *store.Store
	plane   *dispatcher.Plane
	netns   uint64
	history int
	log     *slog.Logger

	events *feed.Feed[Event]
	arming sync.Mutex      // held while alarm is set
	alarm  *boottime.Timer // set to the first moment at which a change is to be undone

	nudge      chan struct{} // tend looks soon
	generation atomic.Uint64 // of chains and programs in the store
	decoded    atomic.Pointer[records]

	programs   locks // one for each program name; taken before those of interfaces
	interfaces locks // one for each interface name
	devices    locks // one for each index of an interface; taken after those of names, which may move to another

	changes sync.RWMutex // held for reading by each change, for writing by Stop
	stopped bool         // protected by changes
	tenures *tenures     // who holds which lease

	mu       sync.Mutex                    // protects those below
	objects  map[uint64]*dispatcher.Object // parsed and configured, by program id
	problems map[string]string             // what is wrong, by interface
	failures map[string]failure            // why repairs failed last, by interface
	running  map[string]runs               // what interfaces were seen to run, as they should
	learned  map[uint64]bool               // programs whose pins are known, by id
	foreign  map[string]uint32             // foreign programs in the places of chains, by interface
	retries  map[uint64]retry              // pending changes that could not be undone in time
	undoes   map[uint64]bool               // those that are just being undone
}

// keptEvents is how many events a watcher may be behind.
const keptEvents = 4096

// Open opens the store and the folder for pins, and holds both until Stop or Close. What runs is not touched.
func Open(cfg Config, log *slog.Logger) (_ *Controller, err error) {
	netns, exact, err := netif.NetnsCookie()
	if err != nil {
		return nil, fmt.Errorf("identify the network namespace: %w", err)
	}
	if !exact {
		log.Warn("the kernel has no network namespace cookies (Linux 5.14), taking the inode, which may be reused", "netns", netns)
	}
	st, err := store.Open(storePath(cfg))
	if err != nil {
		return nil, err
	}
	plane, err := dispatcher.Open(cfg.BPFFS, cfg.Linker)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	alarm, err := boottime.NewTimer()
	if err != nil {
		return nil, errors.Join(err, plane.Close(), st.Close())
	}
	return &Controller{
		store: st, plane: plane, netns: netns, history: cfg.History, log: log,
		events: feed.New[Event](keptEvents), alarm: alarm,
		nudge: make(chan struct{}, 1), tenures: newTenures(cfg.LeaseRenewal),
		objects: map[uint64]*dispatcher.Object{}, problems: map[string]string{}, retries: map[uint64]retry{}, undoes: map[uint64]bool{},
		failures: map[string]failure{}, running: map[string]runs{}, learned: map[uint64]bool{}, foreign: map[string]uint32{},
	}, nil
}

// Close lets go of everything and changes nothing: what runs goes on.
func (c *Controller) Close() error {
	c.events.Close()
	return errors.Join(c.alarm.Close(), c.plane.Close(), c.store.Close())
}

// Stop waits for the change that is being made, refuses further ones, takes everything out of the kernel and
// closes. Persistent programs stay in the store. It goes on over errors and returns all of them. If the change
// does not end in time for the rest before the context ends, nothing is taken out. A store that does not answer does not keep it from
// clearing the kernel: that is not closed then, as somebody is at work in it.
func (c *Controller) Stop(ctx context.Context) error {
	idle := make(chan struct{})
	go func() {
		c.changes.Lock()
		c.stopped = true
		c.changes.Unlock()
		close(idle)
	}()
	idly := ctx
	if until, limited := ctx.Deadline(); limited {
		var cancel context.CancelFunc
		idly, cancel = context.WithDeadline(ctx, until.Add(-min(forgetTime, time.Until(until)/2)))
		defer cancel()
	}
	select {
	case <-idle:
	case <-idly.Done():
		return fmt.Errorf("a change is still being made, nothing was removed: %w", context.Cause(idly))
	}
	err := inTime(ctx, c.store.Path(), func() error { return forget(c.store, "stop", c.settle) })
	failpoint.Hit(failpoint.StopSaved)
	if errors.Is(err, errStuck) {
		c.events.Close()
		return errors.Join(err, c.plane.Teardown(), c.alarm.Close(), c.plane.Close())
	}
	return errors.Join(err, c.plane.Teardown(), c.Close())
}

// Teardown does what Stop does where no daemon runs. A store that cannot be read, or does not answer, does not keep it from
// clearing the kernel. It fails with dispatcher.ErrTaken when a daemon runs.
func Teardown(ctx context.Context, cfg Config, log *slog.Logger) error {
	c := &Controller{log: log}
	if _, err := os.Lstat(cfg.BPFFS); errors.Is(err, os.ErrNotExist) {
		log.Info("there is nothing in the kernel", "bpffs", cfg.BPFFS)
		return c.forgetFile(ctx, cfg, nil)
	}
	var err error
	if c.plane, err = dispatcher.OpenForTeardown(cfg.BPFFS); err != nil {
		return err
	}
	c.netns, _, err = netif.NetnsCookie()
	return errors.Join(err, c.forgetFile(ctx, cfg, c.settle), c.plane.Teardown(), c.plane.Close())
}

func storePath(cfg Config) string { return filepath.Join(cfg.StateDir, store.FileName) }

func (c *Controller) forgetFile(ctx context.Context, cfg Config, settle func(*store.Chain) error) error {
	path := storePath(cfg)
	return inTime(ctx, path, func() error {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		st, err := store.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(forget(st, "teardown", settle), st.Close())
	})
}

// StoreProblem returns why the store could not be opened again as it is, or changed; nil: it could. It looks at all of the file,
// and is an error when that is not done before ctx ends.
func (c *Controller) StoreProblem(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.store.Verify(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("look at store %s: %w", c.store.Path(), context.Cause(ctx))
	}
}

// begin admits a change; the caller calls the function that it returns when the change is over.
func (c *Controller) begin() (func(), error) {
	c.changes.RLock()
	if c.stopped {
		c.changes.RUnlock()
		return nil, chain.Errorf(chain.Stopping, nil, "the daemon is stopping")
	}
	return c.changes.RUnlock, nil
}

// object returns the parsed object of a program that is loaded, or about to be.
func (c *Controller) object(p store.Program) (*dispatcher.Object, error) {
	c.mu.Lock()
	o := c.objects[p.ID]
	c.mu.Unlock()
	if o != nil {
		return o, nil
	}
	o, err := c.parse(p)
	if err == nil {
		c.remember(p.ID, o)
	}
	return o, err
}

// parse reads the object of a program from the store.
func (c *Controller) parse(p store.Program) (*dispatcher.Object, error) {
	data, err := c.store.Object(p.Object)
	if err != nil {
		return nil, storeError(err)
	}
	o, err := configured(data, p.Function, p.Settings)
	if err != nil {
		return nil, fmt.Errorf("object of program %q in the store: %w", p.Name, err)
	}
	return o, nil
}

func (c *Controller) remember(id uint64, o *dispatcher.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o == nil {
		delete(c.learned, id)
		delete(c.objects, id)
	} else {
		c.objects[id] = o
	}
}

// setProblem notes what is wrong with an interface, or another thing; nothing, if the text is empty.
func (c *Controller) setProblem(subject, text string) {
	c.mu.Lock()
	before := c.problems[subject]
	if text == "" {
		delete(c.problems, subject)
	} else {
		c.problems[subject] = text
	}
	c.mu.Unlock()
	switch text {
	case before:
	case "":
		c.publish(Event{Kind: Recovered, Subject: subject, Text: before})
	default:
		c.publish(Event{Kind: Degraded, Subject: subject, Text: text})
	}
}

// problem is what is wrong with an interface.
func (c *Controller) problem(iface string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.problems[iface]
}

// bootID is the kernel's name for the time since it was booted.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
