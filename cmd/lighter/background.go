// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// readyEnv tells a mount that it is the one in the background, and that
// descriptor 3 waits to hear that it stands.
const readyEnv = "LIGHTER_MOUNT_READY"

const readyWord = "ready\n"

// ready tells the process in the foreground, if there is one, that the mount stands.
func ready() error {
	if os.Getenv(readyEnv) == "" {
		return nil
	}
	pipe := os.NewFile(3, "ready")
	_, err := io.WriteString(pipe, readyWord)
	return errors.Join(err, pipe.Close())
}

// keepReady stops processes that this one starts from inheriting the descriptor,
// whose end the foreground takes for a failure.
func keepReady() {
	if os.Getenv(readyEnv) != "" {
		syscall.CloseOnExec(3)
	}
}

// inBackground runs this command once more, in a session of its own, and
// returns when the mount stands or has failed. What goes wrong later is
// written to mount.log in the cache directory.
func inBackground(cmd *cobra.Command, cache string) error {
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(cache, "mount.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	start, err := logFile.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), readyEnv+"=1")
	child.Stderr = logFile
	child.ExtraFiles = []*os.File{w}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = child.Start()
	w.Close()
	if err != nil {
		return err
	}
	said := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, int64(len(readyWord))))
		said <- string(b)
	}()
	select {
	case <-cmd.Context().Done():
		child.Process.Signal(syscall.SIGTERM)
		child.Wait()
		return cmd.Context().Err()
	case s := <-said:
		if s == readyWord {
			return child.Process.Release()
		}
	}
	child.Wait()
	return fmt.Errorf("%s", lastWords(logFile.Name(), start))
}

// lastWords is what a failed child wrote since start.
func lastWords(name string, start int64) string {
	f, err := os.Open(name)
	if err != nil {
		return "mount failed: " + err.Error()
	}
	defer f.Close()
	b, _ := io.ReadAll(io.NewSectionReader(f, start, 64<<10))
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.TrimPrefix(lines[len(lines)-1], "lighter: ")
}
