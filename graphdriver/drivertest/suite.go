// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"testing"

	moby "github.com/moby/moby/v2/daemon/graphdriver"
	"github.com/moby/moby/v2/daemon/graphdriver/graphtest"
	"github.com/moby/sys/user"
)

// Start starts or finds a plugin whose data lies below root, and returns a client that has called Init.
type Start func(root string, opts []string) (*Client, error)

// Suite runs Docker's graph driver cases. The name is entered in Docker's registry of drivers, which takes each only once
// per process.
func Suite(t *testing.T, name string, start Start) {
	register(t, name, start)
	graphtest.GetDriver(t, name) // so that all cases share one driver
	defer graphtest.PutDriver(t)
	t.Run("CreateEmpty", func(t *testing.T) { graphtest.DriverTestCreateEmpty(t, name) })
	t.Run("CreateBase", func(t *testing.T) { graphtest.DriverTestCreateBase(t, name) })
	t.Run("CreateSnap", func(t *testing.T) { graphtest.DriverTestCreateSnap(t, name) })
	t.Run("128LayerRead", func(t *testing.T) { graphtest.DriverTestDeepLayerRead(t, 128, name) })
	t.Run("DiffApply10Files", func(t *testing.T) { graphtest.DriverTestDiffApply(t, 10, name) })
	t.Run("DiffApply200Files", func(t *testing.T) { graphtest.DriverTestDiffApply(t, 200, name) })
	t.Run("Changes", func(t *testing.T) { graphtest.DriverTestChanges(t, name) })
}

// SuiteQuota runs Docker's case of a container with a limited size. It needs a driver whose data lies on xfs with project
// quotas.
func SuiteQuota(t *testing.T, name string, start Start) {
	register(t, name, start)
	graphtest.DriverTestSetQuota(t, name, true)
}

func register(t *testing.T, name string, start Start) {
	t.Helper()
	err := moby.Register(name, func(root string, opts []string, _ user.IdentityMapping) (moby.Driver, error) {
		return start(root, opts)
	})
	if err != nil {
		t.Fatal(err)
	}
}
