// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"lighter/format"
)

func newCat() *cobra.Command {
	var p places
	cmd := &cobra.Command{
		Use:     "cat IMAGE PATH",
		Short:   "Write a file of an accelerated image; fetches and verifies its chunks only",
		Example: "  lighter cat registry.example/app:1-nydus /etc/os-release",
		Args:    usageArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := p.view(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer v.close()
			b := v.opened.Bootstrap
			ino, err := follow(b, path.Clean("/"+args[1]))
			if err != nil {
				return err
			}
			content := b.Content(v.opened.OpenBlob)
			defer content.Close()
			buf := make([]byte, 1<<20)
			for off := int64(0); off < ino.Size; {
				n, err := content.ReadAt(ino, buf, off)
				if _, werr := cmd.OutOrStdout().Write(buf[:n]); werr != nil {
					return werr
				}
				off += int64(n)
				if err != nil && err != io.EOF {
					return fmt.Errorf("%s: byte %d: %w", args[1], off, err)
				}
			}
			return nil
		},
	}
	p.flags(cmd)
	p.platformFlag(cmd)
	return cmd
}

// maxLinks is how many symbolic links one path may lead through, as in Linux.
const maxLinks = 40

// follow resolves symbolic links inside the image and gives a regular file.
func follow(b *format.Bootstrap, name string) (format.Inode, error) {
	at, rest := "/", strings.Split(strings.Trim(name, "/"), "/")
	links := 0
	for len(rest) > 0 {
		next := path.Join(at, rest[0])
		ino, err := b.LookupPath(strings.TrimPrefix(next, "/"))
		if err != nil {
			return format.Inode{}, err
		}
		if ino.Mode&unix.S_IFMT != unix.S_IFLNK {
			at, rest = next, rest[1:]
			continue
		}
		if links++; links > maxLinks {
			return format.Inode{}, fmt.Errorf("%s: more than %d symbolic links", name, maxLinks)
		}
		to, err := b.Readlink(ino)
		if err != nil {
			return format.Inode{}, err
		}
		if !path.IsAbs(to) {
			to = path.Join(at, to)
		}
		rest = append(strings.Split(strings.Trim(path.Clean("/"+to), "/"), "/"), rest[1:]...)
		at = "/"
	}
	ino, err := b.LookupPath(strings.TrimPrefix(at, "/"))
	if err != nil {
		return format.Inode{}, err
	}
	if ino.Mode&unix.S_IFMT != unix.S_IFREG {
		return format.Inode{}, fmt.Errorf("%s: not a regular file", name)
	}
	return ino, nil
}
