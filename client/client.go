// SPDX-License-Identifier: Apache-2.0

// Package client is the Go client of the xdpd daemon: it dials the daemon's unix socket and reads the facts
// out of its errors.
//
// It imports grpc and the generated API, and nothing else of xdpd, so that a program that talks to the
// daemon does not bring in what the daemon needs to talk to the kernel.
package client

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// DefaultSocket is where the daemon listens unless it is told otherwise.
const DefaultSocket = "/run/xdpd/xdpd.sock"

// maxMessage leaves room for an object of 16 MiB and for the chains of a host with many interfaces, in bytes.
const maxMessage = 64 << 20

// Client makes the calls of the API. It is safe for use by several goroutines, and connects anew by itself
// after the daemon was restarted. A call that is in flight when the daemon goes away fails with the gRPC code
// Unavailable, and its change may have been made.
type Client struct {
	xdpdv1.XdpdServiceClient

	conn   *grpc.ClientConn
	socket string

	mu      sync.Mutex // protects dialErr
	dialErr error      // of the last attempt to connect; nil: it worked
}

// Dial returns a client of the daemon that listens on the unix socket of that path. It connects with the
// first call: that there is no daemon shows there, as an UnreachableError. The caller closes the client.
func Dial(socket string) (*Client, error) {
	c := &Client{socket: socket}
	// The delays that grpc has for trying to connect anew, up to 120 s, are made for networks.
	retry := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
		MinConnectTimeout: 30 * time.Second, // who connects while the daemon reloads waits until it is done
	}
	// passthrough hands the path to dial as it is; as a unix: target it would be parsed as a URL. The authority
	// is the one that grpc itself gives to unix sockets: a path is not a legal one.
	conn, err := grpc.NewClient("passthrough:///"+socket,
		grpc.WithContextDialer(c.dial),
		grpc.WithAuthority("localhost"),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(retry),
		grpc.WithUnaryInterceptor(c.unary),
		grpc.WithStreamInterceptor(c.stream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, err
	}
	c.conn = conn
	c.XdpdServiceClient = xdpdv1.NewXdpdServiceClient(conn)
	return c, nil
}

// Close ends the connection and the calls in flight. The daemon keeps what was done.
func (c *Client) Close() error { return c.conn.Close() }

// Socket is the path that was dialled.
func (c *Client) Socket() string { return c.socket }

func (c *Client) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket)
	c.mu.Lock()
	c.dialErr = err
	c.mu.Unlock()
	return conn, err
}

// unary makes a call's error say why there is no daemon.
func (c *Client) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn,
	invoke grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	var server peer.Peer
	return c.explain(invoke(ctx, method, req, reply, cc, append(opts, grpc.Peer(&server))...), &server)
}

// stream does the same for a call whose answers are a stream.
func (c *Client) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string,
	open grpc.Streamer, opts ...grpc.CallOption,
) (grpc.ClientStream, error) {
	server := new(peer.Peer)
	s, err := open(ctx, desc, cc, method, append(opts, grpc.Peer(server))...)
	if err != nil {
		return nil, c.explain(err, server)
	}
	return &explainedStream{ClientStream: s, client: c, server: server}, nil
}

// explainedStream is a stream whose end says why there is no daemon.
type explainedStream struct {
	grpc.ClientStream
	client *Client
	server *peer.Peer // set when the stream has ended
}

// RecvMsg reads the next answer.
func (s *explainedStream) RecvMsg(m any) error {
	return s.client.explain(s.ClientStream.RecvMsg(m), s.server)
}

// explain makes a refusal of the daemon one that tells its reason, and puts the error of connect(2) back into that of
// a call which has ended: grpc keeps no more of it than its text.
func (c *Client) explain(err error, server *peer.Peer) error {
	if status.Code(err) != codes.Unavailable || server.Addr != nil {
		return refusal(err) // a call that was sent may have done something, whatever became of the socket since
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dialErr == nil {
		return err
	}
	return &UnreachableError{Socket: c.socket, Err: c.dialErr}
}
