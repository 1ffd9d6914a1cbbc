// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"lighter/format"
)

type lsFlags struct {
	places
	long, recursive, json bool
}

// lsEntry is one line of ls --json; the name is a Go-quoted string's content where it is not UTF-8.
type lsEntry struct {
	Path  string `json:"path"`
	Mode  string `json:"mode"` // octal, with the type bits
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Nlink uint32 `json:"nlink"`
	Size  int64  `json:"size"`
	Mtime string `json:"mtime"`
	Rdev  uint32 `json:"rdev,omitempty"`
	Link  string `json:"link,omitempty"`
}

func newLs() *cobra.Command {
	var f lsFlags
	cmd := &cobra.Command{
		Use:     "ls IMAGE [PATH] | --bootstrap FILE [PATH]",
		Short:   "List a directory of an accelerated image; fetches the bootstrap only",
		Example: "  lighter ls -l registry.example/app:1-nydus /usr/bin",
		Args:    f.imageArgs(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rest := f.split(args)
			v, err := f.view(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer v.close()
			at := "/"
			if len(rest) == 1 {
				at = path.Clean("/" + rest[0])
			}
			w := bufio.NewWriter(cmd.OutOrStdout())
			if err := f.list(w, v.boot, at); err != nil {
				return err
			}
			return w.Flush()
		},
	}
	f.flags(cmd)
	f.platformFlag(cmd)
	f.bareFlags(cmd)
	cmd.Flags().BoolVarP(&f.long, "long", "l", false, "with mode, owner, size and time")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "with all below")
	cmd.Flags().BoolVar(&f.json, "json", false, "one JSON object per line")
	return cmd
}

func (f *lsFlags) list(w io.Writer, b *format.Bootstrap, at string) error {
	ino, err := b.LookupPath(strings.TrimPrefix(at, "/"))
	if err != nil {
		return err
	}
	if !ino.IsDir() {
		return f.show(w, b, ino, at, at)
	}
	return f.dir(w, b, ino, at, "", 0)
}

// maxDepth bounds -R; the format's own reader refuses loops.
const maxDepth = 4096

func (f *lsFlags) dir(w io.Writer, b *format.Bootstrap, dir format.Inode, at, rel string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: more than %d directories deep", at, maxDepth)
	}
	type sub struct {
		ino  format.Inode
		name string
	}
	var subs []sub
	var inner error
	err := b.Dirents(dir, 0, func(_ int, d format.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		ino, err := b.Child(dir, d)
		if err == nil {
			err = f.show(w, b, ino, path.Join(at, d.Name), rel+d.Name)
		}
		if err != nil {
			inner = err
			return false
		}
		if f.recursive && ino.IsDir() {
			subs = append(subs, sub{ino, d.Name})
		}
		return true
	})
	if err != nil || inner != nil {
		return firstOf(inner, err)
	}
	for _, s := range subs {
		if err := f.dir(w, b, s.ino, path.Join(at, s.name), rel+s.name+"/", depth+1); err != nil {
			return err
		}
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// show prints one entry; full is its path, name what a plain listing calls it.
func (f *lsFlags) show(w io.Writer, b *format.Bootstrap, ino format.Inode, full, name string) error {
	e := lsEntry{Path: full, Mode: fmt.Sprintf("%07o", ino.Mode), UID: ino.UID, GID: ino.GID, Nlink: ino.Nlink, Size: ino.Size, Rdev: ino.Rdev}
	if ino.Mode&unix.S_IFMT == unix.S_IFLNK {
		var err error
		if e.Link, err = b.Readlink(ino); err != nil {
			return err
		}
	}
	when := time.Unix(ino.Mtime, int64(ino.MtimeNsec)).UTC()
	e.Mtime = when.Format(time.RFC3339Nano)
	switch {
	case f.json:
		return json.NewEncoder(w).Encode(e)
	case !f.long:
		_, err := fmt.Fprintln(w, shown(name))
		return err
	}
	to := ""
	if e.Link != "" {
		to = " -> " + shown(e.Link)
	}
	_, err := fmt.Fprintf(w, "%s %3d %5d %5d %10d %s %s%s\n", ino.FileMode(), ino.Nlink, ino.UID, ino.GID, ino.Size, when.Format("2006-01-02 15:04"), shown(name), to)
	return err
}

// shown quotes names that would disturb a terminal or a line-wise reader.
func shown(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
