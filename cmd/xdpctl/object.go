// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// maxObject is the size in bytes above which the daemon takes no object.
const maxObject = 16 << 20

// readObject reads the object at path, or from standard input for "-".
func (a *app) readObject(ctx context.Context, path string) ([]byte, error) {
	object, err := a.readFile(ctx, path, maxObject)
	if err != nil {
		return nil, fmt.Errorf("read the object: %w", err)
	}
	return object, nil
}

// objectOf reads the object that the only one of args names, if any; the daemon has the one of that sha256.
func (a *app) objectOf(cmd *cobra.Command, args []string, sum string) ([]byte, error) {
	if len(args) == 0 {
		return nil, nil
	}
	if sum != "" {
		return nil, fmt.Errorf("OBJECT.o and --object-sha256 exclude each other")
	}
	object, err := a.readObject(cmd.Context(), args[0])
	if err != nil {
		return nil, &failure{err}
	}
	return object, nil
}

// readFile reads the file at path, or standard input for "-", if it has at most that many bytes.
func (a *app) readFile(ctx context.Context, path string, limit int) ([]byte, error) {
	in := untilDone(ctx, a.in)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes (%d MiB), the most that the daemon takes; it was not sent",
			path, limit, limit>>20)
	}
	return data, nil
}
