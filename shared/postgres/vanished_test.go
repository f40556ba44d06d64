package postgres_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/postgres/pgtest"
)

// An account is the user that a service runs as: the one that runs the test, or an ordinary one.
type account struct {
	name   string
	nobody bool
}

func accounts() []account {
	if os.Geteuid() != 0 {
		return []account{{"as the test", false}}
	}
	return []account{{"as the test", false}, {"as nobody", true}}
}

// A data folder is one that a service in a process of its own has used.
type dataFolder struct {
	dir     string // DATA_DIR
	prepare []func(*exec.Cmd)
}

func newDataFolder(t *testing.T, nobody bool) *dataFolder {
	t.Helper()
	f := &dataFolder{dir: filepath.Join(pgtest.Dir(t), "data", "dir")}
	if err := os.Mkdir(filepath.Dir(f.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if nobody {
		top := filepath.Dir(filepath.Dir(f.dir))
		f.prepare = append(f.prepare, asNobody(t, top))
		for _, folder := range []string{top, filepath.Dir(f.dir)} {
			if err := os.Chmod(folder, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	return f
}

func (f *dataFolder) start(t *testing.T) *helper {
	t.Helper()
	return startHelper(t, helperArgs{Dir: f.dir, Name: "sales"}, f.prepare...)
}

// use runs the service once; it adds a row.
func (f *dataFolder) use(t *testing.T, rows int) {
	t.Helper()
	h := f.start(t)
	h.data(t)
	h.end(t, rows)
}

func (f *dataFolder) shell(t *testing.T, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = f.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

func TestDataVanished(t *testing.T) {
	t.Parallel()
	for _, account := range accounts() {
		f := newDataFolder(t, account.nobody)
		f.use(t, 1)
		// After each case the folder is restored to what it was before.
		f.shell(t, "cp -a . ../saved")
		for name, x := range map[string]struct{ script, says string }{
			"the data is gone":                        {"rm -r sales/data", "the database in"},
			"the data folder is empty":                {"rm -r sales/data/*", "the database in"},
			"PG_VERSION is gone":                      {"rm sales/data/PG_VERSION", "holds files but no database"},
			"the data is gone but for one file":       {"find sales/data -type f ! -name PG_VERSION -delete", "could not access"},
			"the service's folder is gone":            {"rm -r sales", "the database in"},
			"the service's folder is empty":           {"find sales -mindepth 1 -delete", "the database in"},
			"all but the service's folder is gone":    {"rm -r sales.exists sales/data", "the database in"},
			"the volume is not mounted":               {"find . -mindepth 1 -delete; touch ../dir-sales.exists", "the database in"},
			"the data is a link to what is not there": {"rm -r sales/data; ln -s /nowhere/data sales/data", "leads to /nowhere/data, which does not exist"},
			"PG_VERSION is empty":                     {": > sales/data/PG_VERSION", "it holds no version"},
			"PG_VERSION is garbage":                   {"printf '\\000\\001x' > sales/data/PG_VERSION", "it holds no version"},
			"PG_VERSION is another one":               {"echo 99 > sales/data/PG_VERSION", "version 99, which made the data, is required"},
			"PG_VERSION is a folder":                  {"rm sales/data/PG_VERSION; mkdir sales/data/PG_VERSION", "is a directory"},
			"the data is a file":                      {"rm -r sales/data; : > sales/data", "not a directory"},
			"global is gone":                          {"rm -r sales/data/global", "pg_control"},
			"base is gone":                            {"rm -r sales/data/base", "is damaged"},
			"the files of base are gone":              {"find sales/data/base -type f -delete", "is damaged"},
			"the log is gone":                         {"rm -r sales/data/pg_wal", "pg_wal"},
		} {
			t.Run(name+", "+account.name, func(t *testing.T) {
				f.shell(t, x.script)
				before := tree(t, f.dir)
				text := f.start(t).failure(t)
				if !strings.Contains(text, x.says) {
					t.Errorf("it says %s", text)
				}
				if strings.Contains(text, "goroutine ") {
					t.Errorf("it panics: %s", text)
				}
				if _, err := os.Stat(filepath.Join(f.dir, "sales/data/global/pg_control")); err == nil && !strings.Contains(before, "pg_control") {
					t.Error("it has begun over")
				}
				f.shell(t, "find . -mindepth 1 -delete; rm -f ../dir-sales.exists; cp -a ../saved/. .")
			})
		}
		t.Run("the volume that a link leads to is not mounted, "+account.name, func(t *testing.T) {
			f.shell(t, "ln -s dir ../link; find . -mindepth 1 -delete; touch ../dir-sales.exists")
			link := *f
			link.dir = filepath.Join(filepath.Dir(f.dir), "link")
			if text := link.start(t).failure(t); !strings.Contains(text, "the database in "+f.dir+"/sales/data is gone") {
				t.Errorf("it says %s", text)
			}
			f.shell(t, "find . -mindepth 1 -delete; rm ../link ../dir-sales.exists; cp -a ../saved/. .")
		})
		t.Run("what is restored goes on, "+account.name, func(t *testing.T) {
			f.shell(t, "mv sales/data ../aside")
			f.start(t).failure(t)
			f.shell(t, "mv ../aside sales/data")
			f.use(t, 2)
		})
		t.Run("what is removed begins over, "+account.name, func(t *testing.T) {
			f.shell(t, "rm -r sales")
			if err := postgres.Remove(postgres.Config{Dir: f.dir, Name: "sales"}); err != nil {
				t.Error(err)
			}
			f.use(t, 1)
		})
		t.Run("data from before the marker gets one, "+account.name, func(t *testing.T) {
			f.shell(t, "rm sales.exists sales/exists")
			f.use(t, 2)
			f.shell(t, "rm -r sales")
			if text := f.start(t).failure(t); !strings.Contains(text, f.dir+"/sales.exists") {
				t.Errorf("it says %s", text)
			}
		})
	}
}

// tree lists the files in a folder.
func tree(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("find", dir, "-type", "f").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A database whose files are gone is no missing one that may be created.
func TestDatabaseVanished(t *testing.T) {
	t.Parallel()
	f := newDataFolder(t, false)
	f.use(t, 1)
	f.shell(t, `rm -r "sales/data/base/$(ls sales/data/base | sort -n | tail -1)"`)
	if text := f.start(t).failure(t); !strings.Contains(text, "is missing") {
		t.Errorf("it says %s", text)
	}
}

func TestTemporaryFolder(t *testing.T) {
	t.Parallel()
	f := newDataFolder(t, false)
	f.use(t, 1)
	h := f.start(t)
	h.data(t)
	h.end(t, 2)
	if text, err := os.ReadFile(h.stderr.Name()); err != nil || !strings.Contains(string(text), "level=WARN") || !strings.Contains(string(text), "it is in ") {
		t.Errorf("%s, %v", text, err)
	}
}
