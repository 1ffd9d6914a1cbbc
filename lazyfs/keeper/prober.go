// SPDX-License-Identifier: Apache-2.0

package keeper

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"

	"golang.org/x/sys/unix"
)

// proberName is the prober's argv[0].
const proberName = "lighter-prober"

// A program that holds mounts is its own prober: run under that name it
// answers probes, and nothing else of it starts.
func init() {
	if len(os.Args) == 1 && os.Args[0] == proberName {
		answerProbes(os.Stdin, os.Stdout)
		os.Exit(0)
	}
}

type probe struct {
	N      uint64
	Target string `json:",omitempty"`
	Error  string `json:",omitempty"`
}

// prober reads from mounts in a process of its own, which holds no descriptor
// that serves one: stuck in a dead mount, it harms nobody, and ends with it.
// Its methods may be called concurrently.
type prober struct {
	mu    sync.Mutex
	child *proberChild // nil before the first probe and after a failure
	n     uint64
}

type proberChild struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	dead  chan struct{}
	mu    sync.Mutex
	waits map[uint64]chan string
}

// probe returns nil once the root of the mount on target can be stat'ed and
// listed, or what went wrong with that.
func (p *prober) probe(ctx context.Context, target string) error {
	p.mu.Lock()
	if p.child != nil {
		select {
		case <-p.child.dead:
			p.child = nil
		default:
		}
	}
	if p.child == nil {
		c, err := startProber()
		if err != nil {
			p.mu.Unlock()
			return err
		}
		p.child = c
	}
	c := p.child
	p.n++
	n := p.n
	done := make(chan string, 1)
	c.mu.Lock()
	c.waits[n] = done
	c.mu.Unlock()
	line, err := json.Marshal(probe{N: n, Target: target})
	if err == nil {
		_, err = c.in.Write(append(line, '\n'))
	}
	p.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.waits, n)
		c.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("prober: %w", err)
	}
	select {
	case text := <-done:
		if text != "" {
			return fmt.Errorf("mount on %s cannot be read: %s", target, text)
		}
		return nil
	case <-c.dead:
		return errors.New("prober died")
	case <-ctx.Done():
		return fmt.Errorf("mount on %s does not answer: %w", target, ctx.Err())
	}
}

// close ends the child. One that is stuck in a mount ends when that does.
func (p *prober) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return nil
	}
	err := p.child.in.Close()
	p.child = nil
	return err
}

func startProber() (*proberChild, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{proberName}
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("prober: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("prober: %w", err)
	}
	if err := startOwn(cmd); err != nil {
		return nil, fmt.Errorf("prober: %w", err)
	}
	c := &proberChild{cmd: cmd, in: in, dead: make(chan struct{}), waits: map[uint64]chan string{}}
	go c.receive(out)
	return c, nil
}

// receive hands answers to those who wait, until the child has ended.
func (c *proberChild) receive(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var a probe
		if json.Unmarshal(lines.Bytes(), &a) != nil {
			break
		}
		c.mu.Lock()
		if done := c.waits[a.N]; done != nil {
			done <- a.Error
			delete(c.waits, a.N)
		}
		c.mu.Unlock()
	}
	c.in.Close()
	waitOwn(c.cmd) // its answers are all that counts
	close(c.dead)
}

// answerProbes is the child: it ends at the end of in, whatever is stuck.
func answerProbes(in io.Reader, out io.Writer) {
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	for dec := json.NewDecoder(in); ; {
		var p probe
		if dec.Decode(&p) != nil {
			return
		}
		go func() {
			if err := readRoot(p.Target); err != nil {
				p.Error = err.Error()
			}
			p.Target = ""
			mu.Lock()
			defer mu.Unlock()
			enc.Encode(p) // a keeper that has gone needs no answer
		}()
	}
}

// readRoot does what the first user of a mount does.
func readRoot(target string) error {
	var sfs unix.Statfs_t
	if err := unix.Statfs(target, &sfs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if sfs.Type != unix.FUSE_SUPER_MAGIC {
		return fmt.Errorf("file system of type %#x", sfs.Type)
	}
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Getdents(fd, make([]byte, 4096)); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	return nil
}
