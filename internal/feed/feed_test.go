// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdpd/xdpd/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// filled returns a feed of that size with the events 0 to n-1.
func filled(size, n int) *Feed[int] {
	f := New[int](size)
	publish(f, 0, n)
	return f
}

func publish(f *Feed[int], from, to int) {
	for i := from; i < to; i++ {
		f.Publish(i)
	}
}

// event reads an event and wants it to be that one.
func event(t *testing.T, r *Reader[int], want int) Item[int] {
	t.Helper()
	return next(t, r, Item[int]{Value: want})
}

// gap reads a gap and wants it to be of that many; 0: not known.
func gap(t *testing.T, r *Reader[int], missed uint64) Item[int] {
	t.Helper()
	return next(t, r, Item[int]{Gap: true, Missed: missed})
}

func next(t *testing.T, r *Reader[int], want Item[int]) Item[int] {
	t.Helper()
	item, err := r.Next(t.Context())
	want.Token = r.Token()
	if err != nil || item != want {
		t.Fatalf("%+v, %v, want %+v", item, err, want)
	}
	return item
}

// nothing wants the reader to be at the end.
func nothing(t *testing.T, r *Reader[int]) {
	t.Helper()
	was := r.Token()
	if item, wake, err := r.take(); wake == nil {
		t.Fatalf("%+v, %v, want nothing", item, err)
	}
	if r.Token() != was {
		t.Fatalf("reading nothing moved the reader from %s to %s", was, r.Token())
	}
}

func TestFromNowOn(t *testing.T) {
	f := filled(4, 3)
	r := f.Read("")
	nothing(t, r)
	publish(f, 3, 5)
	event(t, r, 3)
	event(t, r, 4)
	nothing(t, r)
}

func TestEveryTokenGoesOnAfterItsItem(t *testing.T) {
	f := New[int](8)
	r := f.Read("")
	tokens := []string{r.Token()}
	publish(f, 0, 8)
	for i := range 8 {
		tokens = append(tokens, event(t, r, i).Token)
	}
	for i, token := range tokens {
		again := f.Read(token)
		if again.Token() != token {
			t.Errorf("a reader from %s is at %s", token, again.Token())
		}
		for j := i; j < 8; j++ {
			event(t, again, j)
		}
		nothing(t, again)
	}
}

func TestSlowReaderIsToldWhatItMissed(t *testing.T) {
	f := New[int](4)
	r := f.Read("")
	publish(f, 0, 2)
	event(t, r, 0)
	publish(f, 2, 10)
	was := r.Token()
	after := gap(t, r, 5).Token
	event(t, r, 6)
	publish(f, 10, 11)
	for i := 7; i < 11; i++ {
		event(t, r, i)
	}
	nothing(t, r)

	gap(t, f.Read(was), 6)
	again := f.Read(after)
	gap(t, again, 1)
	event(t, again, 7)
}

func TestExactlyFullMissesNothing(t *testing.T) {
	f := New[int](4)
	r := f.Read("")
	for round := range 5 {
		publish(f, 4*round, 4*round+4)
		for i := range 4 {
			event(t, r, 4*round+i)
		}
	}
	publish(f, 20, 25)
	gap(t, r, 1)
	event(t, r, 21)
}

func TestSizeIsAtLeastOne(t *testing.T) {
	for _, size := range []int{-1, 0, 1} {
		f := New[int](size)
		r := f.Read("")
		publish(f, 0, 3)
		gap(t, r, 2)
		event(t, r, 2)
	}
}

func TestForeignTokens(t *testing.T) {
	f := filled(4, 3)
	own := f.token(2)
	for name, token := range map[string]string{
		"of another run":     filled(4, 3).Read("").Token(),
		"of the future":      f.token(4),
		"of the far future":  f.token(1<<64 - 1),
		"beyond all numbers": f.run + "-18446744073709551616",
		"no number":          f.run + "-",
		"negative":           f.run + "--1",
		"with a sign":        f.run + "-+2",
		"with zeros":         f.run + "-02",
		"with a space":       own + " ",
		"without the run":    own[len(f.run):],
		"only the run":       f.run,
		"in lower case":      strings.ToLower(own),
		"nonsense":           "nonsense",
		"not UTF-8":          "\xff",
		"very long":          strings.Repeat("x", 1<<20),
		"that of a gap":      nowhere,
	} {
		t.Run(name, func(t *testing.T) {
			f := &Feed[int]{run: f.run, ring: make([]int, 4)}
			publish(f, 0, 3)
			r := f.Read(token)
			early := r.Token()
			publish(f, 3, 5)
			after := gap(t, r, 0).Token
			event(t, r, 3)
			event(t, r, 4)
			nothing(t, r)

			again := f.Read(early)
			gap(t, again, 0)
			nothing(t, again)
			event(t, f.Read(after), 3)
		})
	}
}

func TestForeignAndSlow(t *testing.T) {
	f := filled(4, 3)
	r := f.Read("nonsense")
	publish(f, 3, 20)
	gap(t, r, 0)
	event(t, r, 16)
}

func TestTooOldToken(t *testing.T) {
	f := New[int](4)
	oldest := f.Read("").Token()
	publish(f, 0, 4)
	event(t, f.Read(oldest), 0)
	publish(f, 4, 7)
	r := f.Read(oldest)
	if r.Token() != oldest {
		t.Errorf("before the gap the token is %s, want %s", r.Token(), oldest)
	}
	publish(f, 7, 8)
	gap(t, r, 4)
	for i := 4; i < 8; i++ {
		event(t, r, i)
	}
	nothing(t, r)
}

func TestClose(t *testing.T) {
	f := New[int](4)
	r, lost := f.Read(""), f.Read("nonsense")
	publish(f, 0, 6)
	f.Close()
	f.Close()
	f.Publish(6)
	gap(t, r, 2)
	gap(t, lost, 0)
	for i := 2; i < 6; i++ {
		event(t, r, i)
		event(t, lost, i)
	}
	for _, r := range []*Reader[int]{r, lost, f.Read(""), f.Read(r.Token())} {
		for range 2 {
			if item, err := r.Next(t.Context()); !errors.Is(err, ErrClosed) || item != (Item[int]{}) {
				t.Errorf("%+v, %v, want %v", item, err, ErrClosed)
			}
		}
	}
	event(t, f.Read(f.token(5)), 5)
}

func TestContextComesFirstAndLosesNothing(t *testing.T) {
	f := New[int](4)
	r := f.Read("")
	publish(f, 0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if item, err := r.Next(ctx); !errors.Is(err, context.Canceled) || item != (Item[int]{}) {
		t.Errorf("%+v, %v, want %v", item, err, context.Canceled)
	}
	event(t, r, 0)
}

// In a bubble, synctest.Wait returns when all the other goroutines wait.
func TestWaiting(t *testing.T) {
	for name, tt := range map[string]struct {
		act  func(*Feed[int], context.CancelFunc)
		want error
	}{
		"for an event":   {func(f *Feed[int], _ context.CancelFunc) { f.Publish(7) }, nil},
		"for the end":    {func(f *Feed[int], _ context.CancelFunc) { f.Close() }, ErrClosed},
		"for no longer":  {func(_ *Feed[int], cancel context.CancelFunc) { cancel() }, context.Canceled},
		"for a deadline": {func(*Feed[int], context.CancelFunc) { time.Sleep(time.Hour) }, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := New[int](4)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				const readers = 10
				got := make(chan error, readers)
				for range readers {
					r := f.Read("")
					go func() {
						item, err := r.Next(ctx)
						if err == nil && item.Value != 7 {
							t.Errorf("%+v, want the event 7", item)
						}
						got <- err
					}()
				}
				synctest.Wait()
				if len(got) != 0 {
					t.Fatalf("%d readers did not wait", len(got))
				}
				tt.act(f, cancel)
				for range readers {
					if err := <-got; !errors.Is(err, tt.want) {
						t.Errorf("%v, want %v", err, tt.want)
					}
				}
			})
		})
	}
}

// pair is an event of a publisher, which counts its own.
type pair struct{ publisher, number int }

// count is what a reader came by.
type count struct{ received, missed, gaps uint64 }

// follow reads to the end and checks that the events of each publisher come in order.
func follow(t *testing.T, r *Reader[pair], pace func(int)) (c count) {
	last := map[int]int{}
	for i := 0; ; i++ {
		item, err := r.Next(t.Context())
		switch {
		case errors.Is(err, ErrClosed):
			return c
		case err != nil:
			t.Errorf("read: %v", err)
			return c
		case item.Gap:
			if item.Missed == 0 || item.Value != (pair{}) {
				t.Errorf("a gap: %+v", item)
			}
			c.missed += item.Missed
			c.gaps++
		default:
			if before, seen := last[item.Value.publisher]; seen && item.Value.number <= before {
				t.Errorf("event %+v came after number %d", item.Value, before)
			}
			last[item.Value.publisher] = item.Value.number
			c.received++
		}
		pace(i)
	}
}

func TestManyPublishersAndReaders(t *testing.T) {
	const publishers, readers, each, size = 4, 8, 20_000, 64
	f := New[pair](size)
	counts := make([]count, readers)
	first := f.Read("")
	var reading, publishing sync.WaitGroup
	for i := range readers {
		r := f.Read("")
		reading.Go(func() {
			counts[i] = follow(t, r, func(n int) {
				if n%(i+1) == 0 { // some are slower than others
					runtime.Gosched()
				}
			})
		})
	}
	for p := range publishers {
		publishing.Go(func() {
			for n := range each {
				f.Publish(pair{p, n})
			}
		})
	}
	publishing.Wait()
	f.Close()
	reading.Wait()
	for i, c := range counts {
		if c.received+c.missed != publishers*each {
			t.Errorf("reader %d received %d and missed %d of %d", i, c.received, c.missed, publishers*each)
		}
	}
	if got, want := follow(t, first, func(int) {}), (count{size, publishers*each - size, 1}); got != want {
		t.Errorf("who read nothing before the end came by %+v, want %+v", got, want)
	}
}

// A reader that comes back again and again with the token of its last item misses no more than one that stays.
func TestComingBack(t *testing.T) {
	const events = 20_000
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	f := New[int](16)
	stays := f.Read("")
	token := stays.Token()
	for published := 0; published < events; {
		n := dice.IntN(24)
		publish(f, published, published+n)
		published += n
		for range dice.IntN(24) {
			back := f.Read(token)
			if stays.at == f.next {
				nothing(t, back)
				break
			}
			want, err := stays.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			next(t, back, want)
			token = want.Token
		}
	}
}
