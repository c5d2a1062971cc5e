// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// Report is what can be told of a store without changing it.
type Report struct {
	Schema  uint64 // 0: it cannot be told
	Size    int64  // of the file
	Held    bool   // by a process that has it open to write
	Objects int    // that are what their sha256 says
	Content        // what is intact
	Found   []error
}

// Look reads the file at path, which may be damaged, or in use: what it tells is then of one moment between two changes.
// Found has all that is wrong with it; an error is only returned when it cannot be read.
func Look(path string) (Report, error) {
	var r Report
	err := reading(path, func(file *os.File, size int64) error {
		i := scan(file, size)
		r = Report{Schema: i.schema, Size: size, Objects: len(i.objects), Content: i.intact(), Found: i.check()}
		info, err := file.Stat()
		if err != nil {
			return err
		}
		if err := private(path, info, os.Geteuid()); err != nil {
			r.Found = append(r.Found, err)
		}
		r.Held, err = held(file)
		return err
	})
	return r, err
}

// Tries of reading a file that another process writes to.
const (
	readTries = 100
	readRetry = 20 * time.Millisecond
)

// reading opens the file at path to read it, and calls do with it and its size, again and again until no change came
// between: bbolt writes a change where nothing of the one before it is, and a meta page last.
func reading(path string, do func(file *os.File, size int64) error) error {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return errOpen(err)
	}
	defer file.Close()
	retry := time.NewTicker(readRetry)
	defer retry.Stop()
	for range readTries {
		info, err := file.Stat()
		if err != nil {
			return fmt.Errorf("read store %s: %w", path, err)
		}
		if !info.Mode().IsRegular() {
			return private(path, info, os.Geteuid())
		}
		before, beforeErr := readMetas(file)
		if err := do(file, info.Size()); err != nil {
			return fmt.Errorf("read store %s: %w", path, err)
		}
		after, afterErr := readMetas(file)
		if bytes.Equal(before, after) && (beforeErr == nil) == (afterErr == nil) {
			return nil
		}
		<-retry.C
	}
	return fmt.Errorf("read store %s: %w: it changed each time while it was read; try again", path, ErrLocked)
}

// held tells whether a process has the lock of the file.
func held(file *os.File) (bool, error) {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	if err == nil {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_UN)
	}
	if err != nil {
		return false, fmt.Errorf("see who holds the lock: %w", err)
	}
	return false, nil
}
