// SPDX-License-Identifier: Apache-2.0

// Package early hears signals from nearly the first moment of a process that is to be a daemon, at a start or after a reload.
// Until a Go program asks for a signal, which no mask can hold back, SIGTERM and SIGHUP end it; package main, whose turn
// comes last, would ask some milliseconds later, and would read the configuration before. A daemon that ended then by SIGTERM
// would leave the chains that one before it left, and by SIGHUP it would not start.
//
// It imports the standard library only, and as little of it as possible, to have its turn soon.
package early

import (
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// Handle is the environment variable that a program has after a reload: the descriptor of the socket, or nothing.
const Handle = "XDPD_LISTEN_FD"

// serve is the command of a daemon. Where a word is the name of a file by chance, a signal waits for the end of the command.
const serve = "serve"

// stops and reloads each have room for one signal: a second would say nothing new.
var stops, reloads = hear() //nolint:gochecknoglobals // there is no earlier moment

func hear() (stops, reloads chan os.Signal) {
	if _, reloaded := os.LookupEnv(Handle); !reloaded && !slices.Contains(os.Args[1:], serve) {
		return nil, nil
	}
	stops, reloads = make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(stops, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(reloads, syscall.SIGHUP)
	return stops, reloads
}

// Heard returns the signals that came since the process began or was replaced, and hears no more. Who calls it hears them
// already, so that none is missed; one may be in both. In a process that is not to be a daemon there are none.
func Heard() (heard []os.Signal) {
	for _, c := range []chan os.Signal{stops, reloads} {
		if c == nil {
			continue
		}
		signal.Stop(c)
		select {
		case s := <-c:
			heard = append(heard, s)
		default:
		}
	}
	return heard
}
