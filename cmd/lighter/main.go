// SPDX-License-Identifier: Apache-2.0

// Command lighter converts, checks, inspects, mounts and copies accelerated
// container images, and asks the running plugin what it does.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/go-containerregistry/pkg/logs"
	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the whole command, with its surroundings as parameters.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	logs.Warn = log.New(io.Discard, "", 0) // retries are not the user's business
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil {
		fmt.Fprintln(stderr, "lighter: interrupted")
		return exitFailed
	}
	fmt.Fprintln(stderr, "lighter: "+oneLine(err))
	if isUsage(err) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "lighter",
		Short:         "Container images that start before they are downloaded",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usageArgs(cobra.NoArgs),
		RunE:          needsVerb,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().String("config", "", "configuration file (TOML); default: the user's, then /etc/lighter/config.toml")
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error { return applySettings(cmd) }
	root.AddCommand(
		newConvert(), newCheck(), newInspect(), newLs(), newCat(), newDiff(), newExport(), newMount(), newCopy(), newDict(),
		newStatus(), newPs(), newCache(), newConfig(), newVersion(),
	)
	return root
}

// needsVerb is what commands do that only hold others.
func needsVerb(cmd *cobra.Command, _ []string) error {
	return usageError{fmt.Errorf("%s: a verb is missing (hint: %s --help)", cmd.CommandPath(), cmd.CommandPath())}
}
