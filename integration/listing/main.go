// SPDX-License-Identifier: Apache-2.0

// Command listing prints one line for each entry of a directory tree, in byte
// order of the paths: type, mode, owner, size, links, time, content, attributes.
// Two trees are the same if the lines are. It is run inside test containers.
//
//	listing [-mtime=false] [-loop DURATION -against FILE] DIR
//
// With -loop it reads the tree again and again for so long, compares each pass
// with the lines in FILE, and prints at the end how many passes it made and how
// long the slowest entry took.
package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"
)

// elsewhere is mounted over the image by the container's runtime, or made for it.
var elsewhere = map[string]bool{
	"proc": true, "sys": true, "dev": true, ".dockerenv": true, "listing": true, "data": true,
	"etc/hosts": true, "etc/hostname": true, "etc/resolv.conf": true, "etc/mtab": true,
}

func main() {
	mtime := flag.Bool("mtime", true, "include modification times")
	loop := flag.Duration("loop", 0, "read again and again for so long")
	against := flag.String("against", "", "file with the expected lines")
	flag.Parse()
	if err := run(flag.Arg(0), *mtime, *loop, *against); err != nil {
		fmt.Fprintln(os.Stderr, "listing:", err)
		os.Exit(1)
	}
}

func run(dir string, mtime bool, loop time.Duration, against string) error {
	if loop == 0 {
		return list(os.Stdout, dir, mtime)
	}
	want, err := os.ReadFile(against)
	if err != nil {
		return err
	}
	passes := 0
	for start := time.Now(); time.Since(start) < loop; passes++ {
		var got bytes.Buffer
		if err := list(&got, dir, mtime); err != nil {
			return fmt.Errorf("pass %d: %w", passes, err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			return fmt.Errorf("pass %d differs:\n%s", passes, firstDifference(got.String(), string(want)))
		}
	}
	fmt.Printf("passes %d slowest %v\n", passes, slowest.Round(time.Millisecond))
	return nil
}

func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "got  " + g[i] + "\nwant " + w[i]
		}
	}
	return fmt.Sprintf("got %d lines, want %d", len(g), len(w))
}

// slowest is the longest time that one entry took, its content included.
var slowest time.Duration

func list(w io.Writer, dir string, mtime bool) error {
	var paths []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if elsewhere[rel] {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		paths = append(paths, rel)
		return nil
	})
	if err != nil {
		return err
	}
	sort.Strings(paths)
	for _, rel := range paths {
		begin := time.Now()
		line, err := entry(filepath.Join(dir, rel), rel, mtime)
		if err != nil {
			return err
		}
		slowest = max(slowest, time.Since(begin))
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

func entry(path, rel string, mtime bool) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return "", &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	line := fmt.Sprintf("%q %06o %d:%d", rel, st.Mode, st.Uid, st.Gid)
	kind := st.Mode & syscall.S_IFMT
	if kind != syscall.S_IFDIR {
		line += fmt.Sprintf(" nlink=%d", st.Nlink)
	}
	// The root's own time is Docker's, and so is that of directories it makes mount points in.
	if mtime && rel != "." && rel != "etc" {
		line += fmt.Sprintf(" mtime=%d", st.Mtim.Sec)
	}
	switch kind {
	case syscall.S_IFREG:
		sum, err := hash(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" size=%d %s", st.Size, sum)
	case syscall.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" -> %q", target)
	case syscall.S_IFCHR, syscall.S_IFBLK:
		line += fmt.Sprintf(" rdev=%d", st.Rdev)
	}
	return line + attributes(path, kind), nil
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// attributes lists the extended attributes of files and directories; those of
// links and devices need calls that follow nothing, and images hardly have them.
func attributes(path string, kind uint32) string {
	if kind != syscall.S_IFREG && kind != syscall.S_IFDIR {
		return ""
	}
	names := make([]byte, 64<<10)
	n, err := syscall.Listxattr(path, names)
	if err != nil || n == 0 {
		return ""
	}
	list := strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00")
	sort.Strings(list)
	var out string
	for _, name := range list {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := syscall.Getxattr(path, name, value)
		if err != nil {
			out += fmt.Sprintf(" %s!%v", name, err)
			continue
		}
		out += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return out
}
