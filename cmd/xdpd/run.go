// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/server"
)

// Exit codes, documented in docs/operating.md.
const (
	exitOK      = 0
	exitRuntime = 1 // something went wrong at work
	exitUsage   = 2 // the command line or the configuration is wrong; nothing was done
)

// controller is what the daemon needs of control.Controller.
type controller interface {
	server.Controller
	Reconcile(ctx context.Context, alive func()) error
	Run(ctx context.Context) error
	StoreProblem(ctx context.Context) error
	Stop(ctx context.Context) error
	Close() error
}

// daemon holds what tests replace.
type daemon struct {
	open     func(control.Config, *slog.Logger) (controller, error)
	teardown func(context.Context, control.Config, *slog.Logger) error
	probe    func(linker string) error // that the kernel can do what a linker needs
	verify   func(context.Context, running) (*successor, error)
	outdated func() bool                               // the program on disk is another
	replace  func(next *successor, env []string) error // this program in its process
}

// workError marks what went wrong at work, as opposed to a wrong command line or configuration.
type workError struct{ err error }

func (e workError) Error() string { return e.err.Error() }
func (e workError) Unwrap() error { return e.err }

// run is the command: it returns the exit code. Results go to stdout, logs and errors to stderr.
func run(ctx context.Context, d daemon, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	root := commands(d, getenv, stdout, stderr)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var work workError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &work):
		fmt.Fprintf(stderr, "xdpd: %v\n", err)
		return exitRuntime
	default:
		fmt.Fprintf(stderr, "xdpd: %v\n", err)
		return exitUsage
	}
}

func commands(d daemon, getenv func(string) string, stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:               "xdpd",
		Short:             "Let several XDP programs share a network interface",
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return fmt.Errorf("no command given; see %s --help", cmd.Name())
		},
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(
		configured("serve", "Run the daemon in the foreground; SIGTERM and SIGINT remove everything, SIGHUP reloads",
			func(cmd *cobra.Command, cfg config) error {
				return work(serve(cmd.Context(), d, cfg, newLogger(cfg, stderr, getenv)))
			}),
		configured("teardown", "Remove everything that a daemon left in the kernel; refused while one runs",
			func(cmd *cobra.Command, cfg config) error {
				return work(d.teardown(cmd.Context(), cfg.control(), newLogger(cfg, stderr, getenv)))
			}),
		configured("check-config", "Check the configuration and print what is in effect",
			func(_ *cobra.Command, cfg config) error {
				_, err := io.WriteString(stdout, cfg.String())
				return work(err)
			}),
		takeover(d, stdout),
		storeCommands(stdout),
		&cobra.Command{
			Use: "version", Short: "Print the version", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error {
				_, err := fmt.Fprintf(stdout, "xdpd %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
				return work(err)
			},
		},
	)
	return root
}

// takeover is the command that a daemon calls at a reload. It is not for people.
func takeover(d daemon, stdout io.Writer) *cobra.Command {
	var running string
	cmd := configured(checkCommand, "Check whether a daemon that runs can be replaced by this program", func(_ *cobra.Command, cfg config) error {
		return work(checkTakeover(d, cfg, running, stdout))
	})
	cmd.Flags().StringVar(&running, "running", "", "what the daemon tells of itself")
	cmd.Hidden = true
	return cmd
}

// configured makes a command that takes --config and a flag for each key.
func configured(name, short string, do func(*cobra.Command, config) error) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs}
	file := cmd.Flags().String("config", "", "the configuration file (default "+defaultFile+", if it is there)")
	values := make(map[string]*string, len(keys()))
	for _, k := range keys() {
		values[k.name] = cmd.Flags().String(k.flag(), "", k.usage())
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*file, cmd.Flags().Changed("config"))
		if err != nil {
			return err
		}
		for _, k := range keys() {
			if !cmd.Flags().Changed(k.flag()) {
				continue
			}
			if err := k.set(&cfg, *values[k.name]); err != nil {
				return fmt.Errorf("--%s: %w", k.flag(), err)
			}
		}
		return do(cmd, cfg)
	}
	return cmd
}

func work(err error) error {
	if err != nil {
		return workError{err}
	}
	return nil
}
