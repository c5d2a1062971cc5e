// SPDX-License-Identifier: Apache-2.0

package netif

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// notification makes a message as the kernel sends it.
func notification(kind uint16, family int, index int32, name string) []byte {
	info := nl.NewIfInfomsg(family)
	info.Index = index
	r := nl.NewNetlinkRequest(int(kind), 0)
	r.AddData(info)
	r.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1500)))
	r.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	return r.Serialize()
}

func TestParseLinkEvents(t *testing.T) {
	added := notification(unix.RTM_NEWLINK, unix.AF_UNSPEC, 7, "a0")
	for name, tt := range map[string]struct {
		datagram []byte
		want     []LinkEvent
		bad      bool
	}{
		"nothing":                   {nil, nil, false},
		"a new one":                 {added, []LinkEvent{{Name: "a0", Index: 7}}, false},
		"one that left its bridge":  {notification(unix.RTM_DELLINK, unix.AF_BRIDGE, 7, "a0"), nil, false},
		"about something else":      {notification(unix.RTM_NEWADDR, unix.AF_UNSPEC, 7, "a0"), nil, false},
		"several":                   {slices.Concat(added, notification(unix.RTM_DELLINK, 0, 8, "b0")), []LinkEvent{{Name: "a0", Index: 7}, {Name: "b0", Index: 8, Gone: true}}, false},
		"cut in the header":         {added[:unix.NLMSG_HDRLEN+3], nil, true},
		"cut in the attributes":     {added[:len(added)-8], nil, true},
		"too short for a link":      {shortened(added, unix.NLMSG_HDRLEN+8), nil, true},
		"an attribute that is long": {longAttr(added), nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			events, ok := parseLinkEvents(tt.datagram)
			if ok == tt.bad || !slices.Equal(events, tt.want) {
				t.Errorf("%+v, %v, want %+v, %v", events, ok, tt.want, !tt.bad)
			}
			s := linkSocket{buf: make([]byte, max(len(tt.datagram), 1))}
			copy(s.buf, tt.datagram)
			want := tt.want
			if tt.bad {
				want = []LinkEvent{{Resync: true}}
			}
			if events := s.read(len(tt.datagram), &unix.SockaddrNetlink{}); !slices.Equal(events, want) {
				t.Errorf("read: %+v, want %+v", events, want)
			}
			if events := s.read(len(tt.datagram), &unix.SockaddrNetlink{Pid: 1}); events != nil {
				t.Errorf("from another sender than the kernel: %+v", events)
			}
			if events := s.read(len(s.buf)+1, &unix.SockaddrNetlink{}); !slices.Equal(events, []LinkEvent{{Resync: true}}) {
				t.Errorf("larger than the buffer: %+v", events)
			}
		})
	}
}

// shortened returns a message of n bytes that says that it has n.
func shortened(message []byte, n int) []byte {
	short := slices.Clone(message[:n])
	nl.NativeEndian().PutUint32(short, uint32(n))
	return short
}

// longAttr makes the first attribute say that it is longer than the message.
func longAttr(message []byte) []byte {
	long := slices.Clone(message)
	nl.NativeEndian().PutUint16(long[syscall.SizeofNlMsghdr+unix.SizeofIfInfomsg:], 1000)
	return long
}

// Without CAP_NET_ADMIN the queue is as long as the host allows.
func TestQueueOfTheSocket(t *testing.T) {
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		t.Fatal(err)
	}
	var most int
	if _, err := fmt.Sscan(strings.TrimSpace(string(text)), &most); err != nil {
		t.Fatal(err)
	}
	size := most + 1<<20
	for name, tt := range map[string]struct {
		admin bool
		want  int
	}{"with CAP_NET_ADMIN": {true, size}, "without": {false, most}} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				if !tt.admin {
					runtime.LockOSThread() // the thread ends with the goroutine
					if err := dropCapability(unix.CAP_NET_ADMIN); err != nil {
						t.Errorf("drop CAP_NET_ADMIN: %v", err)
					}
				}
				s, err := openLinkSocket(size)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.file.Close()
				err = s.conn.Control(func(fd uintptr) {
					// The kernel keeps twice as much, for its own needs.
					if got, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || got != 2*tt.want {
						t.Errorf("the queue has %d bytes, %v, want %d", got, err, 2*tt.want)
					}
				})
				if err != nil {
					t.Error(err)
				}
			}()
			<-done
		})
	}
}
