// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// Peer is who connected, as the kernel vouches for it (SO_PEERCRED): the credentials at the time of connect.
// The pid is as the daemon's pid namespace sees it, 0 if it does not.
type Peer struct {
	credentials.CommonAuthInfo
	UID, GID uint32
	PID      int32
	conn     *guarded // what the calls of the connection come through
}

// AuthType names the way for grpc.
func (Peer) AuthType() string { return "peercred" }

// peerCredentials read who is at the other end of a unix socket. There is no encryption: nobody is in between.
type peerCredentials struct {
	door *door // that connections go through
}

// ClientHandshake is not for a server.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for the server's end")
}

// ServerHandshake reads the credentials; conn must be what a Listener accepted.
func (p peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	arrived, ok := conn.(*arrival)
	if !ok {
		return nil, nil, fmt.Errorf("read the peer's credentials: %T is not a unix socket", conn)
	}
	arrived.noticed()
	unixConn := arrived.UnixConn
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("read the peer's credentials: %w", err)
	}
	cred, err := ucred(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("read the peer's credentials: %w", err)
	}
	inside, err := p.door.let(unixConn)
	if err != nil {
		return nil, nil, err
	}
	return inside, Peer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		UID:            cred.Uid, GID: cred.Gid, PID: cred.Pid, conn: inside,
	}, nil
}

func ucred(raw syscall.RawConn) (cred *unix.Ucred, err error) {
	outer := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(outer, err)
}

// Info names the protocol for grpc.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone returns the same: there is no state.
func (c peerCredentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName is not for a server.
func (peerCredentials) OverrideServerName(string) error { return nil }

// fromPeer returns who sent the request of ctx.
func fromPeer(ctx context.Context) (Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	info, ok := p.AuthInfo.(Peer)
	return info, ok
}
