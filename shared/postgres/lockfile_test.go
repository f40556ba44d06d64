package postgres_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// other is a process of the account that is no server; it ends with the test.
func (f *dataFolder) other(t *testing.T, line ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	if len(f.prepare) > 0 && os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// What a crash left names the process id of something else by now: the server starts, whatever it is.
func TestStaleLockFile(t *testing.T) {
	t.Parallel()
	for _, account := range accounts() {
		f := newDataFolder(t, account.nobody)
		f.use(t, 1)
		h := f.start(t)
		data := h.data(t)
		pidFile, socketFile := filepath.Join(data, "postmaster.pid"), filepath.Join(f.dir, "sales", ".s.PGSQL.5432.lock")
		f.shell(t, "cp -a "+pidFile+" ../pid; cp -a "+socketFile+" ../socket")
		h.end(t, 2)
		rows := 2
		sleeper := f.other(t, "sleep", "3600").Process.Pid
		inside := f.other(t, "sh", "-c", "cd "+data+" && exec sleep 3600").Process.Pid
		for name, first := range map[string]string{
			"another process of the same user": strconv.Itoa(sleeper),
			"a process in the data folder":     strconv.Itoa(inside),
			"a standalone server's":            strconv.Itoa(-sleeper),
			"the parent of the service":        strconv.Itoa(os.Getpid()),
			"the first process":                "1",
			"no process":                       "4194303",
			"none":                             "0",
			"a number beyond all":              "99999999999999999999",
			"garbage":                          "\x00\xffnonsense",
			"spaces":                           "   ",
		} {
			t.Run(name+", "+account.name, func(t *testing.T) {
				for file, saved := range map[string]string{pidFile: "../pid", socketFile: "../socket"} {
					f.shell(t, "cp -a "+saved+" "+file)
					text, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					_, rest, _ := strings.Cut(string(text), "\n")
					if err := os.WriteFile(file, []byte(first+"\n"+rest), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				rows++
				f.use(t, rows)
			})
		}
		t.Run("empty files, "+account.name, func(t *testing.T) {
			f.shell(t, fmt.Sprintf("cp -a ../pid %s; cp -a ../socket %s; : > %[1]s; : > %[2]s", pidFile, socketFile))
			rows++
			f.use(t, rows)
		})
	}
}

// A server that outlives its service is no stale one, whatever its file says: there is no second one beside it.
func TestOrphan(t *testing.T) {
	t.Parallel()
	for _, account := range accounts() {
		for name, script := range map[string]string{
			"named by its file": "", "its file is empty": ": > postmaster.pid", "its file names another": "sed -i '1s/.*/1/' postmaster.pid", "its file is gone": "rm postmaster.pid",
		} {
			t.Run(name+", "+account.name, func(t *testing.T) {
				t.Parallel()
				f := newDataFolder(t, account.nobody)
				f.use(t, 1)
				data := filepath.Join(f.dir, "sales", "data")
				// By hand, as an operator may.
				server := f.server(t, data)
				eventually(t, "it has its file", func() bool {
					text, _ := os.ReadFile(filepath.Join(data, "postmaster.pid"))
					return strings.Contains(string(text), "ready")
				})
				f.shell(t, "cd "+data+"; "+script)
				h := f.start(t)
				if script != "" { // it goes down soon, and the service waits for that
					if err := server.Process.Signal(syscall.SIGQUIT); err != nil {
						t.Fatal(err)
					}
					_ = server.Wait()
					h.data(t)
					h.end(t, 2)
					return
				}
				text := h.failure(t)
				if want := fmt.Sprintf("still runs on %s, process %d: stop it", data, server.Process.Pid); !strings.Contains(text, want) {
					t.Errorf("%s, want %s", text, want)
				}
				if err := syscall.Kill(server.Process.Pid, 0); err != nil {
					t.Errorf("the server: %v", err)
				}
			})
		}
	}
}

// server starts a server on the data as its owner.
func (f *dataFolder) server(t *testing.T, data string) *exec.Cmd {
	t.Helper()
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	opts, err := os.ReadFile(filepath.Join(data, "postmaster.opts"))
	if err != nil {
		t.Fatal(err)
	}
	bin, _, _ := strings.Cut(string(opts), " ")
	cmd := exec.Command(bin, "-D", data, "-c", "listen_addresses=", "-c", "unix_socket_directories="+filepath.Dir(data))
	cmd.Dir = filepath.Dir(data)
	owner := info.Sys().(*syscall.Stat_t)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT)
		_ = cmd.Wait()
	})
	return cmd
}
