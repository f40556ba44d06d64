package buyer

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/edison-cars/data-feeds/shared/daemon"
	"github.com/edison-cars/data-feeds/shared/postgres"
	"github.com/edison-cars/data-feeds/shared/webserver"
)

// Settings of the key that signs the credentials.
type Settings struct {
	BuyerKey     Key    `env:"BUYER_KEY" help:"secret of at least 32 characters that signs buyers' credentials, the same for sales, customers and all their replicas; defaults to the one in BUYER_KEY_FILE"`
	BuyerKeyFile string `env:"BUYER_KEY_FILE" help:"file with that secret; defaults to DATA_DIR/buyer.key, which the first process creates"`
}

// A Key is a secret of at least 32 characters.
type Key string

const minKey = 32 // bytes

var errKey = errors.New("takes a secret of at least 32 characters without white space, such as openssl rand -hex 32 prints")

// UnmarshalText reads a key. The error does not contain it.
func (k *Key) UnmarshalText(text []byte) error {
	if len(text) < minKey || strings.ContainsFunc(string(text), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return errKey
	}
	*k = Key(text)
	return nil
}

// key returns the key from the environment or from its file. The default file, in dataDir, is created if it is missing.
func (s Settings) key(dataDir string) (key Key, err error) {
	switch {
	case s.BuyerKey != "" && s.BuyerKeyFile != "":
		return "", daemon.Usagef("BUYER_KEY and BUYER_KEY_FILE are both set: set one of them")
	case s.BuyerKey != "":
		return s.BuyerKey, nil
	case s.BuyerKeyFile != "":
		return readKey(s.BuyerKeyFile)
	}
	path := filepath.Join(cmp.Or(dataDir, postgres.DefaultDir), "buyer.key")
	key, err = readKey(path)
	if errors.Is(err, os.ErrNotExist) {
		if err = makeKey(path); err != nil {
			return "", fmt.Errorf("create the buyers' key, or set BUYER_KEY: %w", err)
		}
		key, err = readKey(path) // another process may have made it first
	}
	return key, err
}

func readKey(path string) (key Key, err error) {
	text, err := webserver.ReadFile(path)
	if err == nil {
		err = key.UnmarshalText([]byte(strings.TrimSpace(string(text))))
	}
	if err != nil {
		return "", fmt.Errorf("the buyers' key %s: %w", path, err)
	}
	return key, nil
}

// makeKey writes a file with a new key, completely or not at all. It keeps a file that exists.
func makeKey(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "buyer.key-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	secret := make([]byte, minKey)
	_, _ = rand.Read(secret) // never fails
	if _, err = fmt.Fprintln(f, hex.EncodeToString(secret)); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Link(f.Name(), path)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}
