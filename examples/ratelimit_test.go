// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

const (
	passed  = 0
	dropped = 1
)

type limit struct{ Rate, Burst uint32 }

type bucket struct{ FullAt uint64 }

// meter counts what gets through the limit while time goes on.
type meter struct {
	loaded
	start time.Time
	rate  float64
}

// through sends 100 copies of a packet. The program has to let want of them through, and at most as many more
// as tokens came back since the start.
func (m meter) through(want uint64, p packet, what string) {
	m.Helper()
	before := m.total("counts", passed)
	for range 100 { // one by one: a signal has many at once begin anew
		m.run(p.bytes())
	}
	got := m.total("counts", passed) - before
	if most := want + uint64(time.Since(m.start).Seconds()*m.rate); got < want || got > most {
		m.Errorf("%s: %d of 100 packets got through, want %d to %d", what, got, want, most)
	}
}

// limited sets the limit.
func limited(l loaded, to limit) meter {
	l.Helper()
	l.put("config", uint32(0), to)
	return meter{l, time.Now(), float64(to.Rate)}
}

// rewind makes a source's bucket believe that time has passed.
func rewind(l loaded, source string, by time.Duration) {
	l.Helper()
	key := netip.MustParseAddr(source).As16()
	var b bucket
	if err := l.maps["buckets"].Lookup(key, &b); err != nil {
		l.Fatalf("read the bucket of %s: %v", source, err)
	}
	b.FullAt -= min(b.FullAt, uint64(by)) // the clock may have begun just now
	l.put("buckets", key, b)
}

func TestRatelimitUnset(t *testing.T) {
	l := load(t, "ratelimit")
	eachShape(func(name string, p packet) {
		for range 3 {
			l.want(pass, p.bytes(), name)
		}
	})
	if n := l.total("counts", passed); n != 0 {
		t.Errorf("%d packets counted without a limit", n)
	}
}

func TestRatelimitRefill(t *testing.T) {
	m := limited(load(t, "ratelimit"), limit{Rate: 1, Burst: 5})
	p := between(udp, "192.0.2.1:1", "198.51.100.1:80")
	m.through(5, p, "a full bucket")
	m.through(0, p, "an empty bucket")
	rewind(m.loaded, "192.0.2.1", time.Second)
	m.through(1, p, "a second later")
	rewind(m.loaded, "192.0.2.1", 3*time.Second)
	m.through(3, p, "three seconds later")
	rewind(m.loaded, "192.0.2.1", time.Hour)
	m.through(5, p, "an hour later")
	if got := m.total("counts", passed) + m.total("counts", dropped); got != 500 {
		t.Errorf("%d packets counted, want 500", got)
	}
	m.through(5, between(udp, "192.0.2.2:1", "198.51.100.1:80"), "another source")
}

func TestRatelimitChange(t *testing.T) {
	l := load(t, "ratelimit")
	p := between(udp, "192.0.2.1:1", "198.51.100.1:80")
	limited(l, limit{Rate: 3, Burst: 0}).through(3, p, "a burst of 0, which is the rate")
	limited(l, limit{Rate: 1, Burst: 1 << 31}).through(100, p, "a larger burst")
	limited(l, limit{Rate: 4e9, Burst: 1}).through(0, p, "a smaller burst than was taken already")
	limited(l, limit{Rate: 4e9, Burst: 1}).through(100, between(udp, "192.0.2.2:1", "198.51.100.1:80"),
		"a rate above one packet each nanosecond")
	limited(l, limit{})
	l.want(pass, p.bytes(), "no limit")
}

// TestRatelimitSources: all arrangements of headers lead to the source, and an IPv6 /64 is one.
func TestRatelimitSources(t *testing.T) {
	l := load(t, "ratelimit")
	l.put("config", uint32(0), limit{Rate: 1, Burst: 1000})
	packets := map[netip.Addr]int{}
	start := monotonic(t)
	eachShape(func(name string, p packet) {
		l.want(pass, p.bytes(), name)
		packets[p.src.Addr()]++
	})
	l.want(pass, between(udp, "[2001:db8:1::ffff:1]:1", "[2001:db8::2]:1").bytes(), "the same /64")
	l.want(pass, between(udp, "[2001:db8:1:1::1]:1", "[2001:db8::2]:1").bytes(), "another /64")
	end := monotonic(t)
	for source, want := range map[string]int{
		"::ffff:192.0.2.1": packets[netip.MustParseAddr("192.0.2.1")],
		"2001:db8:1::":     packets[netip.MustParseAddr("2001:db8:1::1")] + 1,
		"2001:db8:1:1::":   1,
	} {
		var b bucket
		if err := l.maps["buckets"].Lookup(netip.MustParseAddr(source).As16(), &b); err != nil {
			t.Errorf("%s has no bucket: %v", source, err)
			continue
		}
		empty := time.Duration(want) * time.Second
		if at := time.Duration(b.FullAt); at < start+empty || at > end+empty {
			t.Errorf("%s: bucket full at %v, want %v later than %v to %v", source, at, empty, start, end)
		}
	}
	if got := entries[[16]byte, bucket](t, l.maps["buckets"]); got != 3 {
		t.Errorf("%d buckets, want 3", got)
	}
}

func TestRatelimitNotIP(t *testing.T) {
	l := load(t, "ratelimit")
	l.put("config", uint32(0), limit{Rate: 1, Burst: 1})
	arp := append(make([]byte, 12), 8, 6, 0, 1)
	for range 3 {
		l.want(pass, arp, "ARP")
	}
	if got := entries[[16]byte, bucket](t, l.maps["buckets"]); got != 0 {
		t.Errorf("%d buckets, want none", got)
	}
}

// entries counts the entries of a map.
func entries[K, V any](t *testing.T, m *ebpf.Map) int {
	t.Helper()
	var k K
	var v V
	n, it := 0, m.Iterate()
	for it.Next(&k, &v) {
		n++
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}
