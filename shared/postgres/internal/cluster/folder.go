package cluster

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

const (
	fallbackRoot  = "/var/lib/edison-cars" // for data whose own folder the server's user cannot enter
	lockName      = "lock"
	maxSocketPath = 103 // bytes: the smallest limit of all systems
)

type folder struct {
	lock    *daemon.LockedFile
	account *syscall.Credential // the server's user; nil means this process's
	dir     string              // absolute: Options.Dir
	home    string              // absolute: dir, or its replacement under fallbackRoot
	data    string              // the database cluster, in home
	socket  string              // folder of the socket: home, or one with a shorter path
}

func openFolder(opts Options) (_ *folder, err error) {
	if err := os.MkdirAll(filepath.Dir(opts.Dir), 0o755); err != nil {
		return nil, err
	}
	dir, err := resolved(opts.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	lock, err := daemon.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	f := &folder{lock: lock, dir: dir, home: dir}
	if f.account, err = serverAccount(dir); err != nil {
		return nil, err
	}
	if err := claim(dir, f.account); err != nil {
		return nil, err
	}
	if f.account != nil {
		if err := lock.Chown(int(f.account.Uid), int(f.account.Gid)); err != nil {
			return nil, err
		}
		if f.home, err = enterable(dir, f.account, opts.Fallback); err != nil {
			return nil, err
		}
		if f.home != dir {
			opts.Logger.Info("the server's user cannot enter the folder, its data is elsewhere", "folder", dir, "data", f.home)
		}
	}
	if reason := temporary(f.home); reason != "" && !opts.Volatile {
		opts.Logger.Warn("the data is in a folder that the system cleans: set DATA_DIR to another one", "folder", f.home, "reason", reason)
	}
	f.data = filepath.Join(f.home, "data")
	f.socket = f.home
	if len(f.socketFile()) > maxSocketPath || strings.ContainsAny(f.home, `,"`) {
		f.socket = "/tmp/edison-" + shortHash(f.home)
		if err := claim(f.socket, f.account); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// resolved returns dir as an absolute path without symbolic links above dir itself: by whichever path a folder is
// reached, its data, its markers and its volume are the same.
func resolved(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	above, err := filepath.EvalSymlinks(filepath.Dir(dir))
	if errors.Is(err, os.ErrNotExist) {
		return dir, nil
	}
	return filepath.Join(above, filepath.Base(dir)), err
}

func (f *folder) socketFile() string { return filepath.Join(f.socket, ".s.PGSQL."+port) }

func (f *folder) close() {
	if f.socket != f.home {
		os.Remove(f.socket) // only if it is empty
	}
	f.lock.Close()
}

// serverAccount returns the user of the folder's server, since PostgreSQL refuses root: the owner of the folder, else
// the user postgres or nobody. It returns nil if this process is not root's.
func serverAccount(dir string) (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if owner := info.Sys().(*syscall.Stat_t); owner.Uid != 0 {
		return &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		// on macOS, the user nobody has the id -2
		uid, err := strconv.ParseInt(account.Uid, 10, 64)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseInt(account.Gid, 10, 64)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

// enterable returns dir if the account can use it, or else dir's replacement under fallbackRoot, if fallback allows
// that or the replacement already has dir's data. The link data in dir leads to it.
func enterable(dir string, account *syscall.Credential, fallback bool) (string, error) {
	elsewhere, link := fallbackHome(dir), filepath.Join(dir, "data")
	target, _ := os.Readlink(link)
	_, missing := os.Lstat(link)
	switch {
	case target == filepath.Join(elsewhere, "data"):
	case strings.HasPrefix(target, fallbackRoot+"/"):
		return "", fmt.Errorf("%s leads to %s, the data of another folder, as %s was moved or copied: to keep the data, move %s to %s "+
			"and delete the link; to start over, delete the link", link, target, dir, filepath.Dir(target), elsewhere)
	case missing != nil && exists(filepath.Join(elsewhere, "data")): // dir was deleted and created again
	default:
		reason := try(dir, account)
		if reason == nil {
			return dir, nil
		}
		if missing == nil {
			return "", fmt.Errorf("%s holds data, but user %d cannot enter it: %w", dir, account.Uid, reason)
		}
		if !fallback {
			return "", fmt.Errorf("user %d, whom PostgreSQL runs as, cannot work in %s (%w): let others enter it and the folders above "+
				"(chmod o+x), or choose another one for DATA_DIR, such as %s", account.Uid, dir, reason, fallbackRoot)
		}
	}
	if err := os.MkdirAll(fallbackRoot, 0o755); err != nil {
		return "", err
	}
	if err := claim(elsewhere, account); err != nil {
		return "", err
	}
	if err := os.Symlink(filepath.Join(elsewhere, "data"), link); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return elsewhere, try(elsewhere, account)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// fallbackHome returns the replacement of dir under fallbackRoot, which no other folder shares.
func fallbackHome(dir string) string {
	return filepath.Join(fallbackRoot, filepath.Base(dir)+"-"+shortHash(dir))
}

// temporary returns the reason why the folder's content does not last, or "".
func temporary(folder string) string {
	folder, err := filepath.EvalSymlinks(folder)
	if err != nil {
		return ""
	}
	for _, t := range []string{"/tmp", "/var/tmp", os.TempDir()} {
		if t, err := filepath.EvalSymlinks(t); err == nil && strings.HasPrefix(folder+"/", t+"/") {
			return "it is in " + t
		}
	}
	if inMemory(folder) {
		return "it is in memory"
	}
	return ""
}

// try writes and deletes a file in dir as the account.
func try(dir string, account *syscall.Credential) error {
	cmd := exec.Command("/bin/sh", "-c", ": > .try") // without a program that PATH may lack
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account}
	if err := cmd.Run(); err != nil {
		return err
	}
	return os.Remove(filepath.Join(dir, ".try"))
}

// claim creates a folder that only the account may enter. An existing one must belong to the account or to this
// process: in a folder like /tmp, any user could have created it.
func claim(dir string, account *syscall.Credential) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if owner != uint32(os.Geteuid()) && (account == nil || owner != account.Uid) {
		return fmt.Errorf("%s belongs to user %d, not to this one", dir, owner)
	}
	if account != nil {
		if err := f.Chown(int(account.Uid), int(account.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(0o700)
}

func shortHash(path string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(path)))[:12]
}
