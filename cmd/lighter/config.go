// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Settings are flags that may also come from LIGHTER_… in the environment or
// from a TOML file with the flags' names as keys; the flag typed comes first,
// then the environment, then the file, then the default.

// unset are flags that only make sense when typed.
var unset = []string{"help", "config", "version", "json"}

func systemFiles() []string {
	var out []string
	if dir, err := os.UserConfigDir(); err == nil {
		out = append(out, filepath.Join(dir, "lighter", "config.toml"))
	}
	return append(out, "/etc/lighter/config.toml")
}

// settingsFile reads the file named by --config or LIGHTER_CONFIG, else the first default one that exists.
func settingsFile(cmd *cobra.Command) (string, map[string]any, error) {
	name := os.Getenv("LIGHTER_CONFIG")
	if f := cmd.Flags().Lookup("config"); f != nil && f.Changed {
		name = f.Value.String()
	}
	files := []string{name}
	if name == "" {
		files = systemFiles()
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if os.IsNotExist(err) && name == "" {
			continue
		}
		if err != nil {
			return "", nil, usagef("configuration: %w", err)
		}
		values := map[string]any{}
		if err := toml.Unmarshal(raw, &values); err != nil {
			return "", nil, usagef("configuration %s: %w", f, err)
		}
		return f, values, nil
	}
	return "", nil, nil
}

func envName(flag string) string {
	return "LIGHTER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applySettings fills the flags that were not typed.
func applySettings(cmd *cobra.Command) error {
	file, values, err := settingsFile(cmd)
	if err != nil {
		return err
	}
	known := knownFlags(cmd.Root())
	for k, v := range values {
		_, table := v.(map[string]any)
		if _, ok := known[k]; !ok || table {
			return usagef("configuration %s: unknown setting %q", file, k)
		}
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if err != nil || f.Changed || slices.Contains(unset, f.Name) {
			return
		}
		if v, from, ok := setting(f.Name, file, values); ok {
			if serr := f.Value.Set(v); serr != nil {
				err = usagef("%s: %s=%q: %w", from, f.Name, v, serr)
			}
		}
	})
	return err
}

// setting finds a flag's value outside the command line, and where it stands.
func setting(flag, file string, values map[string]any) (value, from string, ok bool) {
	if v, ok := os.LookupEnv(envName(flag)); ok {
		return v, envName(flag), true
	}
	switch v := values[flag].(type) {
	case nil:
		return "", "", false
	case []any:
		var parts []string
		for _, p := range v {
			parts = append(parts, fmt.Sprint(p))
		}
		return strings.Join(parts, ","), file, true
	default:
		return fmt.Sprint(v), file, true
	}
}

// knownFlags lists the settings of all verbs by name, with their defaults.
func knownFlags(root *cobra.Command) map[string]string {
	out := map[string]string{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !slices.Contains(unset, f.Name) {
				out[f.Name] = f.DefValue
			}
		})
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return out
}

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Settings from the environment and the configuration file",
		Example: "  lighter config print",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    needsVerb,
	}
	cmd.AddCommand(newConfigPrint())
	return cmd
}

type settingShown struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"` // "default", LIGHTER_… or a file
}

func newConfigPrint() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "print",
		Short:   "Show what is in force and where it comes from",
		Example: "  LIGHTER_COMPRESSOR=lz4_block lighter config print",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, values, err := settingsFile(cmd)
			if err != nil {
				return err
			}
			known := knownFlags(cmd.Root())
			var shown []settingShown
			for _, name := range slices.Sorted(maps.Keys(known)) {
				s := settingShown{name, known[name], "default"}
				if v, from, ok := setting(name, file, values); ok {
					s.Value, s.From = v, from
				}
				shown = append(shown, s)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), shown)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			for _, s := range shown {
				fmt.Fprintf(tw, "%s\t%q\t%s\n", s.Name, s.Value, s.From)
			}
			return tw.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}
