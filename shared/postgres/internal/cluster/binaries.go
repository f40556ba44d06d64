package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const oldestMajor = 14

// ErrNoBinaries is returned by Start and Find if the machine has no PostgreSQL server.
var ErrNoBinaries = errors.New("no PostgreSQL server found on this machine: install one " +
	"(Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; macOS: brew install postgresql), " +
	"or set PGBIN to the folder of its binaries")

// Find returns an error that says what to do if the machine has no PostgreSQL server that Start can use.
func Find(ctx context.Context, pgbin string) error {
	_, err := findBinaries(ctx, pgbin, 0)
	return err
}

var usualFolders = []string{
	"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
	"/usr/pgsql-*/bin",          // PGDG packages for Fedora and its relatives
	"/opt/homebrew/opt/postgresql*/bin",
	"/usr/local/opt/postgresql*/bin", // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/usr/local/pgsql/bin",
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

type binaries struct {
	folder string
	major  int
}

// findBinaries returns the folder of initdb and postgres: pgbin if it is set, else the first supported one of PATH,
// pg_config and the usual folders. A major version of 0 means any that is supported.
func findBinaries(ctx context.Context, pgbin string, major int) (string, error) {
	var found []binaries
	var err error
	if pgbin == "" {
		found = search(ctx, usualFolders)
	} else {
		var named binaries
		if named, err = inspect(ctx, pgbin); err != nil {
			err = fmt.Errorf("PGBIN: no usable PostgreSQL server in %s: %w", pgbin, err)
		}
		found = []binaries{named}
	}
	if ctx.Err() != nil { // what could not be asked may be there
		return "", ctx.Err()
	}
	if err != nil {
		return "", err
	}
	folder, err := choose(found, major)
	if path, there := exec.LookPath("postgres"); errors.Is(err, ErrNoBinaries) && there == nil {
		_, why := inspect(ctx, filepath.Dir(path))
		err = fmt.Errorf("%w; %s cannot be used: %w", err, path, why)
	}
	return folder, err
}

// choose returns the folder of the first binaries that are supported and of the major version, if that is not 0.
func choose(found []binaries, major int) (string, error) {
	if len(found) == 0 {
		return "", ErrNoBinaries
	}
	for _, b := range found {
		if b.major >= oldestMajor && (major == 0 || b.major == major) {
			return b.folder, nil
		}
	}
	need := fmt.Sprintf("%d or newer", oldestMajor)
	if major != 0 {
		need = fmt.Sprintf("%d, which made the data,", major)
	}
	return "", fmt.Errorf("PostgreSQL %d in %s cannot be used: version %s is required", found[0].major, found[0].folder, need)
}

// search lists the binaries on this machine in order of preference. A postgres without initdb is none.
func search(ctx context.Context, globs []string) []binaries {
	var found []binaries
	add := func(folder string) {
		if b, err := inspect(ctx, folder); err == nil {
			found = append(found, b)
		}
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		add(filepath.Dir(path))
	}
	if out, err := output(ctx, "pg_config", "--bindir"); err == nil {
		add(strings.TrimSpace(out))
	}
	preferred := len(found)
	for _, glob := range globs {
		folders, _ := filepath.Glob(glob)
		for _, folder := range folders {
			add(folder)
		}
	}
	slices.SortStableFunc(found[preferred:], func(a, b binaries) int { return cmp.Compare(b.major, a.major) })
	return found
}

func inspect(ctx context.Context, folder string) (binaries, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return binaries{}, err
	}
	if _, err := os.Stat(filepath.Join(folder, "initdb")); err != nil {
		return binaries{}, err
	}
	out, err := output(ctx, filepath.Join(folder, "postgres"), "--version")
	if err != nil {
		return binaries{}, err
	}
	match := versionPattern.FindStringSubmatch(out)
	if match == nil {
		return binaries{}, fmt.Errorf("postgres --version says %q", out)
	}
	major, err := strconv.Atoi(match[1])
	return binaries{folder, major}, err
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).Output()
	return string(out), err
}
