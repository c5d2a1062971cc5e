// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxPath is the longest path of a unix socket (struct sockaddr_un, without the final zero).
const maxPath = 107

// Listen creates the daemon's socket with exactly this mode and this group (name or number; empty: the daemon's
// own); nobody can connect before both are right. The folder is made, with mode 0755, if only it is missing.
// A socket of ours at that path on which nobody answers is replaced; anything else there is left alone and an
// error. The caller closes the listener, which removes the socket.
func Listen(path string, mode os.FileMode, group string) (*Listener, error) {
	gid, err := CheckSocket(path, group)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make the socket's folder: %w", err)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	lis, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := admit(path, mode, gid); err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	return newListener(lis, path), nil
}

// CheckSocket returns the number of the socket's group, or what is wrong with path and group without a look at
// what is there.
func CheckSocket(path, group string) (gid int, err error) {
	if len(path) > maxPath {
		return 0, fmt.Errorf("listen on %s: the path has %d bytes, a socket's has at most %d", path, len(path), maxPath)
	}
	gid, err = lookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("listen on %s: %w", path, err)
	}
	return gid, nil
}

// admit gives a socket its mode and its group; meanwhile it lets nobody in whom it does not let in before and after.
func admit(path string, mode os.FileMode, gid int) error {
	var now unix.Stat_t
	if err := unix.Lstat(path, &now); err != nil {
		return fmt.Errorf("look at the socket %s: %w", path, err)
	}
	var err error
	if int(now.Gid) != gid {
		if common := os.FileMode(now.Mode) & mode; common != os.FileMode(now.Mode).Perm() {
			err = os.Chmod(path, common)
		}
		if err == nil {
			err = os.Lchown(path, -1, gid)
		}
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		return fmt.Errorf("set owner and mode of the socket: %w", err)
	}
	return nil
}

// bind creates the socket with mode 0: the umask does it in the same moment. It is the whole process's, which
// at this time of a daemon's life only makes other new files more private.
func bind(path string) (*net.UnixListener, error) {
	defer unix.Umask(unix.Umask(0o777))
	return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for an old socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on %s: there is something that is not a socket (%s); move it away or choose another path", path, info.Mode())
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("listen on %s: there is a socket of uid %d; remove it or choose another path", path, st.Uid)
	}
	dialer := net.Dialer{Timeout: 5 * time.Second}
	conn, err := dialer.DialContext(context.Background(), "unix", path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("listen on %s: somebody answers there: is xdpd running already?", path)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("listen on %s: find out whether somebody answers there: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	return nil
}

// lookupGroup returns a group's number; the process's own for the empty name.
func lookupGroup(group string) (int, error) {
	if group == "" {
		return os.Getegid(), nil
	}
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, fmt.Errorf("look up group %q: %w", group, err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return 0, fmt.Errorf("group %q has the number %q: %w", group, g.Gid, err)
	}
	return gid, nil
}
