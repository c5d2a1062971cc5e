// SPDX-License-Identifier: Apache-2.0

package server

import (
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketModeAndGroup(t *testing.T) {
	for group, gid := range map[string]uint32{"": uint32(os.Getegid()), "1234": 1234, "daemon": groupID(t, "daemon")} {
		path := filepath.Join(t.TempDir(), "new", "s")
		lis, err := Listen(path, 0o660, group)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode() != fs.ModeSocket|0o660 || st.Gid != gid {
			t.Errorf("group %q: mode %v, gid %d, want 0660, %d", group, info.Mode(), st.Gid, gid)
		}
		if err := lis.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("after close: %v", err)
		}
	}
}

func groupID(t *testing.T, name string) uint32 {
	t.Helper()
	gid, err := lookupGroup(name)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(gid)
}

func TestSocketIsBornWithoutMode(t *testing.T) {
	before := unix.Umask(0o22)
	unix.Umask(before)
	path := filepath.Join(t.TempDir(), "s")
	lis, err := bind(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0 {
		t.Errorf("mode at birth: %v, %v", info.Mode(), err)
	}
	if after := unix.Umask(before); after != before {
		t.Errorf("the umask is %#o after it, want %#o", after, before)
	}
}

// stale leaves a socket on which nobody listens.
func stale(t *testing.T, path string) {
	t.Helper()
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false)
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale(t, path)
	lis, err := Listen(path, 0o600, "")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestWhatIsNotOursStays(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(t *testing.T, path string)
		want string
	}{
		"file":    {func(t *testing.T, path string) { must(t, os.WriteFile(path, []byte("precious"), 0o600)) }, "not a socket"},
		"folder":  {func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o700)) }, "not a socket"},
		"symlink": {func(t *testing.T, path string) { stale(t, path+"2"); must(t, os.Symlink(path+"2", path)) }, "not a socket"},
		"other's": {func(t *testing.T, path string) { stale(t, path); must(t, os.Lchown(path, 4321, -1)) }, "uid 4321"},
		"alive": {func(t *testing.T, path string) {
			lis, err := net.Listen("unix", path)
			must(t, err)
			t.Cleanup(func() { lis.Close() })
		}, "running already"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s")
			tc.make(t, path)
			before, err := os.Lstat(path)
			must(t, err)
			if _, err := Listen(path, 0o600, ""); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want it to name %q and the path", err, tc.want)
			}
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("it was touched: %v", err)
			}
		})
	}
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct{ path, group, want string }{
		{dir + "/" + strings.Repeat("x", 108), "", "at most 107"},
		{dir + "/s", "no-such-group", "no-such-group"},
		{dir + "/a/b/s", "", "folder"},
	} {
		if _, err := Listen(tc.path, 0o600, tc.group); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s, %q: %v, want %q", tc.path, tc.group, err, tc.want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPeerOfAnotherUser connects as another user and looks for its numbers.
func TestPeerOfAnotherUser(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	lis, err := Listen(path, 0o777, "")
	must(t, err)
	defer lis.Close()
	for dir := filepath.Dir(path); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	client := connectAs(t, path, 4321, 8765)
	defer client.Close()
	conn, err := lis.Accept()
	must(t, err)
	defer conn.Close()
	_, info, err := peerCredentials{newDoor(slog.New(slog.DiscardHandler), usual(), nil)}.ServerHandshake(conn)
	must(t, err)
	if p, ok := info.(Peer); !ok || p.UID != 4321 || p.GID != 8765 || int(p.PID) != os.Getpid() {
		t.Errorf("peer: %+v, want uid 4321, gid 8765, pid %d", info, os.Getpid())
	}
}

// connectAs connects on a thread that has other credentials meanwhile: the raw calls are for one thread only.
func connectAs(t *testing.T, path string, uid, gid int) *os.File {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := func(call, id uintptr) {
		if _, _, errno := syscall.RawSyscall(call, ^uintptr(0), id, ^uintptr(0)); errno != 0 {
			panic(errno) // the thread is not fit for anything else
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	set(unix.SYS_SETRESGID, uintptr(gid))
	set(unix.SYS_SETRESUID, uintptr(uid))
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	set(unix.SYS_SETRESUID, uintptr(os.Getuid()))
	set(unix.SYS_SETRESGID, uintptr(os.Getgid()))
	must(t, err)
	return os.NewFile(uintptr(fd), path)
}

func TestPeerCredentialsAreForUnixSockets(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := (peerCredentials{}).ServerHandshake(a); err == nil {
		t.Error("a pipe has peer credentials")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
