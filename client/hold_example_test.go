// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// A program that is to run as long as this process does, and goes with it, however that ends.
func ExampleClient_Hold() {
	socket, object, stop := exampleDaemon() // client.DefaultSocket, and os.ReadFile("shield.o")
	defer stop()

	ctx := context.Background()
	c, err := client.Dial(socket)
	if err != nil {
		panic(err)
	}
	defer c.Close()

	// Should this process be replaced by its next version, that has 10 seconds to go on with the token.
	lease, err := c.Hold(ctx, client.HoldOptions{Grace: 10 * time.Second})
	if err != nil {
		panic(err)
	}
	added, err := c.AddProgram(ctx, &xdpdv1.AddProgramRequest{
		Object: object, Interfaces: []string{"eth0"},
		Lifetime: xdpdv1.Lifetime_LIFETIME_LEASE, Lease: lease.Token(),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(added.GetProgram().GetName(), "runs")

	select {
	case <-lease.Lost(): // somebody has taken the lease over, or it has ended
		fmt.Println(lease.Err())
	case <-work():
	}
	if err := lease.Release(ctx); err != nil {
		panic(err)
	}
	fmt.Println("its programs are removed")
	// Output:
	// shield runs
	// its programs are removed
}

// work is closed when the example has done its work.
func work() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// exampleDaemon runs a daemon that takes any program of a lease.
func exampleDaemon() (socket string, object []byte, stop func()) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		panic(err)
	}
	s := grpc.NewServer()
	xdpdv1.RegisterXdpdServiceServer(s, accepting{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	return socket, []byte("an ELF file"), func() {
		s.Stop()
		<-done
		os.RemoveAll(dir)
	}
}

// accepting is a daemon that gives leases, and takes any program with one.
type accepting struct {
	xdpdv1.UnimplementedXdpdServiceServer
}

func (accepting) Hold(s grpc.BidiStreamingServer[xdpdv1.HoldRequest, xdpdv1.HoldResponse]) error {
	for {
		req, err := s.Recv()
		if err != nil || req.GetRelease() {
			return err
		}
		if err := s.Send(&xdpdv1.HoldResponse{Token: "secret"}); err != nil {
			return err
		}
	}
}

func (accepting) AddProgram(_ context.Context, r *xdpdv1.AddProgramRequest) (*xdpdv1.AddProgramResponse, error) {
	if r.GetLifetime() != xdpdv1.Lifetime_LIFETIME_LEASE || r.GetLease() != "secret" {
		return nil, status.Errorf(codes.InvalidArgument, "lifetime %v, lease %q", r.GetLifetime(), r.GetLease())
	}
	return &xdpdv1.AddProgramResponse{Program: &xdpdv1.Program{Name: "shield"}}, nil
}
