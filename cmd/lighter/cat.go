// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"path"

	"github.com/spf13/cobra"

	"lighter/convert"
	"lighter/format"
)

func newCat() *cobra.Command {
	var p places
	cmd := &cobra.Command{
		Use:     "cat IMAGE PATH | --bootstrap FILE --blobs DIR PATH",
		Short:   "Write a file of an accelerated image; fetches and verifies its chunks only",
		Example: "  lighter cat registry.example/app:1-nydus /etc/os-release",
		Args:    p.imageArgs(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rest := p.split(args)
			v, err := p.view(cmd.Context(), name)
			if err != nil {
				return err
			}
			defer v.close()
			b := v.boot
			ino, err := follow(b, path.Clean("/"+rest[0]))
			if err != nil {
				return err
			}
			content := b.Content(v.open)
			defer content.Close()
			buf := make([]byte, 1<<20)
			for off := int64(0); off < ino.Size; {
				n, err := content.ReadAt(ino, buf, off)
				if _, werr := cmd.OutOrStdout().Write(buf[:n]); werr != nil {
					return werr
				}
				off += int64(n)
				if err != nil && err != io.EOF {
					return fmt.Errorf("%s: byte %d: %w", rest[0], off, err)
				}
			}
			return nil
		},
	}
	p.flags(cmd)
	p.platformFlag(cmd)
	p.bareFlags(cmd)
	return cmd
}

// follow resolves symbolic links inside the image and gives a regular file.
func follow(b *format.Bootstrap, name string) (format.Inode, error) {
	ino, err := convert.Follow(b, name)
	if err == nil && !ino.IsRegular() {
		err = fmt.Errorf("%s: not a regular file", name)
	}
	return ino, err
}
