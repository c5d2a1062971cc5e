// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// scale is how much a daemon has to look after, and what it may take for it.
type scale struct {
	interfaces, members int
	function            string
	bounds              map[string]float64 // by figure; none: it only has to end
}

// TestScale measures what the daemon takes for many interfaces and for many members, and fails when that is a multiple of
// what it was when the bounds were set. The figures are in docs/operating.md.
func TestScale(t *testing.T) {
	scales := []scale{{500, 8, "goon", nil}, {8, 64, "plain", nil}}
	if testing.Short() {
		scales = []scale{{24, 8, "goon", nil}, {2, 64, "plain", nil}}
	}
	for _, s := range scales {
		t.Run(fmt.Sprintf("%d interfaces with %d members", s.interfaces, s.members), func(t *testing.T) {
			m := &measured{host: newHost(t), scale: s}
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

// figure is one that was taken.
type figure struct {
	name, unit string
	value      float64
}

// note notes a figure.
func (m *measured) figure(name, unit string, value float64) {
	m.figures = append(m.figures, figure{name, unit, value})
}

// populate makes the interfaces: pairs in the host's namespace, the first of which is there already.
func (m *measured) populate() {
	m.Helper()
	m.names = []string{nettest.Dev}
	began := time.Now()
	var err error
	nettest.RunIn(m.ns, func() {
		for i := 1; i < m.interfaces && err == nil; i++ {
			name := fmt.Sprint("xdev", i)
			m.names = append(m.names, name)
			pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Flags: unix.IFF_UP}, PeerName: name + "p"}
			err = netlink.LinkAdd(pair)
		}
	})
	if err != nil {
		m.Fatal(err)
	}
	m.Logf("%d pairs in %v", m.interfaces, time.Since(began))
}

// live has a daemon do everything once.
func (m *measured) live() {
	m.Helper()
	m.timed("first start", m.start0)
	m.timed("one request for all chains", func() { m.set(m.members - 1) })
	own := m.timed("one request for each interface", m.addOwn)
	m.figure("each of them", "ms", own.Seconds()*1000/float64(m.interfaces))
	m.idle()
	m.learn()
	m.Check()
	m.d.kill()
	m.timed("start after kill -9", m.start0)
	m.Check()
	m.timed("stop", func() { m.stop(unix.SIGTERM) })
	m.timed("start with persistent programs", m.start0)
	m.timed("stop 2", func() { m.stop(unix.SIGTERM) })
}

func (m *measured) start0() { m.Helper(); m.start() }

// timed measures how long something takes.
func (m *measured) timed(name string, do func()) time.Duration {
	m.Helper()
	began := time.Now()
	do()
	took := time.Since(began)
	m.figure(name, "s", took.Seconds())
	m.Logf("%s: %v", name, took)
	return took
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

// idle measures a daemon of which nobody wants anything.
func (m *measured) idle() {
	m.Helper()
	time.Sleep(5 * time.Second)
	before, began := m.processorTime(), time.Now()
	time.Sleep(10 * time.Second)
	m.figure("processor when idle", "%", 100*(m.processorTime()-before).Seconds()/time.Since(began).Seconds())
	for name, key := range map[string]string{"memory when idle": "VmRSS:", "memory at most": "VmHWM:"} {
		m.figure(name, "MiB", m.inStatus(key)/1024)
	}
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
		m.Logf("%-32s %8.2f %s", f.name, f.value, f.unit)
		if bound, has := m.bounds[f.name]; has && f.value > bound {
			m.Errorf("%s: %.2f %s, want at most %.2f", f.name, f.value, f.unit, bound)
		}
	}
}
