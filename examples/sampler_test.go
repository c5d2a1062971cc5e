// SPDX-License-Identifier: Apache-2.0

package examples_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

type samplerConfig struct{ Every, _ uint32 }

type samplerStats struct{ Packets, Sampled, Lost uint64 }

type sample struct {
	Time                             uint64
	Ifindex, Queue, Length, Captured uint32
	Header                           [128]byte
}

// monotonic is the clock that BPF programs read.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// drain returns the records that wait in the ring buffer.
func drain(l loaded) []sample {
	l.Helper()
	r, err := ringbuf.NewReader(l.maps["samples"])
	if err != nil {
		l.Fatal(err)
	}
	defer r.Close()
	r.SetDeadline(time.Unix(1, 0)) // do not wait
	var all []sample
	for {
		record, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			l.Fatal(err)
		}
		var s sample
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &s); err != nil {
			l.Fatalf("a record of %d bytes: %v", len(record.RawSample), err)
		}
		all = append(all, s)
	}
}

func (l loaded) stats() (sum samplerStats) {
	l.Helper()
	var perCPU []samplerStats
	if err := l.maps["stats"].Lookup(uint32(0), &perCPU); err != nil {
		l.Fatal(err)
	}
	for _, s := range perCPU {
		sum.Packets += s.Packets
		sum.Sampled += s.Sampled
		sum.Lost += s.Lost
	}
	return sum
}

func TestSamplerUnset(t *testing.T) {
	l := load(t, "sampler")
	eachShape(func(name string, p packet) { l.want(goOn, p.bytes(), name) })
	if got := drain(l); len(got) != 0 {
		t.Errorf("%d records without configuration", len(got))
	}
}

// TestSamplerRecords samples packets of every length around the 128 bytes.
func TestSamplerRecords(t *testing.T) {
	l := load(t, "sampler")
	l.put("config", uint32(0), samplerConfig{Every: 1})
	long := make([]byte, 400)
	for i := range long {
		long[i] = byte(i + 1)
	}
	start := monotonic(t)
	var sent [][]byte
	for n := 14; n <= 140; n++ {
		sent = append(sent, long[:n])
	}
	sent = append(sent, long)
	for _, p := range sent {
		l.want(goOn, p, "a sampled packet")
	}
	end := monotonic(t)
	got := drain(l)
	if len(got) != len(sent) {
		t.Fatalf("%d records, want %d", len(got), len(sent))
	}
	for i, s := range got {
		var want [128]byte
		captured := copy(want[:], sent[i])
		if int(s.Length) != len(sent[i]) || int(s.Captured) != captured || s.Header != want {
			t.Errorf("a packet of %d bytes: length %d, captured %d, header % x", len(sent[i]), s.Length, s.Captured, s.Header)
		}
		if s.Ifindex != 1 || s.Queue != 0 {
			t.Errorf("interface %d, queue %d, want the loopback's 1 and 0", s.Ifindex, s.Queue)
		}
		if at := time.Duration(s.Time); at < start || at > end {
			t.Errorf("time %v, sent between %v and %v", at, start, end)
		}
	}
	if got, n := l.stats(), uint64(len(sent)); got != (samplerStats{n, n, 0}) {
		t.Errorf("stats %+v, want %d packets, all sampled", got, n)
	}
}

// onOneCPU keeps the test on the CPU that it runs on, so that it meets one CPU's counters only.
func onOneCPU(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.SchedSetaffinity(0, &before); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}

func TestSamplerOneInN(t *testing.T) {
	onOneCPU(t)
	l := load(t, "sampler")
	l.put("config", uint32(0), samplerConfig{Every: 4})
	for i := range 98 {
		l.want(goOn, append(make([]byte, 13), byte(i)), "a packet")
	}
	got := drain(l)
	if len(got) != 25 {
		t.Fatalf("%d records of 98 packets, want 25", len(got))
	}
	for i, s := range got {
		if s.Header[13] != byte(4*i) {
			t.Errorf("record %d is of packet %d, want %d", i, s.Header[13], 4*i)
		}
	}
	if got := l.stats(); got != (samplerStats{98, 25, 0}) {
		t.Errorf("stats %+v", got)
	}
}

// TestSamplerFull: without a reader the ring buffer fills up, and packets go on as before. Nothing of earlier
// records shows in the ones that take their place.
func TestSamplerFull(t *testing.T) {
	l := load(t, "sampler")
	l.put("config", uint32(0), samplerConfig{Every: 1})
	const n = 3000
	for range n { // one by one: a signal has many at once begin anew
		l.want(goOn, bytes.Repeat([]byte{0xff}, 200), "a long packet")
	}
	got := l.stats()
	if got.Packets != n || got.Sampled+got.Lost != n || got.Lost == 0 || got.Sampled < 1000 {
		t.Errorf("stats %+v of %d packets", got, n)
	}
	if records := drain(l); uint64(len(records)) != got.Sampled {
		t.Errorf("%d records, want %d", len(records), got.Sampled)
	}
	l.want(goOn, make([]byte, 14), "a short packet")
	if records := drain(l); len(records) != 1 || records[0].Header != [128]byte{} {
		t.Errorf("a packet of zeros in a used buffer: %+v", records)
	}
}
