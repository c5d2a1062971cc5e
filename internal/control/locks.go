// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"slices"
	"sync"
)

// locks are one lock for each name. Waiting for one ends with the context.
type locks struct {
	mu   sync.Mutex // protects held
	held map[string]chan struct{}
}

// acquire takes the locks of all names, in one order for everybody, and returns what releases them.
func (l *locks) acquire(ctx context.Context, names ...string) (release func(), err error) {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	for i, name := range names {
		if err := l.take(ctx, name); err != nil {
			l.release(names[:i])
			return nil, err
		}
	}
	return func() { l.release(names) }, nil
}

// try takes one lock if nobody has it.
func (l *locks) try(name string) (release func(), ok bool) {
	if _, ok := l.grab(name); !ok {
		return nil, false
	}
	return func() { l.release([]string{name}) }, true
}

// free tells whether nobody has a lock, at this moment.
func (l *locks) free(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, taken := l.held[name]
	return !taken
}

func (l *locks) take(ctx context.Context, name string) error {
	for {
		busy, ok := l.grab(name)
		if ok {
			return nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// grab takes a lock, or returns what is closed when its holder releases it.
func (l *locks) grab(name string) (busy <-chan struct{}, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if busy, taken := l.held[name]; taken {
		return busy, false
	}
	if l.held == nil {
		l.held = map[string]chan struct{}{}
	}
	l.held[name] = make(chan struct{})
	return nil, true
}

func (l *locks) release(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range names {
		close(l.held[name])
		delete(l.held, name)
	}
}
