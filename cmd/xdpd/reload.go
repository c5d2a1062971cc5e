// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// verifyTime is how long the program that is to take over may check its configuration.
const verifyTime = 5 * time.Second

// verifySelf lets the program that is now at the path of this process check the configuration.
func verifySelf(ctx context.Context) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, checkArgs(os.Args[1:])...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s check-config: %w: %s", path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// checkArgs makes the arguments of check-config from those of serve, which takes the same flags.
func checkArgs(serve []string) []string {
	args := append([]string(nil), serve...)
	for i, a := range args {
		if a == "serve" {
			args[i] = "check-config"
			break
		}
	}
	return args
}

// replaceSelf makes the program that is now at the path of this process take over, with the same process id,
// arguments and environment. It returns only if that cannot be.
func replaceSelf() error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	return fmt.Errorf("execute %s: %w", path, syscall.Exec(path, os.Args, os.Environ()))
}
