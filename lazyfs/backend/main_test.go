// SPDX-License-Identifier: Apache-2.0

package backend_test

import (
	"flag"
	"io"
	stdlog "log"
	"os"
	"testing"
)

// TestMain lets more tests wait at a time than there are processors.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "12")
	os.Exit(m.Run())
}

var quiet = stdlog.New(io.Discard, "", 0)
