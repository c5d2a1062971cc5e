// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
)

func TestLeases(t *testing.T) {
	s := newStore(t)
	if a, b := s.NextLeaseID(), s.NextLeaseID(); a != 1 || b != 2 {
		t.Fatal(a, b)
	}
	one, two, many := leaseOf(1), leaseOf(2), leaseOf(256)
	a := leased(program(1, "a", "x"), 2)
	must(t, s.Save(Change{PutLeases: []Lease{many, two, one}, PutPrograms: []Program{a}, Objects: objects("x")}))
	for range 2 {
		if got, err := s.Leases(); err != nil || !reflect.DeepEqual(got, []Lease{one, two, many}) {
			t.Errorf("%+v, %v", got, err)
		}
		if id := s.NextLeaseID(); id != 257 {
			t.Errorf("after 256 was saved comes %d", id)
		}
		s = reopen(t, s)
	}
	if err := s.Save(Change{DeleteLeases: []uint64{2}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "program a has the lease 2, which does not exist") {
		t.Error(err)
	}
	// What is kept of a program does not keep its lease.
	was := entryOf(t, "eth0", 1, a)
	must(t, s.Save(Change{
		DeleteLeases: []uint64{2, 77}, DeletePrograms: []string{"a"}, PutHistory: []Entry{was}, HistoryLimit: 1,
		PutPending: []Pending{pendingOf(t, 1, "eth0", a)},
	}))
	two.Token = one.Token
	if err := s.Save(Change{PutLeases: []Lease{two}}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "leases 1 and 2 have the same token") {
		t.Error(err)
	}
	must(t, s.Save(Change{DeleteLeases: []uint64{1}, PutLeases: []Lease{two}})) // a token can go from one to another
	if got, err := s.Leases(); err != nil || !reflect.DeepEqual(got, []Lease{two, many}) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSaveInvalidLeases(t *testing.T) {
	edit := func(f func(*Lease)) Change { l := leaseOf(5); f(&l); return Change{PutLeases: []Lease{l}} }
	put := func(p Program) Change {
		return Change{PutPrograms: []Program{p}, Objects: objects("one"), PutLeases: []Lease{leaseOf(5)}}
	}
	a := program(1, "a", "one")
	forever := leased(a, 5)
	forever.Lifetime = "persistent"
	refuses(t, map[string]Change{
		"twice":               {PutLeases: []Lease{leaseOf(5), leaseOf(5)}},
		"put and deleted":     {PutLeases: []Lease{leaseOf(5)}, DeleteLeases: []uint64{5}},
		"no id":               edit(func(l *Lease) { l.ID = 0 }),
		"no token":            edit(func(l *Lease) { l.Token = "" }),
		"token":               edit(func(l *Lease) { l.Token = strings.Repeat("t", MaxText+1) }),
		"token's text":        edit(func(l *Lease) { l.Token = "\xff" }),
		"grace":               edit(func(l *Lease) { l.Grace = -1 }),
		"lease unknown":       put(leased(a, 6)),
		"lifetime":            put(forever),
		"lifetime without it": put(leased(a, 0)),
	})
}

func TestPatterns(t *testing.T) {
	five, dropped := int32(5), chain.Of(chain.Drop)
	put := func(patterns ...Pattern) Change {
		p := program(1, "a", "one")
		p.Patterns = patterns
		return Change{PutPrograms: []Program{p}, Objects: objects("one")}
	}
	many, except := []Pattern{}, []string{}
	for i := range MaxPatterns + 1 {
		many = append(many, Pattern{Glob: fmt.Sprintf("eth%d*", i)})
	}
	for i := range MaxExcept + 1 {
		except = append(except, fmt.Sprintf("eth%04d", i))
	}
	wrong := chain.ProceedOn(1 << 30)
	refuses(t, map[string]Change{
		"too many":         put(many...),
		"twice":            put(Pattern{Glob: "eth*"}, Pattern{Glob: "veth*"}, Pattern{Glob: "eth*", Priority: &five}),
		"no pattern":       put(Pattern{Glob: "eth0"}),
		"empty":            put(Pattern{}),
		"open bracket":     put(Pattern{Glob: "eth["}),
		"not text":         put(Pattern{Glob: "eth\xff*"}),
		"proceeds":         put(Pattern{Glob: "eth*", ProceedOn: &wrong}),
		"mode":             put(Pattern{Glob: "eth*", Mode: "fast"}),
		"two positions":    put(Pattern{Glob: "eth*", Position: chain.Position{First: true, Last: true}}),
		"anchor":           put(Pattern{Glob: "eth*", Position: chain.Position{Before: "b/b"}}),
		"too many excepts": put(Pattern{Glob: "eth*", Except: except}),
		"out of order":     put(Pattern{Glob: "eth*", Except: []string{"eth1", "eth0"}}),
		"except twice":     put(Pattern{Glob: "eth*", Except: []string{"eth0", "eth0"}}),
		"except's name":    put(Pattern{Glob: "eth*", Except: []string{"eth*"}}),
		"of an entry":      {PutHistory: []Entry{entryOf(t, "eth0", 4, put(Pattern{Glob: "x"}).PutPrograms...)}},
	})
	s := newStore(t)
	many = many[1:]
	many[0] = Pattern{
		Glob: "red:veth[0-9]*", Priority: &five, Position: chain.Position{After: "b"}, ProceedOn: &dropped, Mode: chain.Generic, Except: except[1:],
	}
	must(t, s.Save(put(many...)))
	if p, found, err := s.Program("a"); err != nil || !found || !reflect.DeepEqual(p.Patterns, many) {
		t.Errorf("%+v, %v, %v", p, found, err)
	}
}
