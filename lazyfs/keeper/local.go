// SPDX-License-Identifier: Apache-2.0

package keeper

import "context"

// Local is a keeper inside the process that serves: the same calls as
// [Client], but a mount ends with the process.
type Local struct {
	t *table
}

// NewLocal returns a keeper for mounts of this process.
func NewLocal() *Local { return &Local{t: newTable(&prober{})} }

// Kept returns nothing: there was no process before this one.
func (l *Local) Kept() []*Mount { return nil }

// Mount mounts a FUSE file system on target, an absolute path of a directory.
// The result must be served before anybody touches the mount.
func (l *Local) Mount(_ context.Context, id, target string, meta []byte) (*Mount, error) {
	return l.t.mount(id, target, meta)
}

// Ready returns when the root of a mount can be read.
func (l *Local) Ready(ctx context.Context, serial uint64) error { return l.t.ready(ctx, serial) }

// Unmount takes a mount away from its target. Who still uses it can go on.
func (l *Local) Unmount(_ context.Context, serial uint64) error { return l.t.unmount(serial) }

// Release forgets a mount whose connection has ended.
func (l *Local) Release(_ context.Context, serial uint64) error { return l.t.release(serial) }

// Close unmounts and forgets everything.
func (l *Local) Close() error { return l.t.close() }
