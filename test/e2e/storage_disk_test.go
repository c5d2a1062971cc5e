// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A disk that is slow, or that fails: the daemon's fdatasync calls are passed to the test by seccomp, which holds them, lets
// them fail, or lets the kernel go on with them. This binary takes the place of the daemon's, asks the kernel for that, and
// becomes the daemon.

// behindDisk is set, to the folder of a socket and the daemon's program, in a process that is to become a daemon with such a disk.
const behindDisk = "XDPD_E2E_DISK"

func init() {
	if place := os.Getenv(behindDisk); place != "" && filepath.Base(os.Args[0]) == "xdpd" {
		fmt.Fprintln(os.Stderr, "become the daemon:", becomeDaemon(place))
		os.Exit(1)
	}
}

// becomeDaemon only returns when it could not.
func becomeDaemon(place string) error {
	runtime.LockOSThread() // the filter is the thread's, and exec keeps that one
	dir, program, _ := strings.Cut(place, ",")
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, "disk"), Net: "unix"})
	if err != nil {
		return err
	}
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(fd)), nil); err != nil {
		return err
	}
	conn.Close()
	unix.Close(int(fd))
	return syscall.Exec(program, os.Args, os.Environ())
}

// disk is that of one process, usually the daemon.
type disk struct {
	*host
	dir      string // of its socket, and of what takes the place of the program
	listener int
	stop     chan struct{}
	ended    chan struct{}

	mu    sync.Mutex // protects the rest
	hold  bool
	fails map[int]syscall.Errno // by which call from now on
	calls int
	held  []uint64 // calls that wait
}

// startBehindDisk starts a daemon behind a disk that works until it is told otherwise.
func (h *host) startBehindDisk() *disk {
	h.Helper()
	d := h.newDisk()
	d.behind(func(env string) {
		daemon := h.start(env)
		h.Cleanup(daemon.kill)
	})
	return d
}

// newDisk makes a disk for one process.
func (h *host) newDisk() *disk {
	h.Helper()
	self, err := os.Executable()
	if err != nil {
		h.Fatal(err)
	}
	own := filepath.Join(h.dir, "behind")
	if err := errors.Join(os.MkdirAll(own, 0o700), os.RemoveAll(own+"/xdpd"), os.Symlink(self, own+"/xdpd"), os.RemoveAll(own+"/disk")); err != nil {
		h.Fatal(err)
	}
	socket, err := net.ListenUnix("unix", &net.UnixAddr{Name: own + "/disk", Net: "unix"})
	if err != nil {
		h.Fatal(err)
	}
	d := &disk{host: h, dir: own, stop: make(chan struct{}), ended: make(chan struct{}), fails: map[int]syscall.Errno{}}
	go func() {
		defer close(d.ended)
		if err := d.accept(socket); err != nil {
			h.Errorf("the disk: %v", err)
			return
		}
		d.serve()
		unix.Close(d.listener)
	}()
	h.Cleanup(func() {
		socket.Close()
		close(d.stop)
		<-d.ended
	})
	return d
}

// behind calls do, which starts the process, with what that needs in its environment.
func (d *disk) behind(do func(env string)) {
	d.Helper()
	was := binDir
	binDir = d.dir
	defer func() { binDir = was }()
	do(behindDisk + "=" + d.dir + "," + filepath.Join(was, "xdpd"))
}

// accept takes the descriptor that tells of calls.
func (d *disk) accept(socket *net.UnixListener) error {
	conn, err := socket.AcceptUnix()
	if err != nil {
		return err
	}
	defer conn.Close()
	oob := make([]byte, 64)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	d.listener = fds[0]
	return nil
}

// The kernel's struct seccomp_notif and seccomp_notif_resp, and what takes and answers them.
const (
	notifSize = 80
	respSize  = 24
	notifRecv = 0xc0502100
	notifSend = 0xc0182101
	goOn      = 1 // a flag: the call is made
)

func (d *disk) serve() {
	for {
		select {
		case <-d.stop:
			return
		default:
		}
		fds := []unix.PollFd{{Fd: int32(d.listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 50); err != nil || fds[0].Revents&unix.POLLIN == 0 {
			continue
		}
		var notif [notifSize]byte
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), notifRecv, uintptr(unsafe.Pointer(&notif))); errno != 0 {
			continue // the caller was interrupted, or is gone
		}
		d.call(binary.NativeEndian.Uint64(notif[:]))
	}
}

func (d *disk) call(id uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hold {
		d.held = append(d.held, id)
		return
	}
	d.calls++
	d.answer(id, d.fails[d.calls])
}

// answer ends a call with an error, or with what the disk itself does.
func (d *disk) answer(id uint64, errno syscall.Errno) {
	var resp [respSize]byte
	binary.NativeEndian.PutUint64(resp[:], id)
	if errno == 0 {
		binary.NativeEndian.PutUint32(resp[20:], goOn)
	} else {
		binary.NativeEndian.PutUint32(resp[16:], uint32(-int32(errno)))
	}
	// A caller that was interrupted meanwhile asks again.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(d.listener), notifSend, uintptr(unsafe.Pointer(&resp)))
}

// stall holds all calls from now on, until the function that it returns is called.
func (d *disk) stall() (goOn func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hold = true
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.hold = false
		for _, id := range d.held {
			d.answer(id, 0)
		}
		d.held = nil
	}
}

// stalled waits until a call is held.
func (d *disk) stalled() {
	d.Helper()
	d.eventually("the daemon waits for its disk", func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return len(d.held) > 0
	})
}

// fail lets the n-th call from now on fail.
func (d *disk) fail(n int, errno syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls, d.fails = 0, map[int]syscall.Errno{n: errno}
}
