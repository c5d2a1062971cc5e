// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// scale is how much a daemon has to look after, and what it may take for that.
type scale struct {
	interfaces, members int
	function            string        // of all programs
	idle                time.Duration // how long it is watched while nobody wants anything of it
	bounds              []figure      // none: it only has to come to an end
}

// figure is one that was measured, or its bound.
type figure struct {
	name  string
	value float64
	unit  string
}

// The figures of TestScale.
const (
	firstStart = "first start"
	oneRequest = "all chains in one request"
	eachAdd    = "a request for one of them"
	idleTime   = "processor when idle"
	idleMemory = "memory when idle"
	peakMemory = "memory at most"
	adoption   = "start after kill -9"
	fullStop   = "stop"
	anew       = "start with everything to load"
)

// scales are those of TestScale. The bounds are for what grows with the square: those of times are sixty times and more what a
// machine with two busy processors takes, which a starved one may need.
var scales = []scale{
	{500, 8, "goon", 10 * time.Second, []figure{
		{oneRequest, 150, "s"},
		{eachAdd, 1500, "ms"},
		{idleTime, 30, "%"},
		{idleMemory, 150, "MiB"},
		{peakMemory, 250, "MiB"},
		{adoption, 60, "s"},
		{fullStop, 60, "s"},
		{anew, 240, "s"},
	}},
	{8, 64, "plain", 3 * time.Second, []figure{ // a chain has less than 64 maps
		{oneRequest, 20, "s"},
		{eachAdd, 2500, "ms"},
		{idleTime, 15, "%"},
		{idleMemory, 80, "MiB"},
		{peakMemory, 120, "MiB"},
		{adoption, 15, "s"},
		{fullStop, 15, "s"},
		{anew, 20, "s"},
	}},
}

// TestScale measures what the daemon takes for many interfaces, and for many members, and fails when that is a multiple of
// what it was when the bounds were set. Of each chain all programs but the last are in all chains. docs/operating.md has figures.
func TestScale(t *testing.T) {
	tried := scales
	if testing.Short() {
		tried = []scale{{24, 8, "goon", time.Second, nil}, {2, 64, "plain", time.Second, nil}}
	}
	for _, s := range tried {
		t.Run(fmt.Sprintf("%d interfaces with %d members", s.interfaces, s.members), func(t *testing.T) {
			m := &measured{host: newHost(t), scale: s}
			m.patience = 10 * patience
			m.populate()
			m.live()
			m.report()
		})
	}
}

// measured is a host of which figures are taken.
type measured struct {
	*host
	scale
	names   []string // of the interfaces
	figures []figure
}

// populate makes the interfaces: pairs in the host's namespace, the first of which is there already.
func (m *measured) populate() {
	m.Helper()
	m.names = []string{nettest.Dev}
	var err error
	nettest.RunIn(m.ns, func() {
		for i := 1; i < m.interfaces && err == nil; i++ {
			name := fmt.Sprint("xdev", i)
			m.names = append(m.names, name)
			err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: unix.IFF_UP}, PeerName: name + "p"})
		}
	})
	if err != nil {
		m.Fatal(err)
	}
}

// live has a daemon do everything once.
func (m *measured) live() {
	m.Helper()
	m.timed(firstStart, func() { m.start() })
	m.timed(oneRequest, func() { m.set(m.members - 1) })
	began := time.Now()
	m.addOwn()
	m.take(eachAdd, time.Since(began).Seconds()*1000/float64(m.interfaces), "ms")
	m.watchIdle()
	m.learn()
	m.Check()
	m.d.kill()
	m.timed(adoption, func() { m.start() })
	m.Check()
	m.timed(fullStop, func() { m.stop(unix.SIGTERM) })
	m.timed(anew, func() { m.start() })
	m.Check()
	m.stop(unix.SIGTERM)
}

// take notes a figure.
func (m *measured) take(name string, value float64, unit string) {
	m.figures = append(m.figures, figure{name, value, unit})
}

// timed measures how long something takes.
func (m *measured) timed(name string, do func()) {
	m.Helper()
	began := time.Now()
	do()
	m.take(name, time.Since(began).Seconds(), "s")
}

// set gives all interfaces a chain of that many programs, the same ones.
func (m *measured) set(members int) {
	m.Helper()
	r := &xdpdv1.SetChainsRequest{Objects: [][]byte{verdicts}}
	var names []string
	for i := range members {
		spec := specOf(fmt.Sprint("shared", i), m.function)
		spec.Lifetime = xdpdv1.Lifetime_LIFETIME_PERSISTENT
		r.Programs = append(r.Programs, spec)
		names = append(names, spec.GetName())
	}
	for _, iface := range m.names {
		r.Chains = append(r.Chains, chainOf(iface, names...))
	}
	if _, err := m.client.SetChains(m.ctx(), r); err != nil {
		m.Fatalf("%v %v", err, client.Facts(err))
	}
}

// addOwn gives each interface a program of its own.
func (m *measured) addOwn() {
	m.Helper()
	for i, iface := range m.names {
		if _, err := m.client.AddProgram(m.ctx(), persistent(add(fmt.Sprint("own", i), m.function, iface))); err != nil {
			m.Fatalf("%v %v", err, client.Facts(err))
		}
	}
}

// watchIdle measures a daemon of which nobody wants anything. It has half of the time to come to rest.
func (m *measured) watchIdle() {
	m.Helper()
	time.Sleep(m.idle / 2)
	before, began := m.processorTime(), time.Now()
	time.Sleep(m.idle)
	m.take(idleTime, 100*(m.processorTime()-before).Seconds()/time.Since(began).Seconds(), "%")
	m.take(idleMemory, m.inStatus("VmRSS:")/1024, "MiB")
	m.take(peakMemory, m.inStatus("VmHWM:")/1024, "MiB")
}

// processorTime is what the daemon used.
func (m *measured) processorTime() time.Duration {
	m.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.d.cmd.Process.Pid))
	if err != nil {
		m.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')'):]))
	var user, system int64
	if _, err := fmt.Sscan(fields[12]+" "+fields[13], &user, &system); err != nil {
		m.Fatalf("%q: %v", data, err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// inStatus is a number in /proc/PID/status.
func (m *measured) inStatus(key string) (n float64) {
	m.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.d.cmd.Process.Pid))
	if err != nil {
		m.Fatal(err)
	}
	_, after, _ := strings.Cut(string(data), key)
	if _, err := fmt.Sscan(after, &n); err != nil {
		m.Fatalf("%s: %v", key, err)
	}
	return n
}

// report prints the figures and compares them with the bounds.
func (m *measured) report() {
	m.Helper()
	for _, f := range m.figures {
		m.Logf("%-30s %8.2f %s", f.name, f.value, f.unit)
	}
	for _, bound := range m.bounds {
		i := slices.IndexFunc(m.figures, func(f figure) bool { return f.name == bound.name && f.unit == bound.unit })
		if i < 0 {
			m.Errorf("%s was not measured", bound.name)
		} else if f := m.figures[i]; f.value > bound.value {
			m.Errorf("%s: %.2f %s, want at most %.2f", f.name, f.value, f.unit, bound.value)
		}
	}
}
