package buyer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/edison-cars/data-feeds/shared/daemon"
)

func TestKey(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef0123456789abcdef"
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	pipe := filepath.Join(t.TempDir(), "pipe") // without a writer
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string]map[string]string{
		"too short": {"BUYER_KEY": secret[1:]}, "with a space": {"BUYER_KEY": secret + " x"}, "with a line break": {"BUYER_KEY": secret + "\n"},
		"both":         {"BUYER_KEY": secret, "BUYER_KEY_FILE": file(secret)},
		"a short file": {"BUYER_KEY_FILE": file(secret[1:] + "\n")}, "an empty file": {"BUYER_KEY_FILE": file("")}, "no file": {"BUYER_KEY_FILE": "/nowhere/key"},
		"a pipe": {"BUYER_KEY_FILE": pipe}, "an endless file": {"BUYER_KEY_FILE": "/dev/zero"},
	} {
		var s Settings
		err := daemon.Parse(env, &s)
		if err == nil {
			_, err = s.key(t.TempDir())
		}
		if err == nil || strings.Contains(err.Error(), secret[1:]) {
			t.Errorf("%s: %v", name, err)
		}
		if _, inFile := env["BUYER_KEY_FILE"]; errors.Is(err, daemon.ErrUsage) == (inFile && len(env) == 1) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, env := range map[string]map[string]string{"set": {"BUYER_KEY": secret}, "in a file": {"BUYER_KEY_FILE": file(" " + secret + "\n")}} {
		var s Settings
		if err := daemon.Parse(env, &s); err != nil {
			t.Fatal(err)
		}
		if key, err := s.key(t.TempDir()); key != secret || err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Run("the first of many processes makes the file", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "data")
		keys := make([]Key, 16)
		var all sync.WaitGroup
		for i := range keys {
			all.Go(func() {
				key, err := Settings{}.key(dir)
				if err != nil {
					t.Error(err)
				}
				keys[i] = key
			})
		}
		all.Wait()
		for _, key := range keys {
			if key != keys[0] || len(key) < 64 {
				t.Errorf("%d characters, not the same", len(key))
			}
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
			t.Errorf("%v, %v", files, err)
		}
		if info, err := os.Stat(filepath.Join(dir, "buyer.key")); err != nil || info.Mode() != fs.FileMode(0o600) {
			t.Errorf("%v, %v", info, err)
		}
	})
	t.Run("a default file that is malformed is left alone", func(t *testing.T) {
		path := file("x")
		if err := os.Rename(path, filepath.Join(filepath.Dir(path), "buyer.key")); err != nil {
			t.Fatal(err)
		}
		if _, err := (Settings{}).key(filepath.Dir(path)); err == nil {
			t.Error("it was taken, or made again")
		}
	})
}

func TestExpiry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &Side{app: Sales, other: Customers, key: []byte(strings.Repeat("k", minKey))}
		for purpose, maxAge := range map[string]time.Duration{audience(Sales): handoverTime, s.cookie(buyerCookie): cookieTime, s.cookie(begunCookie): signInTime} {
			signed, err := s.sign(purpose, Buyer{Visitor: uuid.New()})
			if err != nil {
				t.Fatal(err)
			}
			var b Buyer
			time.Sleep(maxAge - time.Second)
			if err := s.codec(maxAge).Decode(purpose, signed, &b); err != nil {
				t.Errorf("%s: %v", purpose, err)
			}
			time.Sleep(3 * time.Second)
			if err := s.codec(maxAge).Decode(purpose, signed, &b); err == nil {
				t.Errorf("%s is good for more than %v", purpose, maxAge)
			}
		}
	})
}
